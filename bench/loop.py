"""The only training loop. It names no engine; it counts, divides the loss once, and asks a clock to look on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from backends.base import Backend, StepInfo
from bench.measure.clock import Clock

LOOK_EVERY = 100  # steps: elsewhere than on a CPU values are read so seldom: a look waits for all that is queued
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
    parts: list[dict[str, float]] | list[dict[str, Tensor]]  # tensors on a GPU until `settle`: numbers would wait
    info: StepInfo

    def settle(self) -> None:
        """Numbers in the place of tensors; waits for a GPU."""
        self.parts = [{name: float(value) for name, value in part.items()} for part in self.parts]
        self.info = replace(self.info, grad_norm=self.grad_norm)

    @property
    def grad_norm(self) -> float | None:
        """The engine's, as a number; waits for a GPU."""
        norm = self.info.grad_norm
        return None if norm is None else float(norm)

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
    outside it. Raises NonFinite. The steps that come back hold numbers, on every device.
    """
    done: list[Step] = []
    device = backend.device
    on_host = device.type == "cpu"  # elsewhere looking at a loss would wait: there, after many steps
    look: Callable[[Tensor], Any] = Tensor.item if on_host else Tensor.detach

    for number in range(backend.steps, backend.steps + steps):
        clock.begin_step()
        parts = []
        for micro in range(accumulation):
            watch.at(number, "data")
            batch = clock.data(batches, number, micro)
            if not on_host:
                batch = moved(batch, device)
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
        if not on_host and len(done) % LOOK_EVERY == 0:  # tensors don't pile up, and a NaN is not trained on for long
            clock.finish()  # what was timed so far is there, should a loss be none
            settle(done[-LOOK_EVERY:])
        elif on_host and not all(math.isfinite(part["total"]) for part in parts):  # a sum: none where a part is none
            check_finite(number, step.losses)
        after_step(step)
    clock.finish()
    if not on_host:
        settle(done[len(done) // LOOK_EVERY * LOOK_EVERY :])
    return done


def moved(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on its way to a device; from pinned memory, since a copy from any other waits for all that the GPU has to do."""
    pinned = device.type == "cuda"
    return {
        name: (value.pin_memory() if pinned else value).to(device, non_blocking=True) for name, value in batch.items()
    }


def settle(steps: Sequence[Step]) -> None:
    """Read what the steps left on the device. Raises NonFinite."""
    for step in steps:
        step.settle()
        check_finite(step.number, step.losses)


def check_finite(step: int, losses: Mapping[str, float]) -> None:
    """Raise NonFinite naming the parts of the loss that are not numbers."""
    if bad := [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]:
        raise NonFinite(f"step {step}: {', '.join(bad)}; lower --lr, or look at the images of this step")
