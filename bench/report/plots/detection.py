"""What the trained models detect: metrics of the runs that were evaluated, a point a run."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only
from bench.report.rows import Group, Row
from bench.report.table import title

# title, way of looking, metric of its macro mean, what chance gives (None: depends on the images)
PANELS = (
    ("pixel AUROC", "text", "pixel_auroc", 0.5),
    ("image AUROC", "text", "image_auroc", 0.5),
    ("PRO", "text", "pro", None),
    ("balanced accuracy", "text", "balanced_accuracy", 0.5),
    ("LLM AUROC", "text", "lm_auroc", 0.5),
)


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment, the rows that were evaluated. Raises NothingToDraw where none was."""
    group = only(groups, "detection")
    rows = [row for row in group.rows if row.evaluations and row.throughput is not None]
    if not rows:
        raise NothingToDraw("no run was evaluated; train with --evaluate 60, say")
    captions = _caption(group, rows)
    shape, foot = bars.lines(rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot), nrows=1, ncols=len(PANELS), sharey=True, squeeze=False)
    bars.frame(figure, list(axes[0]), shape, foot)
    figure.subplots_adjust(top=1 - 1.25 / figure.get_figheight())
    for place, (name, mode, metric, chance) in zip(axes[0], PANELS, strict=True):
        place.set_title(name, loc="left", size=9.5, pad=4)
        _panel(place, shape, mode, metric, chance)
    style.head(figure, "What the trained models detect", title(group))
    style.foot(figure, captions)
    return figure


def values(row: Row, mode: str, metric: str) -> list[float]:
    """The macro means of a row's runs, those that have it."""
    found: list[Any] = [each[mode]["macro"].get(metric) for each in row.evaluations]
    return [value for value in found if value is not None]


def _panel(axes: Axes, shape: bars.Lines, mode: str, metric: str, chance: float | None) -> None:
    everything = [value for row in shape.rows for value in values(row, mode, metric)]
    low = min([*everything, chance if chance is not None else 1.0, 0.5])
    axes.set_xlim(low - 0.06 * (1 - low) - 0.01, 1.02 + 0.44 * (1 - low))  # room for the number at the right
    axes.set_xticks([low, 1.0] if low < 0.5 else [0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
    if chance is not None:
        axes.axvline(chance, color=style.FAINT, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for row, place in zip(shape.rows, shape.places, strict=True):
        found = values(row, mode, metric)
        if not found:
            bars.say(axes, place, "not measured")
            continue
        axes.plot(
            found,
            [place] * len(found),
            ls="",
            zorder=3,
            clip_on=False,
            **style.marks(row.label, hollow=style.hollow(row)),
        )
        axes.text(0.995, place, f"{statistics.median(found):.3f}", transform=axes.get_yaxis_transform(), ha="right", va="center",
                  size=8.8, weight="bold", bbox=style.PAPER)  # fmt: skip


def _caption(group: Group, rows: Sequence[Row]) -> list[str]:
    images = sorted({each["text"]["images"] for row in rows for each in row.evaluations})
    missing = [f"{row.label} x{row.ranks}" for row in group.rows if row not in rows and row.throughput is not None]
    reasons = sorted(
        {
            f"{name}: {reason}"
            for name, mode, metric, _ in PANELS
            for row in rows
            for each in row.evaluations
            if (reason := each[mode]["macro"].get(f"{metric}_reason"))
        }
    )
    sentences = [
        style.source([group]),
        f"{', '.join(map(str, images))} test images that nobody trained on; macro means over classes, a point a run, the number is "
        "their median. Maps from the image decoder; dashed: chance (for balanced accuracy, always Yes). LLM AUROC: of Yes minus "
        "No at the answer's first token.",
        *([f"Not evaluated: {', '.join(missing)}."] if missing else []),
        *(f"Not measured, {reason}." for reason in reasons),
        *style.silent(group.rows),
    ]
    return style.wrapped(sentences)
