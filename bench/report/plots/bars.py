"""The frame of figures with a line a row: engines at the left, grouped by rank count, as in the tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from bench.report.plots import style
from bench.report.rows import Row
from bench.report.table import status

BAR = 0.68  # of the height of a line
LINE = 0.31  # inches
GAP = 1.25  # lines between two rank counts
TOP = 1.5  # inches above the first line: heading, subtitle, legend, titles of the axes


@dataclass(frozen=True)
class Lines:
    """Where each row stands, top down in lines, and where each rank count's heading does."""

    rows: Sequence[Row]
    places: list[float]
    headings: list[tuple[float, int]]

    def height(self, foot: float) -> float:
        """Inches of the figure, with a caption and axis of `foot` inches."""
        return TOP + LINE * (self.places[-1] + 1.2) + foot


def lines(rows: Sequence[Row]) -> Lines:
    """Rows in the order given, parted where the rank count changes."""
    places: list[float] = []
    headings: list[tuple[float, int]] = []
    at = -1.0
    for index, row in enumerate(rows):
        if index == 0 or row.ranks != rows[index - 1].ranks:
            at += GAP if index else 0.0
            headings.append((at + (0.1 if index else 0.25), row.ranks))
        at += 1
        places.append(at)
    return Lines(rows, places, headings)


def frame(figure: Figure, axes: Sequence[Axes], shape: Lines, foot: float, *, wspace: float = 0.1) -> None:
    """Place the axes (which share their y) and write engines and rank counts at their left."""
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.115, right=0.965, top=1 - TOP / height, bottom=foot / height, wspace=wspace)
    for place in axes:
        style.clean(place, grid="x")
        place.locator_params(axis="x", nbins=6)
    first = axes[0]
    first.set_ylim(shape.places[-1] + 0.6, -0.95)
    first.set_yticks(shape.places, [f"{row.label}{' *' if row.oversubscribed else ''}" for row in shape.rows])
    across = blended_transform_factory(figure.transFigure, first.transData)
    for at, count in shape.headings:
        first.text(
            style.EDGE, at, f"{count} rank{'s' if count != 1 else ''}", transform=across, weight="bold", va="center"
        )


def say(axes: Axes, place: float, text: str) -> None:
    """In place of a bar: why there is none."""
    across = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(
        0.008, place, text, transform=across, color=style.FAINT, va="center", size=8.4, bbox=style.PAPER, clip_on=False
    )


def why_not(row: Row) -> str | None:
    """Why a row may show nothing at all: it failed, or computed something else."""
    return None if row.throughput is not None else f"{status(row)}: see below"
