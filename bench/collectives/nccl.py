"""The same rows in the columns of NVIDIA's nccl-tests (src/util.cu), for tools that read those: one table a library and operation."""

from collections.abc import Mapping
from typing import Any

from bench.collectives import summary
from bench.collectives.catalog import LIBRARIES
from bench.collectives.plan import VALUE_BYTES
from bench.collectives.summary import Row

PROGRAMS = {name: f"{name}_perf" for name in ("all_reduce", "reduce_scatter", "all_gather", "broadcast")}
REDUCTIONS = {"all_reduce": "sum", "reduce_scatter": "sum"}
PARTS = ("reduce_scatter", "all_gather")  # their count is that of a rank's part
HALF = "  {:>7}  {:>6}  {:>6}  {:>6}"
NOT_MEASURED = HALF.format(*["N/A"] * 4)


def show(record: Mapping[str, Any]) -> str:
    """Time is the median over iterations, each on its slowest rank; the half of a line that was not measured says N/A."""
    found = summary.rows(record)
    blocks = []
    for operation in dict.fromkeys(row.operation for row in found):
        for library in dict.fromkeys(row.library for row in found):
            chosen = [row for row in summary.select(found, operation) if row.library == library]
            blocks.append(_block(record, operation, library, chosen))
    return "\n".join(blocks)


def _block(record: Mapping[str, Any], operation: str, library: str, rows: list[Row]) -> str:
    plan, world = record["plan"], record["world"]
    lines = [
        f"# Collective test starting: {PROGRAMS[operation]}",
        f"# library {library} ranks {world['ranks']} minBytes {plan['sizes'][0]} maxBytes {plan['sizes'][-1]} rounds: "
        f"{plan['repeats']} seed: {plan['seed']} validation: 1",
        "# time: median over iterations of the slowest rank's",
    ]
    lines += [
        f"# {size_reason}" for size_reason in dict.fromkeys(f"not measured: {r.reason}" for r in rows if r.reason)
    ]
    lines += ["#", *header()]
    measured = [row for row in rows if row.busbw is not None or row.wrong]
    ranks = world["ranks"]
    lines += [_line(row, ranks) for row in measured]
    wrong = sum(row.wrong or 0 for row in measured)
    speeds = [row.busbw.median / 1e9 for row in measured if row.busbw is not None]
    lines += [
        f"# {'Out of bounds values':<20} : {wrong} {'FAILED' if wrong else 'OK'}",
        f"# {'Avg bus bandwidth':<20} : {sum(speeds) / len(speeds) if speeds else 0:g} ",
        "#",
        f"# Collective test concluded: {PROGRAMS[operation]}",
        "#",
        "",
    ]
    return "\n".join(lines)


def header() -> list[str]:
    """The three lines above the numbers, as nccl-tests 2.19 prints them."""
    names = ("time", "algbw", "busbw", "#wrong")
    units = ("(us)", "(GB/s)", "(GB/s)", "")
    columns = "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}" + "  {:>7}  {:>6}  {:>6}  {:>6}" * 2 + " "
    return [
        "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}           out-of-place                       in-place          ".format(
            *[""] * 5
        ),
        columns.format("size", "count", "type", "redop", "root", *names, *names),
        columns.format("(B)", "(elements)", "", "", "", *units, *units),
    ]


def _line(row: Row, ranks: int) -> str:
    count = row.size // VALUE_BYTES // (ranks if row.operation in PARTS else 1)
    root = 0 if row.operation == "broadcast" else -1
    start = f"{row.size:>12}  {count:>12}  {'float':>8}  {REDUCTIONS.get(row.operation, 'none'):>6}  {root:>6}"
    if row.time is None or row.algbw is None or row.busbw is None:
        half = HALF.format("N/A", "N/A", "N/A", f"{row.wrong:g}")
    else:
        half = HALF.format(
            number(row.time.median * 1e6, 7),
            number(row.algbw.median / 1e9, 6),
            number(row.busbw.median / 1e9, 6),
            f"{row.wrong or 0:g}",
        )
    return start + (
        half + NOT_MEASURED if row.operation in PARTS and LIBRARIES[row.library].elsewhere else NOT_MEASURED + half
    )


def number(value: float, width: int) -> str:
    """As many digits behind the point as there is room for, two at the most (getFloatStr)."""
    for digits in (2, 1, 0):
        if len(text := f"{value:{width}.{digits}f}") <= width:
            return text
    return f"{value:{width}.{1 if width >= 7 else 0}e}"
