"""The ring's all-reduce beside Open MPI's, gloo's and Horovod's: pools of ranks kept between rounds, every round a turn for each.

A ratio is of times in the same rounds, with its bootstrap interval; an assertion is about the end of the interval that could
break it. 4 ranks on fewer cores are oversubscribed, and say so.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.collectives import catalog, summary
from bench.collectives.catalog import Operation
from bench.collectives.hall import Hall, opened
from bench.collectives.measure import Cell
from bench.collectives.plan import VALUE_BYTES, Plan

OTHERS = ("mpi", "gloo", "horovod-gloo", "horovod-mpi")
LARGE = {
    2**20: 1.0,
    2**22: 1.0,
    2**24: 1.0,
    2**26: 1.5,
}  # bytes: the least that the best other's time may be, over the ring's
SMALL = (8, 2**10, 2**15)
LATENCY = 3.0  # the most that the ring's time may be, over Open MPI's
ROUNDS = {8: 120, 2**10: 120, 2**15: 120, 2**20: 24, 2**22: 16, 2**24: 10, 2**26: 6}


@pytest.fixture(scope="module", params=(2, 4), ids=lambda ranks: f"{ranks} ranks")
def hall(request: pytest.FixtureRequest) -> Iterator[Hall]:
    """Pools of all libraries, ready for a turn."""
    plan = Plan(
        ranks=request.param,
        sizes=tuple(ROUNDS),
        operations=catalog.OPERATIONS,
        libraries=catalog.choose(("ring", *OTHERS)),
        repeats=1,
        turn_s=0.01,
        limit_s=60,
        seed=request.param,
    )
    with Hall(plan, opened(plan), print) as made:
        yield made


def measured(
    benchmark: BenchmarkFixture, hall: Hall, operation: Operation, size: int, *names: str
) -> dict[str, dict[str, Any]]:
    """The rows by library, measured in rounds of the benchmark; the ranks' own clocks are in its extra_info."""
    plan = replace(hall.plan, libraries=catalog.choose(names or ("ring", *OTHERS)))
    cell = Cell(plan, hall, operation, plan.values(operation, size), random.Random(plan.seed))
    cell.begin()
    rounds = ROUNDS[size]
    count = iter(range(rounds))
    benchmark.pedantic(lambda: cell.round(last=next(count) == rounds - 1), rounds=rounds)
    rows = {row["library"]: row for row in cell.rows() if row["rounds"]}
    assert "ring" in rows, hall.reasons
    assert {name: row["wrong"] for name, row in rows.items()} == dict.fromkeys(rows, 0)
    cores, ranks = len(os.sched_getaffinity(0)), hall.plan.ranks
    benchmark.extra_info |= {
        "ranks": ranks,
        "cores": cores,
        "oversubscribed": ranks > cores,
        "bytes": cell.values * VALUE_BYTES,
        "missing": dict(hall.reasons),
        "order": {name: [turn["place"] for turn in row["rounds"]] for name, row in rows.items()},
    }
    for name, row in rows.items():
        clocks = np.concatenate([np.array(turn["ns"]) for turn in row["rounds"]], axis=1)  # ranks, iterations
        seconds = float(np.median(clocks.max(axis=0))) / 1e9
        benchmark.extra_info[name] = {
            "iterations": clocks.shape[1],
            "median_s": seconds,
            "p99_s": float(np.percentile(clocks.max(axis=0), 99)) / 1e9,
            "busbw_GBs": row["bytes"] / seconds * summary.factor(operation, ranks) / 1e9,
            "median_s_of_each_rank": (np.median(clocks, axis=1) / 1e9).tolist(),
        }
    return rows


def told(benchmark: BenchmarkFixture, what: str, ratio: Any) -> None:
    benchmark.extra_info["ratio: median, low, high"] = [ratio.median, ratio.low, ratio.high]
    info = benchmark.extra_info
    print(
        f"\n{info['ranks']} ranks, {info['bytes']:,} bytes: {what} {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    )


@pytest.mark.parametrize("size", LARGE)
def test_large_buffers_go_around_the_ring_faster_than_anywhere(
    benchmark: BenchmarkFixture, hall: Hall, size: int
) -> None:
    rows = measured(benchmark, hall, "all_reduce", size)
    others = [name for name in OTHERS if name in rows]
    if not others:
        pytest.skip(f"nobody to compare with: {hall.reasons}")
    best = min(others, key=lambda name: float(np.median(summary.slowest(rows[name]))))
    ratio = summary.ratio(rows[best], rows["ring"])
    told(benchmark, f"time of {best}, the best of the others, over the ring's:", ratio)
    assert ratio.low >= LARGE[size]


@pytest.mark.parametrize("size", SMALL)
def test_small_buffers_take_at_most_three_times_as_long_as_with_mpi(
    benchmark: BenchmarkFixture, hall: Hall, size: int
) -> None:
    rows = measured(benchmark, hall, "all_reduce", size, "ring", "mpi")
    if "mpi" not in rows:
        pytest.skip(f"Open MPI can't be measured here: {hall.reasons['mpi']}")
    ratio = summary.ratio(rows["ring"], rows["mpi"])
    told(benchmark, "the ring's time over Open MPI's:", ratio)
    assert ratio.high <= LATENCY


@pytest.mark.parametrize("hall", [2], indirect=True, ids=["2 ranks"])
@pytest.mark.parametrize("operation", ["reduce_scatter", "all_gather", "broadcast"])
def test_the_other_collectives_are_right_while_they_are_timed(
    benchmark: BenchmarkFixture, hall: Hall, operation: Operation
) -> None:
    measured(benchmark, hall, operation, 2**20)
