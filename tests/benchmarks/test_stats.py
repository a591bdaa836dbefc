"""What statistics cost: with the pairs of a table and with the runs of a row. Only ratios mean anything."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import pairwise, ranktest, stats
from bench.pairwise import Pair, Sample


def samples(count: int, runs: int, steps: int = 10) -> list[Sample]:
    draw = np.random.default_rng(0)
    started = tuple(f"{at:06d}" for at in range(runs))
    return [
        Sample(
            label=str(at), runs=draw.lognormal(0, 0.02, (runs, steps)), started=tuple(f"{each}{at}" for each in started)
        )
        for at in range(count)
    ]


def family(count: int, runs: int) -> list[Pair]:
    return pairwise.family(list(itertools.combinations(samples(count, runs), 2)))


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


@pytest.mark.parametrize("engines", [2, 9])
def test_family(benchmark: BenchmarkFixture, engines: int) -> None:
    pairs = benchmark(family, engines, 7)
    assert len(pairs) == engines * (engines - 1) // 2


def test_a_pair_costs_the_same_in_a_small_and_a_large_family(benchmark: BenchmarkFixture) -> None:
    family(9, 7)  # what is computed once a process: the critical values

    def ratio() -> float:
        return best(lambda: family(9, 7)) / best(lambda: family(3, 7))

    measured = benchmark.pedantic(ratio, rounds=3, warmup_rounds=1)
    benchmark.extra_info["36 pairs / 3 pairs"] = measured
    assert measured < 2 * 36 / 3


def test_a_row_of_a_hundred_times_the_runs_costs_less_than_a_hundred_times(benchmark: BenchmarkFixture) -> None:
    """And no more memory than a hundred megabytes: it is drawn in parts, with fewer resamples."""
    few, many = (samples(1, runs)[0].runs for runs in (20, 2000))

    def ratio() -> float:
        return best(lambda: stats.median_interval(list(many))) / best(lambda: stats.median_interval(list(few)))

    measured = benchmark.pedantic(ratio, rounds=2, warmup_rounds=1)
    benchmark.extra_info["2000 runs / 20"] = measured
    assert measured < 100


def test_the_detectable_difference_is_simulated_once(benchmark: BenchmarkFixture) -> None:
    first = ranktest.detectable(6, 6, 0.01, 5)
    assert benchmark(ranktest.detectable, 6, 6, 0.01, 5) == first
