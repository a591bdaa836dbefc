"""What is measured in steps of its own, after the window: phases of a step, and the communication that shows in its length.

Both come from the same step taken with and without the exchange, in one process and by turns, so that both kinds meet the same
machine. It is the one way that treats every engine alike: an engine's own timers lie where it communicates under backward, and
each calls another part of its work communication. What the exchange adds to a phase is communication, whoever does it: gathering
parameters in forward, waiting for the slower ranks in backward, norms and the sharing of updated parameters in the update.

Neither kind of step counts as training: the learning rate is 0, so parameters stay what they were.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from backends.base import Backend
from backends.saving import rng_state, set_rng_state
from bench.config import RunConfig
from bench.loop import NonFinite, Watcher, train
from bench.measure.clock import Clock
from bench.measure.phases import PhaseClock
from bench.workload import Workload

BLOCK = 2  # steps of one kind in a row: on a GPU the second is launched while the first still runs, as in training
WITH, WITHOUT = "with_exchange", "without_exchange"
Batches = Callable[[int, int], Mapping[str, Tensor]]
Take = Callable[[Backend, Batches, int, int, Watcher], dict[str, list[float]]]


def perturbed(backend: Backend, workload: Workload, config: RunConfig, watch: Watcher) -> dict[str, Any]:
    """Record fields `phases` and `exposed`; None with the reason where the run was not asked for them.

    The steps repeat the last batches before the engine's position. Optimizer state and step count are moved; generators
    are put back.
    """
    generators = rng_state()
    found: dict[str, Any] = {}
    for name, steps, take in (
        ("phases", config.measure.phase_steps, take_phases),
        ("exposed", config.measure.exposed_steps, take_steps),
    ):
        if steps:
            found |= in_turns(name, backend, workload, steps, take, watch)
        else:
            flag = f"--{name.removesuffix('s')}-steps"
            found |= {name: None, f"{name}_reason": f"the run was not asked for it ({flag} is 0)"}
    set_rng_state(generators)
    return found


def take_phases(
    backend: Backend, batches: Batches, steps: int, accumulation: int, watch: Watcher
) -> dict[str, list[float]]:
    """Seconds of each phase, raw, one a step."""
    phases = PhaseClock(backend.device, watch)
    train(
        backend,
        batches,
        steps=steps,
        accumulation=accumulation,
        clock=Clock(backend.device),
        watch=phases,
        lr=lambda step: 0.0,
        after_step=phases.end_step,
    )
    return phases.samples


def take_steps(
    backend: Backend, batches: Batches, steps: int, accumulation: int, watch: Watcher
) -> dict[str, list[float]]:
    """Seconds of whole steps, under the clock of the measured window: no synchronisation inside."""
    clock = Clock(backend.device)
    train(backend, batches, steps=steps, accumulation=accumulation, clock=clock, watch=watch, lr=lambda step: 0.0)
    return {"step": clock.step_s}


def in_turns(name: str, backend: Backend, workload: Workload, steps: int, take: Take, watch: Watcher) -> dict[str, Any]:
    """`steps` steps of each kind in blocks, two blocks to a pair, their order drawn anew in each pair; raw samples of every rank.

    All ranks start a block together; within one without exchange nothing holds them together.
    """
    training = workload.config.training
    draw = random.Random(workload.config.workload.seed)  # the same order on every rank
    order: list[str] = []
    samples: dict[str, dict[str, list[float]]] = {WITH: {}, WITHOUT: {}}
    end = backend.steps
    recent = min(end, workload.steps)  # their samples were made ahead of the window, and are kept
    for done in range(0, steps, BLOCK):
        for kind in draw.sample((WITH, WITHOUT), 2):

            def batches(step: int, micro: int, first: int = backend.steps - done) -> Mapping[str, Tensor]:
                return workload.batches(end - 1 - (step - first) % recent, micro)

            count, problem = min(BLOCK, steps - done), None
            backend.gather(None)
            if kind == WITH:
                taken = take(backend, batches, count, training.accumulation, watch)
            else:
                try:
                    with backend.without_exchange():
                        taken = take(backend, batches, count, training.accumulation, watch)
                except NonFinite as error:  # of one rank's own making: the training itself is whole
                    problem = f"without the exchange, {error}"
            if problem := next((said for said in backend.gather(problem) if said), None):
                return {name: None, f"{name}_reason": problem}
            order.append(kind)
            for what, values in taken.items():
                samples[kind].setdefault(what, []).extend(values)
    return {
        name: {"perturbed": True, "unit": "s", "block": BLOCK, "order": order, "ranks": backend.gather(samples)},
    }
