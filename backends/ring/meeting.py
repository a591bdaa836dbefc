"""A small buffer has no use for 2(N-1) steps: each rank lays it out for all, and all add up what lies there, in the order of ranks.

One meeting, (N-1) S bytes read. At these sizes the calls are what costs, and NumPy's cost a third of torch's: it works on the
types that both know, with the same bits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backends.ring.reduction import Reduction

if TYPE_CHECKING:
    from backends.ring.shared import SharedMemory

Combine = Callable[[Any, Any, Any], object]  # (a, b, into)
NUMPY: dict[str, Combine] = {
    "sum": np.add,
    "mean": np.add,
    "min": lambda a, b, into: np.minimum(a, b, out=into),
    "max": lambda a, b, into: np.maximum(a, b, out=into),
    "product": np.multiply,
}
TYPES = (torch.float32, torch.float64)  # of the halves NumPy knows one only
LOOKS = 2000  # at a counter before sleeping begins: nobody who meets others over a few values is far behind


class Meeting:
    """One buffer, made ready to meet the other ranks' as often as it comes. Who lays out the next but one has seen all ranks done
    with this one's slot: two are enough."""

    def __init__(self, memory: "SharedMemory", buffer: Tensor, reduction: Reduction) -> None:
        """`buffer`: 1-D, at most `memory.small` bytes, anywhere in this process."""
        links = memory.links
        self.memory, self.buffer, self.reduction, self.address = memory, buffer, reduction, buffer.data_ptr()
        slots = [[slot[: buffer.nbytes].view(buffer.dtype) for slot in side] for side in memory.slots]
        known = buffer.dtype in TYPES
        self.here: Any = buffer.detach().numpy() if known else buffer
        self.slots: list[list[Any]] = [[slot.numpy() for slot in side] for side in slots] if known else slots
        self.put: Callable[[Any, Any], object] = np.copyto if known else Tensor.copy_
        self.combine = NUMPY[reduction.name] if known else _by(reduction)
        self.own = memory.counters[links.rank]
        self.others = [(rank, counter) for rank, counter in enumerate(memory.counters) if rank != links.rank]
        self.sent = (links.size - 1) * buffer.nbytes

    def run(self) -> None:
        """All-reduce the buffer in place. Raises ExchangeError as `SharedMemory.allreduce` does."""
        memory, here = self.memory, self.here
        slots = self.slots[memory.side]
        self.put(slots[memory.links.rank], here)
        memory.side = 1 - memory.side
        memory.done = done = memory.done + 1
        self.own[0] = done
        for rank, counter in self.others:
            if counter[0] < done:
                memory.wait(rank, done, LOOKS)
        self.combine(slots[0], slots[1], here)
        for slot in slots[2:]:
            self.combine(here, slot, here)
        self.reduction.finish(self.buffer, len(slots))
        memory.links.sent_bytes += self.sent


def _by(reduction: Reduction) -> Combine:
    def combine(a: Tensor, b: Tensor, into: Tensor) -> None:
        if into is not a:
            into.copy_(a)
        reduction.combine(into, b)

    return combine
