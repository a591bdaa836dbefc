"""RingZero's own collectives beside the others': over memory that ranks share, over messages, and by other schedules."""

from functools import partial

import torch
from torch import Tensor

from backends.ring import algorithm, pipeline, schedules
from backends.ring.pipeline import SEGMENT_BYTES, scratch_values
from backends.ring.shared import SharedMemory, space, unshareable
from backends.ring.transport import MPITransport, TorchTransport, Transport
from backends.world import World
from bench.collectives.libraries import TIMEOUT_S, Call, Library, Missing

SCHEDULES = {
    "naive": schedules.naive_allreduce,
    "doubling": schedules.recursive_doubling,
    "halving": schedules.halving_doubling,
}


class SharedRing(Library):
    """RingZero's ring over memory that ranks share."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        links = MPITransport(TIMEOUT_S)
        if (reason := unshareable(links)) is not None:
            raise Missing(reason)
        self.ring = SharedMemory(links, space(4 * values), TIMEOUT_S)
        self.buffer = self.ring.take(values, torch.float32)
        self.settings = {"segment_bytes": self.ring.segment_bytes, "small_bytes": self.ring.small}

    def memory(self, values: int, shared: Tensor) -> Tensor:
        return self.buffer[:values]

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        run = self.ring.allreduce if operation == "all_reduce" else getattr(self.ring, operation)
        return partial(run, whole), self.own(whole) if operation == "reduce_scatter" else whole


class MessageRing(Library):
    """The ring, or another schedule, over messages of MPI or gloo. `schedule`: "" is the ring, in segments."""

    def __init__(self, world: World, values: int, *, carrier: str, schedule: str = "") -> None:
        super().__init__(world, values)
        self.links: Transport = MPITransport(TIMEOUT_S) if carrier == "mpi" else TorchTransport()
        self.schedule = schedule
        self.scratch = scratch(values, self.size, schedule)
        self.settings = {"segment_bytes": None if schedule else SEGMENT_BYTES}

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        links, scratch = self.links, self.scratch
        if self.schedule:
            reduce = SCHEDULES[self.schedule]
            return partial(reduce, whole, links, scratch=scratch), whole
        if operation == "all_reduce":
            return partial(pipeline.pipelined_allreduce, whole, links, scratch), whole
        parts, own = torch.tensor_split(whole, self.size), self.own(whole)
        chunks = (parts[-1], *parts[:-1])  # the algorithm leaves chunk r+1 on rank r: that is then part r
        if operation == "reduce_scatter":
            return partial(algorithm.share_reduce, chunks, links, part), own
        return partial(algorithm.share_only, chunks, links), whole


def scratch(values: int, ranks: int, schedule: str) -> Tensor:
    """What a schedule needs beside the longest buffer. Kept, so that no timed call pays for new memory; what is large is there
    from its first use on."""
    if not schedule:
        return torch.zeros(scratch_values(values, ranks, 4))
    return torch.empty(values * ranks if schedule == "naive" else values)
