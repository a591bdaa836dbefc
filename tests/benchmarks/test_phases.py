"""What the clock of phases costs on a processor, as a ratio: so little that its steps are as long as any."""

import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.optim import SGD

from backends.base import EngineConfig
from backends.single import Single
from backends.world import World
from bench.measure.phases import PhaseClock
from bench.perturbed import take_steps
from tests.parity.cases import Quiet
from tests.parity.exchange import ACCUMULATION, Net, batches

ALLOWED = 0.1  # of the shortest step there is: three layers of 32 values


@pytest.mark.usefixtures("one_thread")
def test_the_clock_of_phases_costs_a_tenth_of_the_shortest_step(benchmark: BenchmarkFixture) -> None:
    backend = Single(World(), EngineConfig(accumulation=ACCUMULATION, micro_batch=4))
    backend.setup(Net(), lambda params: SGD(params, lr=0.01))
    clock = PhaseClock(torch.device("cpu"), Quiet())

    def marks() -> None:
        for _ in range(ACCUMULATION):
            for phase in ("data", "forward", "backward"):
                clock.at(0, phase)
        clock.at(0, "update")
        clock.end_step(None)

    def shortest(count: int = 200) -> float:
        found = []
        for _ in range(count):
            begin = time.perf_counter()
            marks()
            found.append(time.perf_counter() - begin)
        return min(found)

    step = min(take_steps(backend, batches, 50, ACCUMULATION, Quiet())["step"])
    own = benchmark.pedantic(shortest, rounds=1, iterations=1)
    benchmark.extra_info |= {"step_s": step, "own_share": own / step}
    assert own / step < ALLOWED
