"""What a replay costs at ten thousand ranks: ratios within one run, and the memory that it takes."""

import time
import tracemalloc

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.plan.simulation import circle
from bench.plan.simulation.replay import Replay, Step, gathers, replay
from bench.plan.simulation.topology import Topology

BUCKETS = 200
LARGE, SMALL = 10_000, 1_000


def nodes(ranks: int) -> Topology:
    """With everything that keeps a ring from its stride: a straggler, a slow link, racks with too few uplinks."""
    return Topology(
        ranks=ranks, per_node=8, inside=2e11, rail=2e10, rails=8, nodes_per_rack=16, oversubscription=2.0,
        stragglers={17: 1.5}, slow_links={99: 3.0},
    )  # fmt: skip


def run(ranks: int, algorithm: str, buckets: int = BUCKETS) -> Replay:
    step = Step(
        compute_s=60.0, buckets=[25e6] * buckets, jitter=0.02
    )  # each bucket begins anew, from ranks that are out of step
    return gathers(step, nodes(ranks)) if algorithm == "zero-3" else replay(step, nodes(ranks), algorithm)


def seconds(ranks: int, algorithm: str, buckets: int = BUCKETS) -> float:
    begun = time.perf_counter()
    run(ranks, algorithm, buckets)
    return time.perf_counter() - begun


@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical", "zero-3"])
def test_ten_thousand_ranks_and_two_hundred_buckets(benchmark: BenchmarkFixture, algorithm: str) -> None:
    """A ring of ten times the ranks has a hundred times the messages. It may not take a hundred times as long."""
    small = min(seconds(SMALL, algorithm) for _ in range(3))
    large = benchmark.pedantic(seconds, (LARGE, algorithm), rounds=1)
    benchmark.extra_info["10,000 ranks / 1,000 ranks"] = large / small
    benchmark.extra_info["seconds"] = large
    assert large / small < 50


def test_paths_are_found_faster_than_steps_are_taken(benchmark: BenchmarkFixture) -> None:
    draw = np.random.default_rng(0)
    start, costs = draw.exponential(1e-3, LARGE), draw.choice([1e-5, 2e-5, 9e-5], LARGE)

    def ratio() -> float:
        times = []
        for way in (circle.taken, circle.circle):
            begun = time.perf_counter()
            way(start, costs, LARGE - 1)
            times.append(time.perf_counter() - begun)
        return times[0] / times[1]

    found = benchmark.pedantic(ratio, rounds=3)
    benchmark.extra_info["steps / paths"] = found
    assert found > 3


def test_memory_does_not_grow_with_the_buckets(benchmark: BenchmarkFixture) -> None:
    def peak(buckets: int) -> int:
        tracemalloc.start()
        try:
            run(LARGE, "tree", buckets)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(10), benchmark.pedantic(peak, (BUCKETS,), rounds=1)
    benchmark.extra_info["bytes"] = many
    assert many < 2 * few
    assert many < 2e9
