"""Throughput over ranks: every engine's median and interval, and the line of one plain process times the ranks."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import style
from bench.report.plots.series import NothingToDraw, Record, Scaling, scalings, title_of
from bench.report.rows import Group

LOG_FROM = 8  # largest over smallest rank count from which both axes are logarithmic: the ideal stays a straight line
SPREAD = 0.016  # between neighbours at one rank count, so that intervals do not hide each other; share of the x axis


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """Groups of one family; a panel for each way to scale. Raises NothingToDraw with fewer than two rank counts."""
    shown = scalings(groups)
    if not shown:
        raise NothingToDraw(
            "throughput over ranks needs runs at two rank counts or more; put them into the matrix: ranks = [1, 2]"
        )
    lines = _caption(groups, shown)
    bottom = style.foot_height(lines)
    labels = [label for label in style.ordered(groups) if any(_has_speed(each, label) for each in shown)]
    height = style.top(labels) + 3.2 + bottom
    figure, axes = style.canvas(height, nrows=1, ncols=len(shown), squeeze=False)
    figure.subplots_adjust(
        left=0.062, right=0.975, top=1 - style.top(labels) / height, bottom=bottom / height, wspace=0.16
    )
    for place, scaling in zip(axes[0], shown, strict=True):
        _panel(place, scaling)
    style.head(figure, "Throughput over ranks", title_of(groups))
    style.legend(figure, labels, ideal="ideal: single x ranks")
    style.foot(figure, lines)
    return figure


def axis_of_ranks(axes: Axes, counts: Sequence[int]) -> bool:
    """Ticks at the rank counts alone; returns whether the axis is logarithmic."""
    log = counts[-1] / counts[0] >= LOG_FROM
    if log:
        axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    reach = counts[-1] / counts[0] if log else counts[-1] - counts[0]
    if log:
        axes.set_xlim(counts[0] / reach**0.09, counts[-1] * reach**0.09)
    else:
        axes.set_xlim(counts[0] - 0.14 * reach, counts[-1] + 0.14 * reach)
    axes.set_xlabel("ranks", size=9)
    return log


def beside(axes: Axes, x: float, place: int, count: int) -> float:
    """`x` moved to the `place`-th of `count` positions around it, in data coordinates."""
    moved = axes.transData.transform((x, 1.0))[0] + (place - (count - 1) / 2) * SPREAD * axes.bbox.width
    return float(axes.transData.inverted().transform((moved, 0.0))[0])


def _has_speed(scaling: Scaling, label: str) -> bool:
    rows = [scaling.single] if label == "single" else scaling.rows.get(label, [])
    return any(row is not None and row.throughput is not None for row in rows)


def _panel(axes: Axes, scaling: Scaling) -> None:
    style.clean(axes)
    axes.set_title(f"samples/s   {scaling.heading}", loc="left", size=9.5, pad=6)
    log = axis_of_ranks(axes, scaling.counts)
    if log:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}" if value < 1 else f"{value:,.0f}")
    base = scaling.single.throughput if scaling.single else None
    if base is not None:
        ranks = np.array(axes.get_xlim())
        if not log:
            ranks = np.array([scaling.counts[0], scaling.counts[-1]])
        axes.plot(ranks, base.median * ranks, color=style.FAINT, lw=1.0, ls=(0, (4, 3)), zorder=1)
        axes.errorbar([1], [base.median], [[base.median - base.low], [base.high - base.median]], elinewidth=1.1,
                      zorder=4, **style.marks("single", size=7.5))  # fmt: skip
    drawn = [label for label in scaling.rows if _has_speed(scaling, label)]
    for place, label in enumerate(drawn):
        rows = [row for row in scaling.rows[label] if row.throughput]
        xs = [beside(axes, row.ranks, place, len(drawn)) for row in rows]
        axes.plot(
            xs,
            [row.throughput.median for row in rows if row.throughput],
            color=style.look(label).colour,
            lw=1.5,
            zorder=2,
        )
        for x, row in zip(xs, rows, strict=True):
            if (speed := row.throughput) is not None:
                axes.errorbar([x], [speed.median], [[speed.median - speed.low], [speed.high - speed.median]],
                              elinewidth=1.1, zorder=3, **style.marks(label, hollow=style.hollow(row)))  # fmt: skip
    if not log:
        axes.set_ylim(bottom=0)


def _caption(groups: Sequence[Group], shown: Sequence[Scaling]) -> list[str]:
    sentences = [
        style.source(groups),
        "Median over the steps of all runs, bars: its bootstrap 95 % interval; a step lasts as long as on its slowest rank. "
        "Points of one rank count stand side by side.",
        *(f"No ideal line: no single-process run on {each.batch} samples." for each in shown if each.single is None
          or each.single.throughput is None),
        *style.silent([row for group in groups for row in group.rows]),
    ]  # fmt: skip
    return style.wrapped(sentences)
