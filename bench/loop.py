"""The only training loop. It names no engine; it counts, divides the loss once, and asks a clock to look on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
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


@dataclass(frozen=True)
class Step:
    """What one optimizer step gave: this rank's losses, mean over its micro-batches, and what the engine says of it."""

    number: int
    losses: dict[str, Tensor]
    info: StepInfo


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
    waits = backend.device.type != "cpu"  # on a GPU looking at a loss would wait: there, at the end
    for number in range(backend.steps, backend.steps + steps):
        with clock.step():
            parts: list[Tensor] = []  # of the loss, of all micro-batches
            for micro in range(accumulation):
                watch.at(number, "data")
                with clock.data():
                    batch = {name: value.to(backend.device) for name, value in batches(number, micro).items()}
                watch.at(number, "forward")
                losses = backend.forward(batch, sync=micro == accumulation - 1)
                watch.at(number, "backward")
                backend.backward(losses.total / accumulation)
                names = losses._fields
                parts += [part.detach() for part in losses]
                del losses  # with it the graph, while it is in the cache
            if lr is not None:
                backend.set_lr(lr(number))
            before_update()
            watch.at(number, "update")
            info = backend.step()
            # at once: a small operation costs as much as a large one
            means = torch.stack(parts).view(accumulation, -1).mean(0)
            done.append(Step(number, dict(zip(names, means.unbind(), strict=True)), info))
            after_update(done[-1])
        if not waits and not all(map(math.isfinite, means.tolist())):
            check_finite(number, done[-1].losses)
        after_step(done[-1])
    clock.finish()
    for step in done if waits else ():
        check_finite(step.number, step.losses)
    return done


def check_finite(step: int, losses: Mapping[str, Tensor]) -> None:
    """Raise NonFinite naming the parts of the loss that are not numbers."""
    bad = [f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value)]
    if bad:
        raise NonFinite(f"step {step}: {', '.join(bad)}; lower --lr, or look at the images of this step")
