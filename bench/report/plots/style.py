"""What all figures share: an engine's colour and marker, axes, headings, and the words for what was not measured."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report import look as page
from bench.report.figures import ALARM, FAINT, INK, PAPER, STYLE
from bench.report.rows import ORDER, Group, Row
from bench.report.table import status

__all__ = ["ALARM", "FAINT", "INK", "PAPER", "STYLE"]
WIDTH = 10.0  # inches, of every figure
GRID = "#e7eaee"
EDGE = 0.018  # left edge of headings and captions, as a share of the width
COLUMNS = 160  # characters of a caption's line at its size


# matplotlib's names of the shapes that the page draws: an engine looks the same here and there
SHAPES = {"star": "*", "square": "s", "up": "^", "right": ">", "down": "v", "left": "<", "diamond": "D", "pentagon": "p",
          "circle": "o", "unknown": "P"}  # fmt: skip
SIZES = {"*": 1.5, "p": 1.15, "P": 1.2}  # these cover less than a square of their size


@dataclass(frozen=True)
class Look:
    """How one engine looks in every figure: the marker tells it where the colour can't."""

    colour: str
    marker: str
    half: bool = False  # half of the marker is empty: optimizer state on the CPU


def look(label: str) -> Look:
    """An engine's look; one that has none of its own gets a grey cross."""
    shape = page.MARKERS.get(label.removesuffix("-offload"), "unknown")
    return Look(page.COLOURS.get(page.family(label), page.UNKNOWN), SHAPES[shape], label.endswith("-offload"))


def marks(label: str, *, hollow: bool = False, size: float = 6.5) -> dict[str, Any]:
    """Keywords of `Axes.plot` for an engine's points; `hollow` where a point is no claim."""
    seen = look(label)
    open_ = hollow or seen.half
    return {
        "color": seen.colour,
        "marker": seen.marker,
        "ms": size * SIZES.get(seen.marker, 1.0),
        "mfc": "white" if hollow else seen.colour,
        "mec": seen.colour if open_ else "white",
        "mew": 1.1 if open_ else 0.6,
        "fillstyle": "left" if seen.half and not hollow else "full",
        "markerfacecoloralt": "white",
    }


def canvas(height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of the common width and `height` inches, and its axes, as `plt.subplots` makes them."""
    figure, axes = plt.subplots(figsize=(WIDTH, height), **grid)
    return figure, axes


def head(figure: Figure, heading: str, below: str) -> None:
    """Title and subtitle, at the left, 0.33 and 0.6 inches below the top."""
    height = figure.get_figheight()
    figure.text(EDGE, 1 - 0.33 / height, heading, size=13.5, weight="bold", va="center")
    figure.text(EDGE, 1 - 0.6 / height, below, size=9.5, color=FAINT, va="center")


def foot(figure: Figure, lines: Iterable[str]) -> None:
    """The caption: what the numbers are, and what is missing."""
    figure.text(
        EDGE, 0.13 / figure.get_figheight(), "\n".join(lines), size=7.6, color=FAINT, va="bottom", linespacing=1.45
    )


def foot_height(lines: Sequence[str]) -> float:
    """Inches that a caption takes, with room above it for tick labels and an axis title."""
    return 0.13 + 0.157 * len(lines) + 0.55


def wrapped(sentences: Iterable[str]) -> list[str]:
    """Sentences as lines of a caption."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, COLUMNS)]


def source(groups: Sequence[Group]) -> str:
    """Where and when: machine, dates, commits, experiments."""
    days = sorted({date[:10] for group in groups for date in group.dates})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    commits = sorted({commit for group in groups for commit in group.commits})
    experiments = sorted({group.experiment for group in groups})
    return (
        f"{groups[0].machine}; {when}; commit {', '.join(commits)}; experiment"
        f"{'s' if len(experiments) > 1 else ''} {', '.join(experiments)}."
    )


def silent(rows: Iterable[Row]) -> list[str]:
    """A sentence on each row that has no speed, or a speed that nobody checked."""
    told = []
    for row in rows:
        why = row.verdict.why if row.verdict else "; ".join(dict.fromkeys(row.failures)) or "not run"
        if row.throughput is None:
            told.append(f"Not drawn: {row.label} x{row.ranks}, {status(row)}: {why}")
        elif status(row) == "unproven":
            told.append(f"Hollow, unproven: {row.label} x{row.ranks}: {why}")
    if any(row.oversubscribed and row.throughput for row in rows):
        told.append("Hollow, *: more ranks than cores or GPUs, not a measure of scaling.")
    return list(dict.fromkeys(told))


def clean(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """No frame, faint grid, ticks without marks."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=8.5)
    axes.grid(True, axis=grid, color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def legend(figure: Figure, labels: Sequence[str], *, ideal: str | None = None) -> None:
    """Engines with their look, and what a dashed line is, below the subtitle; how many lines it takes: `legend_lines`."""
    handles = [Line2D([], [], lw=1.5, label=label, **marks(label)) for label in labels]
    if ideal:
        handles.append(Line2D([], [], lw=1.0, ls=(0, (4, 3)), color=FAINT, label=ideal))
    key(figure, handles, columns=-(-len(handles) // legend_lines(labels)), handlelength=1.9)


def legend_lines(labels: Sequence[str]) -> int:
    """Lines of a legend of engines."""
    return 1 if len(labels) <= 10 else 2


def key(figure: Figure, handles: Sequence[Any], *, columns: int, handlelength: float = 1.2) -> None:
    """A legend at the left, 0.76 inches below the top."""
    place = (EDGE - 0.006, 1 - 0.76 / figure.get_figheight())
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=columns, frameon=False, fontsize=8.6,
                  handlelength=handlelength, columnspacing=1.3, borderaxespad=0.0, handletextpad=0.5)  # fmt: skip


def top(labels: Sequence[str]) -> float:
    """Inches above the axes of a figure with a legend of engines."""
    return 1.08 + 0.2 * legend_lines(labels)


def ordered(groups: Sequence[Group]) -> list[str]:
    """The engines of the groups, each once, in the order of the tables."""
    labels = {row.label for group in groups for row in group.rows}
    return sorted(labels, key=lambda label: (ORDER.index(label) if label in ORDER else len(ORDER), label))


def hollow(row: Row) -> bool:
    """Whether a row makes no claim: more ranks than cores, or nobody checked what it computed."""
    return row.oversubscribed or status(row) == "unproven"
