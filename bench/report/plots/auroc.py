"""What the model detects while it trains: AUROC over steps, and over the seconds that training took."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import style
from bench.report.plots.loss import widest
from bench.report.plots.series import NothingToDraw, Record, only, records_of
from bench.report.rows import Group, Row
from bench.report.table import status, title

METRICS = (("pixel_auroc", "pixel AUROC"), ("image_auroc", "image AUROC"))


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment: of each engine the row with most ranks, its first run. Raises NothingToDraw where none has a curve."""
    group = only(groups, "auroc")
    rows = [row for row in widest(group.rows) if row.throughput is not None]
    shown = [(row, runs[0]["curve"]) for row in rows if (runs := records_of(row, records)) and runs[0].get("curve")]
    if not shown:
        raise NothingToDraw("no run was evaluated while it trained; train with --evaluate 60 --evaluate-every 5, say")
    lines = _caption(group, shown)
    bottom, labels = style.foot_height(lines), [row.label for row, _ in shown]
    height = style.top(labels) + 5.4 + bottom
    figure, grid = style.canvas(height, nrows=2, ncols=2, sharey="row", sharex="col")
    figure.subplots_adjust(
        left=0.062, right=0.982, top=1 - style.top(labels) / height, bottom=bottom / height, wspace=0.06, hspace=0.22
    )
    for pair, (metric, name) in zip(grid, METRICS, strict=True):
        for axes, across in zip(pair, ("step", "seconds"), strict=True):
            style.clean(axes)
            axes.set_title(f"{name} over {'steps' if across == 'step' else 'time'}", loc="left", size=9.5, pad=6)
            for place, (row, curve) in enumerate(shown):
                _line(axes, row, curve, metric, across, place, len(shown))
            target = shown[0][1]["target"] if shown[0][1]["metric"] == metric else None
            if target is not None:
                axes.axhline(target, color=style.FAINT, lw=1.0, ls=(0, (4, 3)), zorder=1)
            axes.set_xlim(left=0)
    grid[1][0].set_xlabel("step", size=9)
    grid[1][1].set_xlabel("seconds of training", size=9)
    style.head(figure, "What the model detects while it trains", title(group))
    style.legend(figure, labels, ideal="target" if shown[0][1]["target"] is not None else None)
    style.foot(figure, lines)
    return figure


def _line(axes: Axes, row: Row, curve: Mapping[str, Any], metric: str, across: str, place: int, count: int) -> None:
    """Lines that lie on one another take turns with their markers."""
    points = [(point[across], point[metric]) for point in curve["points"] if point[metric] is not None]
    look = style.marks(row.label, hollow=status(row) == "unproven", size=5.5)
    turns = (place % max(1, len(points)), max(1, min(count, len(points))))
    axes.plot([x for x, _ in points], [y for _, y in points], lw=1.4, markevery=turns, zorder=2, **look)


def _caption(group: Group, shown: Sequence[tuple[Row, Mapping[str, Any]]]) -> list[str]:
    images = sorted({point["images"] for _, curve in shown for point in curve["points"]})
    reached = [
        f"{row.label} x{row.ranks} in {curve['time_to_target_s']:.2f} s"
        if curve["time_to_target_s"] is not None
        else f"{row.label} x{row.ranks} never ({curve['time_to_target_s_reason']})"
        for row, curve in shown
        if curve["target"] is not None
    ]
    sentences = [
        style.source([group]),
        f"{', '.join(map(str, images))} test images that nobody trained on, the decoder's map, mean over classes. Time: the "
        "slowest rank's steps, added up; the clock stands still for each evaluation. Each engine at its most ranks, first run.",
        *([f"Target reached: {'; '.join(reached)}."] if reached else []),
    ]
    return style.wrapped(sentences)
