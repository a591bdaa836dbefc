"""Step time against the bandwidth of the links, an axes for each number of hosts, with the points where the best engine changes."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.lab.link import Link
from bench.lab.outlook import Point, lines, rate_in_words, sentence, turns
from bench.report.plots import style
from bench.report.plots.series import NothingToDraw

BEYOND = 4.0  # how far right of the fastest link the one without a bandwidth is drawn, as a factor


def draw(found: Sequence[Point], source: str) -> Figure:
    """Raises NothingToDraw where no run finished."""
    counts = sorted({point.hosts for point in found})
    if not counts:
        raise NothingToDraw("no run of the network experiment finished")
    captions = style.wrapped(
        [*(sentence(found, hosts) for hosts in counts),
         "Both axes are logarithmic; bars are 95 % intervals of the median. Circles: where the shortest step changes its engine, "
         "on straight lines between measured links. No delay is emulated.", source]
    )  # fmt: skip
    foot = style.foot_height(captions)
    figure, grid = style.canvas(4.4 + foot, ncols=len(counts), sharey=True, squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.09, right=0.985, top=1 - 1.35 / height, bottom=foot / height, wspace=0.06)
    for axes, hosts in zip(grid[0], counts, strict=True):
        _panel(axes, [point for point in found if point.hosts == hosts], hosts)
    grid[0][0].set_ylabel("seconds a step", size=9)
    style.head(
        figure, "Step time against bandwidth", "each host has one rank; the link is the host's, in each direction"
    )
    style.legend(figure, sorted({point.label for point in found}))
    style.foot(figure, captions)
    return figure


def _panel(axes: Axes, found: Sequence[Point], hosts: int) -> None:
    """One number of hosts."""
    rates = sorted({point.rate for point in found if point.rate is not None})
    unshaped = (rates[-1] if rates else 1e9) * BEYOND
    for label in sorted({point.label for point in found}):
        mine = sorted((point for point in found if point.label == label), key=lambda point: point.rate or math.inf)
        places = [point.rate or unshaped for point in mine]
        steps = [point.step.median for point in mine]
        spread = [
            [point.step.median - point.step.low for point in mine],
            [point.step.high - point.step.median for point in mine],
        ]
        hollow = any(point.verdict != "verified" or point.shared_cores for point in mine)
        axes.errorbar(places, steps, yerr=spread, lw=1.4, elinewidth=0.8, **style.marks(label, hollow=hollow))
    axes.set_xscale("log")
    axes.set_yscale("log")
    for rate, seconds in turns(lines(found, hosts)):
        axes.plot([rate], [seconds], "o", ms=11, mfc="none", mec=style.INK, mew=1.2, zorder=5)
        axes.annotate(rate_in_words(rate), (rate, seconds), (0, -16), textcoords="offset points", ha="center", size=8)
    places = [*rates, *([unshaped] if any(point.rate is None for point in found) else [])]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "unshaped" if value == unshaped else str(Link(float(value))))
    )
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks(FuncFormatter(lambda value, _: "" if _crowded(value, *axes.get_ylim()) else f"{value:g}"))
    shared = any(point.shared_cores for point in found)
    axes.set_title(f"{hosts} hosts{' * sharing cores' if shared else ''}", loc="left", size=9.5, pad=4)
    style.clean(axes)


def _crowded(value: float, low: float, high: float) -> bool:
    """Whether a label of a long logarithmic axis would stand in the next one: 6 to 9 times a power of ten are that close."""
    return high > 5 * low and value > 5.5 * 10 ** math.floor(math.log10(value))
