"""What a prediction costs. Only ratios within one run mean anything."""

import time
from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

import model
from bench.plan.memory.closed_form import predict
from bench.plan.memory.network import anomaly
from bench.plan.setup import ENGINES, Setup


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plan(ranks: int) -> None:
    network = anomaly("7b")
    for engine in ENGINES:
        predict(network, Setup(engine=engine, ranks=ranks, micro_batch=8))


def test_more_ranks_cost_no_more(benchmark: BenchmarkFixture) -> None:
    """Records the ratio of 65,536 to 64 ranks: a closed form that looked at every rank would take a thousand times as long."""

    def ratio() -> float:
        few = min(seconds(lambda: plan(64)) for _ in range(3))
        return min(seconds(lambda: plan(65_536)) for _ in range(3)) / few

    found = benchmark.pedantic(ratio, rounds=3, warmup_rounds=1)
    benchmark.extra_info["65536 ranks / 64 ranks"] = found
    assert found < 3


def test_predicting_the_largest_costs_less_than_building_the_smallest(benchmark: BenchmarkFixture) -> None:
    """Records the ratio of all engines' predictions for `7b` to one build of `tiny`, which draws its weights."""

    def ratio() -> float:
        built = min(seconds(lambda: model.build(model.preset("tiny"))) for _ in range(3))
        return min(seconds(lambda: plan(64)) for _ in range(3)) / built

    found = benchmark.pedantic(ratio, rounds=3, warmup_rounds=1)
    benchmark.extra_info["plan of 7b / build of tiny"] = found
    assert found < 1
