"""The only training loop. It names no engine; it counts, divides the loss once, and asks a clock to look on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from backends.base import Backend, StepInfo
from bench.measure.clock import Clock

Batches = Callable[[int, int], Mapping[str, Tensor]]  # (step, micro-batch) -> this rank's samples


class NonFinite(RuntimeError):
    """A loss is NaN or infinite on this rank: going on would time arithmetic on nothing."""

    ringzero_cause = "non-finite"


class Watcher(Protocol):
    """Hears where the loop is, so that somebody can tell who got stuck where."""

    def at(self, step: int, phase: str) -> None: ...


@dataclass
class Step:
    """What one optimizer step gave: the parts of this rank's loss in each micro-batch, and what the engine says of it."""

    number: int
    parts: list[dict[str, float]] | list[dict[str, Tensor]]  # tensors on a GPU, where a number would wait for it
    info: StepInfo

    @cached_property
    def losses(self) -> dict[str, float]:
        """Mean of each part over the micro-batches; waits for a GPU."""
        return {name: sum(float(part[name]) for part in self.parts) / len(self.parts) for name in self.parts[0]}


def train(
    backend: Backend,
    batches: Batches,
    *,
    steps: int,
    accumulation: int,
    clock: Clock,
    watch: Watcher,
    lr: Callable[[int], float] | None = None,
    before_update: Callable[[], None] = lambda: None,
    after_update: Callable[[Step], None] = lambda step: None,
    after_step: Callable[[Step], None] = lambda step: None,
) -> list[Step]:
    """Take `steps` optimizer steps from where the backend stands; each is `accumulation` micro-batches.

    `lr` gives the learning rate of a step by its number; without it the optimizer keeps its own.
    `before_update` runs while all gradients exist, `after_update` when the step is taken, both under the clock; `after_step`
    outside it. Raises NonFinite.
    """
    done = []
    device = backend.device
    on_host = device.type == "cpu"  # elsewhere looking at a loss would wait: there, at the end
    look: Callable[[Tensor], Any] = Tensor.item if on_host else Tensor.detach

    def fetch(number: int, micro: int) -> Mapping[str, Tensor]:
        batch = batches(number, micro)
        return batch if on_host else {name: value.to(device) for name, value in batch.items()}

    for number in range(backend.steps, backend.steps + steps):
        clock.begin_step()
        parts = []
        for micro in range(accumulation):
            watch.at(number, "data")
            batch = clock.data(fetch, number, micro)
            watch.at(number, "forward")
            losses = backend.forward(batch, sync=micro == accumulation - 1)
            watch.at(number, "backward")
            backend.backward(losses.total / accumulation)
            parts.append(dict(zip(losses._fields, map(look, losses), strict=True)))
            del losses  # with it the graph, while it is in the cache
        if lr is not None:
            backend.set_lr(lr(number))
        before_update()
        watch.at(number, "update")
        step = Step(number, parts, backend.step())
        done.append(step)
        after_update(step)
        clock.end_step()
        if on_host and not all(math.isfinite(part["total"]) for part in parts):  # a sum: no number where a part is none
            check_finite(number, step.losses)
        after_step(step)
    clock.finish()
    for step in () if on_host else done:
        check_finite(step.number, step.losses)
    return done


def check_finite(step: int, losses: Mapping[str, float]) -> None:
    """Raise NonFinite naming the parts of the loss that are not numbers."""
    if bad := [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]:
        raise NonFinite(f"step {step}: {', '.join(bad)}; lower --lr, or look at the images of this step")
