"""From raw nanoseconds to what is read: times, bandwidths as the NCCL tests define them, and the ceiling that copying sets.

    algbw = S / t            S: bytes of the whole buffer; t: of an iteration on its slowest rank
    busbw = algbw * factor   2(n-1)/n all_reduce; (n-1)/n reduce_scatter, all_gather; 1 broadcast

**The ceiling.** Let C be the bytes that one process copies in a second between two buffers larger than any cache while n-1
others do the same. A copied byte is read once and written once, so a rank moves 2C bytes to and from memory. Whatever an
algorithm does, and even if all that ranks pass to each other stays in caches, a collective on buffers larger than caches must

    all_reduce       read the rank's own S, write its S                 2S        -> algbw <= C
    reduce_scatter   read its own S, write its part S/n                 S + S/n   -> algbw <= 2C n/(n+1)
    all_gather       read its own part S/n, write the other (n-1)/n S   S         -> algbw <= 2C
    broadcast        read S on the root, write S on each other          S         -> algbw <= 2C

and busbw is at most that times its factor: for all_reduce 2(n-1)/n C, with two ranks C itself. Buffers that fit into caches
can be faster, and so can those of a GPU; engines that copy through a third buffer, or a socket, are slower for that reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import stats
from bench.stats import Estimate, Samples

PERCENTILES = (50, 90, 99)
ENOUGH = 100  # iterations below which no 99th percentile is told: it would be made up between the two longest
ON_DEVICE = ("nccl",)  # libraries whose buffers lie in a GPU's memory


@dataclass(frozen=True)
class Row:
    """One library at one operation and size. Seconds, bytes per second; all None where there is a `reason`.

    `percentiles`: the last is None below ENOUGH iterations; `longest`: the longest iteration, which is then shown for it.
    """

    operation: str
    library: str
    size: int
    wrong: int | None
    reason: str | None
    time: Estimate | None = None
    percentiles: tuple[float, float, float | None] | None = None
    longest: float | None = None
    algbw: Estimate | None = None
    busbw: Estimate | None = None
    iterations: int = 0


def factor(operation: str, ranks: int) -> float:
    """busbw / algbw (nccl-tests, doc/PERFORMANCE.md)."""
    share = (ranks - 1) / ranks
    return {"all_reduce": 2 * share, "reduce_scatter": share, "all_gather": share, "broadcast": 1.0}[operation]


def slowest(row: Mapping[str, Any]) -> Samples:
    """Seconds of each iteration on its slowest rank: shape (rounds, iterations)."""
    return np.array([np.max(turn["ns"], axis=0) for turn in row["rounds"]], dtype=np.float64) / 1e9


def rows(record: Mapping[str, Any]) -> list[Row]:
    """Every row of a record, in its order. A wrong result has no speed."""
    return [_row(each, record["world"]["ranks"]) for each in record["rows"]]


def _row(raw: Mapping[str, Any], ranks: int) -> Row:
    where = (raw["operation"], raw["library"], raw["bytes"])
    if not raw["rounds"]:
        return Row(*where, raw["wrong"], raw["rounds_reason"] or "stopped before its first turn")
    if raw["wrong"]:
        return Row(*where, raw["wrong"], f"void: {raw['wrong']:,} values were wrong")
    times = slowest(raw)
    time = stats.median_interval(list(times))
    algbw = time.over(raw["bytes"])
    by = factor(raw["operation"], ranks)
    busbw = Estimate(algbw.median * by, algbw.low * by, algbw.high * by)
    p50, p90, p99 = (float(each) for each in np.percentile(times, PERCENTILES))
    known = p99 if times.size >= ENOUGH else None
    return Row(*where, 0, None, time, (p50, p90, known), float(times.max()), algbw, busbw, times.size)


def tail(row: Row) -> tuple[float, bool]:
    """Seconds of the 99th percentile, or, of too few iterations for one, of the longest; and whether it is the longest."""
    assert row.percentiles is not None
    assert row.longest is not None
    p99 = row.percentiles[2]
    return (row.longest, True) if p99 is None else (p99, False)


def copied(record: Mapping[str, Any]) -> tuple[str, Estimate] | None:
    """The faster way to copy and the bytes that a process copies with it in a second; None where nobody copied."""
    turns = [turn for turn in record["copy"]["turns"] if turn]
    if not turns:
        return None
    found = {}
    for way in turns[0][0]:
        times = [np.max([rank[way] for rank in turn], axis=0) / 1e9 for turn in turns]
        found[way] = stats.median_interval(times).over(record["copy"]["bytes"])
    best = max(found, key=lambda way: found[way].median)
    return best, found[best]


def bounded(found: Sequence[Row]) -> bool:
    """Whether any of them was measured in the host's memory, which is what the ceiling is of."""
    return any(row.time is not None and row.library not in ON_DEVICE for row in found)


def ceiling(operation: str, ranks: int, copy: float) -> float:
    """Bytes per second that busbw can't exceed on buffers larger than caches; derived above."""
    algbw = {
        "all_reduce": copy,
        "reduce_scatter": 2 * copy * ranks / (ranks + 1),
        "all_gather": 2 * copy,
        "broadcast": 2 * copy,
    }[operation]
    return algbw * factor(operation, ranks)


def ratio(first: Mapping[str, Any], second: Mapping[str, Any]) -> Estimate:
    """Time of the first raw row over that of the second, with its interval: rounds of one measurement are pairs."""
    return stats.ratio_interval(slowest(first), slowest(second), paired=True)


def size_name(size: int) -> str:
    """8, 4K, 256M: powers of 1024, as the NCCL tests take them."""
    for unit, name in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size:,}"


def select(found: Sequence[Row], operation: str) -> list[Row]:
    """The rows of one operation."""
    return [row for row in found if row.operation == operation]
