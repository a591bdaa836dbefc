"""Ranks of one host send nothing: each reads its left neighbour's chunk where it lies, in memory that both have mapped.

The schedule is `algorithm.py`'s, in the order of `wave.py`, and so are the bits. What changes is a step's cost: no message is
copied out of one process and into another, so a step of S/N bytes reads the neighbour's and the own chunk and writes the own
one, and that is all.

Ranks meet by one counter each, in the same memory: how many steps it has done. A rank waits until the left one has written
what it reads, and at the end until the right one has read everything, for then its gradients may change again. What a rank
reads cannot be overwritten too early: the left one overwrites a chunk only with its finished value, which came by here.

A buffer of up to SMALL bytes goes another way: meeting.py.
"""

import mmap
import os
import platform
import socket
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.ring.meeting import Meeting
from backends.ring.reduction import SUM, Reduction
from backends.ring.transport import ExchangeError, Transport
from backends.ring.wave import Step, plan

SEGMENT_BYTES = 2**20
SMALL = 2**12  # bytes: what each rank reads whole of all others
LINE = 64  # bytes of a cache line: buffers begin on one, and no two counters share one
QUICK = 50  # looks at a counter, one after the other: most neighbours come within these microseconds
LOOKS = 200  # looks at a counter, the core and Python's lock offered to others between the later ones, before sleeping begins
NAP_S, LONGEST_S = (
    50e-6,
    1e-3,
)  # the first sleep; later ones last a sixteenth of the wait: each takes this core from backward
KEPT = 256  # small buffers that are ready to meet
LOOK_S = 0.1  # how often a neighbour that is waited for is looked at: is it alive?


