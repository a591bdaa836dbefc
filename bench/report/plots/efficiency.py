"""Scaling efficiency, as the README defines it: throughput over ranks times that of one rank, or of one plain process."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.report.plots import style
from bench.report.plots.series import NothingToDraw, Record, Scaling, efficiency, fair, scalings, title_of
from bench.report.plots.throughput import axis_of_ranks, beside
from bench.report.rows import Group, Row


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """Groups of one family; a line of two panels for each way to scale. Raises NothingToDraw without two fair rank counts."""
    shown = [each for each in scalings(groups) if any(len(fair(rows)) > 1 for rows in each.rows.values())]
    if not shown:
        raise NothingToDraw(
            "efficiency needs one engine at two rank counts, neither with more ranks than cores or GPUs; "
            "put them into the matrix: ranks = [1, 2]"
        )
    lines = _caption(groups, shown)
    bottom = style.foot_height(lines)
    labels = [label for label in style.ordered(groups) if label != "single"]
    top = style.top(labels) + 0.25
    height = top + 2.9 * len(shown) + 1.0 * (len(shown) - 1) + bottom
    figure, axes = style.canvas(height, nrows=len(shown), ncols=2, squeeze=False, sharey="row")
    figure.subplots_adjust(
        left=0.062, right=0.982, top=1 - top / height, bottom=bottom / height, wspace=0.08, hspace=1.0 / 2.9
    )
    for (left, right), scaling in zip(axes, shown, strict=True):
        own = {label: fair(rows)[0] for label, rows in scaling.rows.items() if fair(rows)}
        _panel(left, scaling, own, "against one rank of the same engine")
        plain = dict.fromkeys(scaling.rows, scaling.single) if scaling.single else {}
        _panel(right, scaling, plain, "against one plain process")
        left.annotate(
            scaling.heading, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", weight="bold"
        )
        left.set_ylim(0, max(1.12, *(axes.get_ylim()[1] for axes in (left, right))))
    style.head(figure, "Scaling efficiency", title_of(groups))
    style.legend(figure, labels)
    style.foot(figure, lines)
    return figure


def _panel(axes: Axes, scaling: Scaling, bases: dict[str, Row], against: str) -> None:
    style.clean(axes)
    axes.set_title(against, loc="left", size=9.5, pad=6)
    axis_of_ranks(axes, scaling.counts)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.axhline(1.0, color=style.FAINT, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for place, (label, base) in enumerate(bases.items()):
        points = []
        for row in scaling.rows[label]:
            if row.oversubscribed or (found := efficiency(row, base)) is None:
                continue
            x = beside(axes, row.ranks, place, len(bases))
            points.append((x, found.median))
            spread = None if row is base else [[found.median - found.low], [found.high - found.median]]
            axes.errorbar([x], [found.median], spread, elinewidth=1.1, zorder=3,
                          **style.marks(label, hollow=style.hollow(row)))  # fmt: skip
        axes.plot(*zip(*points, strict=True), color=style.look(label).colour, lw=1.5, zorder=2) if points else None
    if not bases:
        axes.text(0.5, 0.5, "not measured: no single-process run\non this batch", transform=axes.transAxes, ha="center",
                  color=style.FAINT, size=9, bbox=style.PAPER)  # fmt: skip


def _caption(groups: Sequence[Group], shown: Sequence[Scaling]) -> list[str]:
    rows = [row for group in groups for row in group.rows]
    left_out = sorted({f"{row.label} x{row.ranks}" for row in rows if row.oversubscribed})
    no_base = sorted({label for each in shown for label, rows in each.rows.items() if not fair(rows)})
    sentences = [
        style.source(groups),
        "Throughput over (ranks x throughput at one rank); 100 %: each rank adds as much as the first. Bars: from the ends "
        "of both 95 % intervals, so wider than 95 %.",
        *([f"Left out, more ranks than cores or GPUs: {', '.join(left_out)}."] if left_out else []),
        *([f"Not in the left panel, no run at one rank: {', '.join(no_base)}."] if no_base else []),
        *(told for told in style.silent(rows) if not told.startswith("Hollow, *")),
    ]
    return style.wrapped(sentences)
