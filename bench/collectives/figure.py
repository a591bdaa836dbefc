"""Two figures of a measurement: bus bandwidth over size, under the ceiling that copying sets, and latency over size."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.collectives import summary
from bench.collectives.catalog import LIBRARIES
from bench.collectives.summary import Row, size_name
from bench.collectives.table import GB, TITLES, ceiling_lines, lacking, world
from bench.report.look import COLOURS
from bench.report.plots import catalog, style
from bench.report.plots.series import NothingToDraw

# The engines' colours; what is no engine's own has the colour of the engine that stands on it. Line and marker tell the rest.
LOOKS: dict[str, tuple[str, str, str]] = {
    "ring": (COLOURS["ring"], "p", "-"),
    "ring-mpi": (COLOURS["ring"], "s", "--"),
    "ring-torch": (COLOURS["ring"], "D", ":"),
    "ring-naive": ("#882255", "v", ":"),
    "ring-doubling": ("#882255", "^", "--"),
    "ring-halving": ("#882255", ">", "-."),
    "mpi": ("#1b1f24", "o", "-"),
    "gloo": (COLOURS["ddp"], "o", "-"),
    "horovod-gloo": (COLOURS["horovod"], "D", "-"),
    "horovod-mpi": (COLOURS["horovod"], "s", "--"),
    "deepspeed": (COLOURS["zero"], "^", "--"),
    "deepspeed-shm": (COLOURS["zero"], "v", "-"),
    "nccl": (COLOURS["fsdp"], "s", "-"),
}
PANEL = 3.1  # inches
TICKS = 7  # of the sizes, at the most
Draw = Callable[[Mapping[str, Any]], Figure]


def busbw(record: Mapping[str, Any]) -> Figure:
    """One panel an operation: GB/s over bytes, the interval as a band. Raises NothingToDraw where nothing was measured."""

    def panel(axes: Axes, operation: str, rows: Sequence[Row]) -> None:
        _lines(axes, rows, lambda row: _scaled(row.busbw, 1 / GB))
        top = max(row.busbw.high for row in rows if row.busbw is not None) / GB
        if summary.bounded(rows) and (copied := summary.copied(record)) is not None:
            ceiling = summary.ceiling(operation, record["world"]["ranks"], copied[1].median) / GB
            axes.axhline(ceiling, color=style.INK, lw=1.2, ls=(0, (5, 3)), zorder=1)
            axes.annotate(f"ceiling from copies, host memory: {ceiling:.1f}", (0.01, ceiling), (0, 3), size=8, va="bottom",
                          xycoords=("axes fraction", "data"), textcoords="offset points", bbox=style.PAPER)  # fmt: skip
            top = max(top, ceiling)
        axes.set_ylim(0, top * 1.12)

    captions = [line for operation in record["plan"]["operations"] for line in ceiling_lines(record, operation)]
    return _figure(record, "Bus bandwidth of the collectives", "GB/s", panel, captions)


def latency(record: Mapping[str, Any]) -> Figure:
    """One panel an operation: microseconds over bytes, from the median to the 99th percentile, or the longest, as a band."""

    def panel(axes: Axes, operation: str, rows: Sequence[Row]) -> None:
        _lines(axes, rows, _times)
        axes.set_yscale("log")

    few = any(row.time is not None and summary.tail(row)[1] for row in summary.rows(record))
    captions = [
        "Median over iterations, each on its slowest rank; the band goes up to the 99th percentile"
        + (f", of fewer than {summary.ENOUGH} iterations to the longest." if few else ".")
    ]
    return _figure(record, "Latency of the collectives", "µs", panel, captions)


FIGURES: dict[str, Draw] = {"busbw": busbw, "latency": latency}


def write(record: Mapping[str, Any], stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Files `stem`-busbw.png and so on. Raises NothingToDraw."""
    written = []
    with plt.rc_context(style.STYLE):
        for name, draw in FIGURES.items():
            written += catalog.save(draw(record), stem.with_name(f"{stem.name}-{name}"), formats)
    return written


