"""What a step is made of, phase by phase, and how much communication shows in its length."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.report.look import PHASES
from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only
from bench.report.rows import Group, Row
from bench.report.table import number, title

COLOURS = {name: pair[0] for name, pair in PHASES.items()}  # of the page


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment. Raises NothingToDraw where no run took steps for it."""
    group = only(groups, "phases")
    tops = [sum(row.phases.values()) * 1e3 for row in group.rows if row.phases]
    if not tops:
        raise NothingToDraw("phases were not measured; run with --phase-steps 3 and --exposed-steps 8")
    captions = _caption(group)
    shape, foot = bars.lines(group.rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot))
    bars.frame(figure, [axes], shape, foot)
    figure.subplots_adjust(right=0.78)
    axes.set_xlim(0, max(tops) * 1.08)
    axes.set_title("ms of a step: mean over ranks, median over perturbed steps", loc="left", size=9.5, pad=4)
    axes.text(1.015, 1, "exposed communication\nms a step    share, 95 %", transform=axes.transAxes, size=8.4,
              color=style.FAINT, va="bottom")  # fmt: skip
    for row, place in zip(group.rows, shape.places, strict=True):
        if row.phases is None:
            bars.say(axes, place, bars.why_not(row) or "not measured")
        else:
            _stack(axes, row, place)
    style.head(figure, "What a step is made of", title(group))
    style.key(figure, [Patch(color=colour, label=name) for name, colour in COLOURS.items()], columns=len(COLOURS))
    style.foot(figure, captions)
    return figure


def _stack(axes: Axes, row: Row, place: float) -> None:
    at = 0.0
    assert row.phases is not None
    for name, seconds in row.phases.items():
        axes.barh(place, seconds * 1e3, bars.BAR, left=at, color=COLOURS[name], zorder=2, ec="white", lw=0.5)
        at += seconds * 1e3
    axes.annotate(number(at), (at, place), (5, 0), textcoords="offset points", va="center", size=8.4, bbox=style.PAPER)
    share = row.exposed_share
    if row.exposed is None or share is None:
        text = "not measured"
    else:
        text = f"{number(row.exposed.median * 1e3):>6}    {100 * share.median:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
    axes.text(1.015, place, text, transform=axes.get_yaxis_transform(), va="center", size=8.8)


def _caption(group: Group) -> list[str]:
    sentences = [
        style.source([group]),
        "Phases: steps after the window, under clocks that wait for the device. Communication: what the same step takes longer "
        "with the exchange than without, waiting for other ranks included; the other phases are those without.",
        "Exposed communication: the slowest rank's median step with the exchange less that without, in steps without clocks "
        "inside, by turns in one process; interval: bootstrap. What hides under other work is in neither.",
        *(told for told in style.silent(group.rows) if told.startswith("Not drawn")),
    ]
    return style.wrapped(sentences)
