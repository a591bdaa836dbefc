"""What to change so that a setup fits: the first of smaller micro-batches, recomputation, a higher stage, offloading."""

from collections.abc import Iterator
from typing import NamedTuple

from bench.plan.memory.closed_form import Memory, predict
from bench.plan.memory.network import CHECKPOINTING, Network
from bench.plan.setup import Setup

# The CUDA context, libraries' workspaces and what the allocator can't use between blocks; assumed, `--headroom` says otherwise.
HEADROOM = 0.08
HIGHER = {
    "ddp": ("zero-1", "zero-2", "zero-3"),
    "horovod": ("zero-1", "zero-2", "zero-3"),
    "ring": ("zero-1", "zero-2", "zero-3"),
    "zero-0": ("zero-1", "zero-2", "zero-3"),
    "zero-1": ("zero-2", "zero-3"),
    "zero-2": ("zero-3",),
}
LAST = ("zero-3-offload", "zero-3-offload-all")


class Change(NamedTuple):
    """A setup that fits, what it holds, and what differs, in words."""

    setup: Setup
    memory: Memory
    words: str


def first_that_fits(network: Network, setup: Setup, room: float) -> Change | None:
    """None where nothing of the list fits `room` bytes. The global batch stays: a smaller micro-batch is taken more often."""
    for candidate in candidates(setup, recomputes=network.recomputes):
        memory = predict(network, candidate)
        if memory.peak <= room:
            return Change(candidate, memory, described(setup, candidate))
    return None


def candidates(setup: Setup, *, recomputes: bool) -> Iterator[Setup]:
    """In the order in which they are tried, nearest first."""
    ways = CHECKPOINTING[CHECKPOINTING.index(setup.checkpointing) :] if recomputes else (setup.checkpointing,)
    last = () if setup.offload != "none" else LAST
    for engine in (setup.engine, *HIGHER.get(setup.engine, ()), *last):
        one = setup.changed(engine=engine)
        if one != setup:
            yield one
        for checkpointing in ways:
            if checkpointing != setup.checkpointing:
                yield one.changed(checkpointing=checkpointing)
            for smaller in _divisors(setup.micro_batch):
                times = setup.accumulation * (setup.micro_batch // smaller)
                yield one.changed(checkpointing=checkpointing, micro_batch=smaller, accumulation=times)


def described(before: Setup, after: Setup) -> str:
    """What was changed, as flags."""
    words = [after.engine] if after.engine != before.engine else []
    if after.checkpointing != before.checkpointing:
        words.append(f"--checkpointing {after.checkpointing}")
    if after.micro_batch != before.micro_batch:
        words.append(f"--micro-batch {after.micro_batch} --accumulation {after.accumulation}")
    return " ".join(words)


def _divisors(number: int) -> list[int]:
    """Smaller than it, largest first."""
    return [size for size in range(number - 1, 0, -1) if number % size == 0]