def _figure(
    record: Mapping[str, Any],
    heading: str,
    unit: str,
    panel: Callable[[Axes, str, Sequence[Row]], None],
    captions: Sequence[str],
) -> Figure:
    found = [row for row in summary.rows(record) if row.time is not None]
    operations = [name for name in record["plan"]["operations"] if summary.select(found, name)]
    if not operations:
        raise NothingToDraw("no library was measured; the record says why, library by library")
    labels = [name for name in LIBRARIES if any(row.library == name for row in found)]
    told = style.wrapped([_source(record), *dict.fromkeys(captions), *_missing(record)])
    lines = -(-len(labels) // 7)
    deep, foot, above = -(-len(operations) // 2), style.foot_height(told), 1.2 + 0.2 * lines
    height = above + foot + PANEL * deep + 0.5 * (deep - 1)
    figure, grid = style.canvas(height, nrows=deep, ncols=min(2, len(operations)), squeeze=False)
    figure.subplots_adjust(left=0.065, right=0.985, top=1 - above / height, bottom=foot / height, wspace=0.13,
                           hspace=0.5 / PANEL)  # fmt: skip
    for axes, operation in zip(grid.flat, operations, strict=False):
        style.clean(axes)
        axes.set_xscale("log", base=2)
        rows = summary.select(found, operation)
        panel(axes, operation, rows)
        sizes = sorted({row.size for row in rows})
        shown = sizes[:: -(-len(sizes) // TICKS)]
        axes.set_xticks(shown, [size_name(size) for size in shown])
        axes.set_xticks([], minor=True)
        axes.set_title(f"{TITLES[operation]}, {unit}", loc="left", size=9.5, pad=6)
    for axes in grid.flat[len(operations) :]:
        axes.set_visible(False)
    style.head(figure, heading, f"{world(record)}, fp32, one thread a rank; over bytes of the whole buffer")
    handles = [Line2D([], [], label=label, **_marks(label)) for label in labels]
    style.key(figure, handles, columns=-(-len(labels) // lines), handlelength=2.2)
    style.foot(figure, told)
    return figure


def _lines(axes: Axes, rows: Sequence[Row], of: Callable[[Row], tuple[float, float, float]]) -> None:
    for library in dict.fromkeys(row.library for row in rows):
        mine = sorted((row for row in rows if row.library == library), key=lambda row: row.size)
        places, points = [row.size for row in mine], [of(row) for row in mine]
        hollow = {"mfc": "white"} if library != "ring" else {}
        axes.plot(places, [middle for middle, _, _ in points], **(_marks(library) | hollow), zorder=3)
        axes.fill_between(places, [low for _, low, _ in points], [high for _, _, high in points],
                          color=LOOKS[library][0], alpha=0.12, lw=0, zorder=2)  # fmt: skip


def _marks(library: str) -> dict[str, Any]:
    colour, marker, line = LOOKS[library]
    wide = 2.4 if library == "ring" else 1.3
    return {"color": colour, "marker": marker, "ls": line, "lw": wide, "ms": 5.5 if library == "ring" else 4.2,
            "mec": colour, "mfc": colour if library == "ring" else "white"}  # fmt: skip


def _scaled(speed: Any, by: float) -> tuple[float, float, float]:
    return speed.median * by, speed.low * by, speed.high * by


def _times(row: Row) -> tuple[float, float, float]:
    assert row.time is not None
    return row.time.median * 1e6, row.time.median * 1e6, summary.tail(row)[0] * 1e6


def _source(record: Mapping[str, Any]) -> str:
    seen = record["environment"]
    return f"{seen['machine']['cpu']}; {record['started'][:10]}; commit {seen['commit']}; {record['plan']['repeats']} rounds."


def _missing(record: Mapping[str, Any]) -> list[str]:
    return [f"Not drawn: {line}." for line in lacking(summary.rows(record))]
