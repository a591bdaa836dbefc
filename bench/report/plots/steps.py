"""How long each step took: every raw sample, with quartiles and median."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from bench import stats
from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only, records_of, slowest
from bench.report.rows import Group, Row
from bench.report.table import number, title

LOG_FROM = 12.0  # longest over shortest step from which the axis is logarithmic


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment. Raises NothingToDraw where no run may show its speed."""
    group = only(groups, "steps")
    found = [_samples(row, records) for row in group.rows]
    every = np.concatenate([each.ravel() for each in found if each is not None] or [np.empty(0)])
    if not every.size:
        raise NothingToDraw("no step may be shown: every run failed or is void")
    captions = _caption(group)
    shape, foot = bars.lines(group.rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot))
    bars.frame(figure, [axes], shape, foot)
    figure.subplots_adjust(right=0.86, top=1 - 1.15 / figure.get_figheight())
    if every.max() / every.min() >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.minorticks_off()
        axes.set_xlim(every.min() * 0.85, every.max() * 1.2)
    else:
        axes.set_xlim(0, every.max() * 1.04)
    axes.set_title("ms a step, of the slowest rank", loc="left", size=9.5, pad=4)
    axes.text(1.012, 1, "median    outliers", transform=axes.transAxes, size=8.4, color=style.FAINT, va="bottom")
    for row, place, samples in zip(group.rows, shape.places, found, strict=True):
        if samples is None:
            bars.say(axes, place, bars.why_not(row) or "not measured")
        else:
            _strip(axes, row, place, samples)
    style.head(figure, "Every step", title(group))
    style.foot(figure, captions)
    return figure


def _samples(row: Row, records: Sequence[Record]) -> NDArray[np.float64] | None:
    """Milliseconds of the steps of a row's runs, shape (runs, steps); None where it may not speak."""
    runs = records_of(row, records)
    return stats.stack([slowest(record) for record in runs]) * 1e3 if runs else None


def _strip(axes: Axes, row: Row, place: float, samples: NDArray[np.float64]) -> None:
    colour = style.look(row.label).colour
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
    axes.barh(place, high - low, 0.62, left=low, facecolor="none" if style.hollow(row) else colour + "38", ec=colour, lw=0.9,
              zorder=2)  # fmt: skip
    jitter = np.random.default_rng(0).uniform(
        -0.26, 0.26, samples.size
    )  # up and down only, so that equal steps are seen
    look = style.marks(row.label, hollow=style.hollow(row), size=4.2) | {"mew": 0.5}
    axes.plot(samples.ravel(), place + jitter, ls="", zorder=3, alpha=0.85, **look)
    axes.plot([median, median], [place - 0.4, place + 0.4], color=style.INK, lw=1.6, zorder=4)
    for at, text in ((1.06, number(float(median))), (1.125, f"{stats.outliers(samples)} of {samples.size}")):
        axes.text(at, place, text, transform=axes.get_yaxis_transform(), ha="right" if at < 1.1 else "center", va="center",
                  size=8.8, weight="bold" if at < 1.1 else "normal")  # fmt: skip


def _caption(group: Group) -> list[str]:
    sentences = [
        style.source([group]),
        f"A point a step, all runs of a row; box: the middle half; line: the median. Outliers, beyond "
        f"{stats.FENCE} interquartile ranges of their run (Tukey 1977), stay in every statistic.",
        *style.silent(group.rows),
    ]
    return style.wrapped(sentences)