def unshareable(links: Transport) -> str | None:
    """Why the ranks cannot read each other's memory (the same answer on all of them; collective); None where they can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        mine: Any = None  # a counter written after data might be seen before it
    else:
        spaces = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "net", "uts")]
        mine = (socket.gethostname(), Path("/proc/sys/kernel/random/boot_id").read_text(), spaces)
    places = links.gather(mine)
    if None in places:
        return "only x86-64 keeps the order of writes that ranks meeting in shared memory rely on"
    if others := [rank for rank, place in enumerate(places) if place != places[0]]:
        return f"rank {others[0]} ({places[others[0]][0]}) is not on the host of rank 0 ({places[0][0]})"
    return None


class SharedMemory:
    """Memory of this rank that its neighbours have mapped; made by all ranks together, `size` bytes the same on each.

    `take` cuts it into buffers, in the same order on every rank. It is anonymous: nothing is left behind, however a rank ends.
    Raises ExchangeError where a rank may not open another's memory.
    """

    def __init__(
        self, links: Transport, size: int, timeout_s: float, *, segment_bytes: int = SEGMENT_BYTES, small: int = SMALL
    ) -> None:
        self.links, self.timeout_s, self.segment_bytes, self.small = links, timeout_s, segment_bytes, small
        common = meeting_bytes(small)
        size = common + space(size)
        descriptor = os.memfd_create("ring")
        os.ftruncate(descriptor, size)
        places = links.gather((os.getpid(), descriptor))
        self.processes = [process for process, _ in places]
        self.views: dict[int, mmap.mmap] = {}
        refused = None
        for rank, (process, number) in enumerate(places):
            try:
                with open(f"/proc/{process}/fd/{number}", "r+b") as file:
                    self.views[rank] = mmap.mmap(file.fileno(), size if rank in (links.rank, links.left) else common)
            except OSError as error:
                refused = f"rank {links.rank} may not open the memory of rank {rank}: {error}"
        refusals = [each for each in links.gather(refused) if each]  # everyone has opened everything
        os.close(descriptor)
        if refusals:
            raise ExchangeError(refusals[0])
        whole = [torch.frombuffer(self.views[rank], dtype=torch.uint8) for rank in range(links.size)]
        self.mine, self.theirs = whole[links.rank], whole[links.left]
        self.slots = [[each[LINE + at * space(small) :][:small] for each in whole] for at in (0, 1)]
        self.counters = [memoryview(self.views[rank])[:8].cast("q") for rank in range(links.size)]
        self.common = torch.frombuffer(self.views[links.rank], dtype=torch.uint8, count=common)
        self.done, self.taken, self.side = 0, common, 0
        self.meetings: dict[int, Meeting] = {}  # by the identity of a buffer, which each keeps
        self.plans: dict[tuple[str, str, int, int, torch.dtype], tuple[list[Step], int]] = {}

    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        """The next `length` values, zeroed."""
        begin = self.taken
        self.taken += space(length * dtype.itemsize)
        if not length:
            return torch.zeros(0, dtype=dtype)
        # a storage of its own: whoever counts what a rank holds finds the buffer, and nothing else
        return torch.frombuffer(self.views[self.links.rank], dtype=dtype, count=length, offset=begin)

    def allreduce(self, buffer: Tensor, reduction: Reduction = SUM) -> None:
        """Replace `buffer` (1-D, a part of this memory) by its reduction over ranks, in place.

        Raises ExchangeError, with the neighbour's rank, when that one died or does not arrive within the time limit.
        """
        meeting = self.meetings.get(id(buffer))
        if meeting is not None and meeting.reduction is reduction and meeting.address == buffer.data_ptr():
            meeting.run()
        else:
            self._run(buffer, "all-reduce", reduction)

    def reduce_scatter(self, buffer: Tensor, reduction: Reduction = SUM) -> None:
        """Leave the reduction of part r of `torch.tensor_split(buffer, N)` on rank r; the other parts hold partial results."""
        self._run(buffer, "reduce-scatter", reduction)

    def all_gather(self, buffer: Tensor) -> None:
        """Give every rank part r of `torch.tensor_split(buffer, N)` of rank r."""
        self._run(buffer, "all-gather", SUM)

    def broadcast(self, buffer: Tensor) -> None:
        """Overwrite `buffer` with rank 0's, which goes down the ring segment by segment."""
        self._run(buffer, "broadcast", SUM)

    def _run(self, buffer: Tensor, kind: str, reduction: Reduction) -> None:
        links = self.links
        if links.size == 1 or not buffer.numel():
            return
        if kind == "all-reduce" and buffer.nbytes <= self.small:
            if len(self.meetings) == KEPT:
                self.meetings.clear()
            self.meetings[id(buffer)] = meeting = Meeting(self, buffer, reduction)
            meeting.run()
            return
        key = (kind, reduction.name, buffer.data_ptr(), buffer.numel(), buffer.dtype)
        if key not in self.plans:
            self.plans[key] = self._plan(buffer, kind, reduction)
        steps, sent = self.plans[key]
        own, left, base = self.counters[links.rank], self.counters[links.left], self.done + 1
        own[0] = base  # the buffer may be read
        for number, (after, mine, theirs, operate, finish) in enumerate(steps, base + 1):
            if operate is not None:
                if left[0] < base + after:
                    self.wait(links.left, base + after)
                operate(mine, theirs)
                if finish is not None:
                    finish(mine, links.size)
            own[0] = number
        self.done = base + len(steps)
        self.wait(links.right, self.done)
        links.sent_bytes += sent

    def _plan(self, buffer: Tensor, kind: str, reduction: Reduction) -> tuple[list[Step], int]:
        """What this rank does with `buffer`, and the bytes that the right rank reads meanwhile."""
        begin = buffer.data_ptr() - self.mine.data_ptr()
        if not 0 <= begin <= len(self.mine) - buffer.nbytes:
            raise ValueError("this buffer does not lie in the memory that ranks share: make it with take()")
        beside = self.theirs[begin : begin + buffer.nbytes].view(buffer.dtype)
        segment = max(1, self.segment_bytes // buffer.element_size())
        return plan(kind, buffer, beside, self.links.rank, self.links.size, reduction, segment)

    def wait(self, rank: int, count: int, looks: int = LOOKS) -> None:
        """Return once `rank` has done `count` steps; after so many looks, sleep between them. Raises ExchangeError."""
        counter = self.counters[rank]
        for look in range(looks):
            if counter[0] >= count:
                return
            if look >= QUICK:
                os.sched_yield()
        began = looked = now = time.monotonic()
        while counter[0] < count:
            time.sleep(min(LONGEST_S, NAP_S + (now - began) / 16))
            if (now := time.monotonic()) - looked > LOOK_S:
                looked = now
                if not _lives(self.processes[rank]):
                    raise ExchangeError(f"rank {rank} (process {self.processes[rank]}) died during an exchange")
                if now - began > self.timeout_s:
                    raise ExchangeError(f"rank {rank} did not come to an exchange within {self.timeout_s:g} s")


def meeting_bytes(small: int = SMALL) -> int:
    """What a rank lays out beside its buffers: a counter and two slots for small ones."""
    return LINE + 2 * space(small)


def space(size: int) -> int:
    """Bytes that a buffer of `size` bytes takes up: whole cache lines."""
    return -(-size // LINE) * LINE


def _lives(process: int) -> bool:
    """Whether it runs: one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
