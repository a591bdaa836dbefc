"""What was measured, as tables: in the terminal libraries over sizes, in Markdown every number of every row."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.collectives import summary
from bench.collectives.summary import Row, size_name
from bench.stats import Estimate

GB = 1e9
GAP = 2  # characters between columns
LARGE = 4096  # bytes: below, what counts is latency
TITLES = {
    "all_reduce": "all-reduce",
    "reduce_scatter": "reduce-scatter",
    "all_gather": "all-gather",
    "broadcast": "broadcast",
}
COLUMNS = (
    "bytes",
    "library",
    "median µs",
    "95 % interval",
    "p50",
    "p90",
    "p99",
    "algbw GB/s",
    "busbw GB/s",
    "95 % interval",
    "#wrong",
    "iterations",
)


def show(record: Mapping[str, Any], width: int) -> Group:
    """For a terminal of `width` characters: of each operation the times and the bus bandwidths, then what was not measured."""
    found = summary.rows(record)
    parts: list[Any] = []
    for operation in dict.fromkeys(row.operation for row in found):
        chosen = summary.select(found, operation)
        parts += [
            *_matrices(
                f"{TITLES[operation]}, {world(record)}: µs, median over p99 or max", chosen, _time, width, best=min
            ),
            *_matrices(
                f"{TITLES[operation]}: busbw GB/s, median over its 95 % interval",
                _large(chosen),
                _busbw,
                width,
                best=max,
            ),
            *(Text(line, "dim") for line in ceiling_lines(record, operation)),
            Text(""),
        ]
    return Group(*parts, *(Text(f"! {line}", "yellow") for line in lacking(found)))


def markdown(record: Mapping[str, Any]) -> str:
    """Every row with all its numbers, one table an operation."""
    found = summary.rows(record)
    lines: list[str] = []
    for operation in dict.fromkeys(row.operation for row in found):
        lines += [
            f"**{TITLES[operation]}, {world(record)}**",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|---:|---|{'---:|' * (len(COLUMNS) - 2)}",
        ]
        chosen = summary.select(found, operation)
        lines += [_line(row) for row in sorted(chosen, key=lambda row: row.size) if row.time is not None]
        lines += ["", *(line for said in ceiling_lines(record, operation) for line in (said, ""))]
    return "\n".join([*lines, *(f"- {line}" for line in lacking(found)), "", FOOT, ""])


FOOT = (
    "time: of an iteration on its slowest rank; interval: bootstrap over rounds and iterations. p99: of fewer than "
    f"{summary.ENOUGH} iterations the longest, marked max. algbw = S/t, busbw = algbw times "
    "2(n-1)/n (all-reduce), (n-1)/n (reduce-scatter, all-gather), 1 (broadcast), as the NCCL tests define them; GB = 10^9 bytes."
)


def world(record: Mapping[str, Any]) -> str:
    """Ranks, and whether they have cores of their own."""
    ranks, cores = record["world"]["ranks"], record["world"]["cores"]
    return f"{ranks} ranks" + (f" on {cores} cores: oversubscribed" if record["world"]["oversubscribed"] else "")


def ceiling_lines(record: Mapping[str, Any], operation: str) -> list[str]:
    """The machine's copies, and what follows for busbw; none where nothing was measured in the host's memory."""
    if not summary.bounded(summary.select(summary.rows(record), operation)):
        return []
    copied = summary.copied(record)
    if copied is None:
        return [f"ceiling of {TITLES[operation]}: not known, nobody copied"]
    way, speed = copied
    ranks = record["world"]["ranks"]
    top = summary.ceiling(operation, ranks, speed.median)
    return [
        f"ceiling of {TITLES[operation]}: busbw {top / GB:.1f} GB/s of libraries in host memory, for buffers larger than caches, "
        f"from {_range(speed)} GB/s that a process copies ({way}, bytes copied, {ranks} processes at once)"
    ]


def lacking(found: Sequence[Row]) -> list[str]:
    """What has no speed and why, each reason once, with the operations, and the sizes where it is not all of them."""
    sizes = {operation: sorted({row.size for row in summary.select(found, operation)}) for operation in TITLES}
    reasons: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in found:
        if row.reason is not None:
            reasons.setdefault((row.library, row.reason), {}).setdefault(row.operation, []).append(row.size)
    said = []
    for (library, reason), where in reasons.items():
        parts = []
        for operation, lost in where.items():
            these = "" if sorted(lost) == sizes[operation] else " " + ", ".join(size_name(each) for each in lost)
            parts.append(TITLES[operation] + these)
        said.append(f"{library}: {reason} ({'; '.join(parts)})")
    return said


def _large(chosen: Sequence[Row]) -> Sequence[Row]:
    """Rows of sizes where bandwidth means something; all where there are no others."""
    return [row for row in chosen if row.size >= LARGE] or chosen


def _matrices(title: str, chosen: Sequence[Row], cell: Any, width: int, *, best: Any) -> list[Table]:
    """As many tables below each other as the width asks for; the first has the title."""
    sizes = sorted({row.size for row in chosen})
    name = max(map(len, ["library", *(row.library for row in chosen)])) + GAP
    widest = max((len(below) for row in chosen for _, below in cell(row)), default=0) + GAP
    each = max(1, (width - name) // widest)
    parts = [sizes[at : at + each] for at in range(0, len(sizes), each)]
    return [
        _matrix(title if number == 0 else None, [row for row in chosen if row.size in part], cell, best=best)
        for number, part in enumerate(parts)
    ]


def _matrix(title: str | None, chosen: Sequence[Row], cell: Any, *, best: Any) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("library", no_wrap=True)
    sizes = sorted({row.size for row in chosen})
    for size in sizes:
        table.add_column(size_name(size), justify="right", no_wrap=True)
    at = {(row.library, row.size): row for row in chosen}
    values = {size: [value for row in chosen if row.size == size for value, _ in cell(row)[:1]] for size in sizes}
    for library in dict.fromkeys(row.library for row in chosen):
        cells = []
        for size in sizes:
            shown = cell(at[library, size])
            if not shown:
                cells.append(
                    Text("void" if at[library, size].wrong else "-", "red" if at[library, size].wrong else "dim")
                )
                continue
            value, below = shown[0]
            cells.append(
                Text(_number(value), "bold green" if value == best(values[size]) else "").append(
                    f"\n{below}", "not bold dim"
                )
            )
        if any(cell(at[library, size]) or at[library, size].wrong for size in sizes):
            table.add_row(library, *cells)
    return table


def _time(row: Row) -> list[tuple[float, str]]:
    if row.time is None or row.percentiles is None:
        return []
    return [(row.time.median * 1e6, _tail(row))]


def _tail(row: Row) -> str:
    """The 99th percentile, or the longest, labelled so."""
    seconds, longest = summary.tail(row)
    return f"{'max ' if longest else ''}{_number(seconds * 1e6)}"


def _busbw(row: Row) -> list[tuple[float, str]]:
    return [] if row.busbw is None else [(row.busbw.median / GB, _ends(row.busbw))]


def _line(row: Row) -> str:
    assert row.time is not None
    assert row.percentiles is not None
    assert row.algbw is not None
    assert row.busbw is not None
    micro = [_number(each * 1e6) for each in (row.time.median, row.time.low, row.time.high, *row.percentiles[:2])]
    cells = [
        f"{row.size:,}",
        row.library,
        micro[0],
        f"{micro[1]}–{micro[2]}",
        *micro[3:],
        _tail(row),
        _number(row.algbw.median / GB),
        _number(row.busbw.median / GB),
        _ends(row.busbw),
        str(row.wrong),
        f"{row.iterations:,}",
    ]
    return f"| {' | '.join(cells)} |"


def _ends(speed: Estimate) -> str:
    return f"{_number(speed.low / GB)}–{_number(speed.high / GB)}"


def _range(speed: Estimate) -> str:
    return f"{speed.median / GB:.1f} ({speed.low / GB:.1f}–{speed.high / GB:.1f})"


def _number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
