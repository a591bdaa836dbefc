"""The same ring with its links kept busy: chunks travel in segments, and a segment is sent on while the next one comes in.

`algorithm.py` waits for a whole chunk, adds it, and sends it on: while a rank adds, its links are idle, and its scratch is as
large as a chunk. Here a step's first segment is all that waits, and scratch is two segments, however large the buffer. Same
chunks, same order of additions, so the same bits.
"""

from collections import deque
from itertools import islice

import torch
from torch import Tensor

from backends.ring.reduction import SUM, Reduction
from backends.ring.transport import Links, Wait

SEGMENT_BYTES = 2**21  # between two processes of one host shorter ones cost more in calls than they gain in overlap
AHEAD = 2  # segments that may be coming in at once: one arrives while the other is added


def scratch_values(length: int, size: int, value_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Values of scratch that `pipelined_allreduce` needs: AHEAD segments, or AHEAD whole chunks where those are smaller."""
    return AHEAD * min(-(-length // size), max(1, segment_bytes // value_bytes))


def pipelined_allreduce(
    buffer: Tensor,
    links: Links,
    scratch: Tensor,
    reduction: Reduction = SUM,
    *,
    segment_bytes: int = SEGMENT_BYTES,
) -> None:
    """Replace `buffer` (1-D) by its reduction over ranks, in place; `scratch` as `scratch_values` says, overwritten.

    In step t rank r sends chunk r-t and gets chunk r-t-1, which is what it sends in step t+1.
    """
    rank, size = links.rank, links.size
    segment = max(1, segment_bytes // buffer.element_size())
    chunks = [_cut(chunk, segment) for chunk in torch.tensor_split(buffer, size)]
    slots = scratch.split(max(1, len(scratch) // AHEAD))
    sent: dict[int, Wait] = {}  # by address, so that nothing comes in where something still goes out
    coming: deque[Wait] = deque()

    def send(view: Tensor) -> None:
        sent[view.data_ptr()] = links.send(view)

    def receive(number: int, step: int, view: Tensor) -> None:
        if step < size - 1:
            into = slots[number % AHEAD][: len(view)]
        else:
            into = view
            if (leaving := sent.pop(view.data_ptr(), None)) is not None:
                leaving()
        coming.append(links.receive(into))

    arrivals = [(step, view) for step in range(2 * (size - 1)) for view in chunks[(rank - step - 1) % size]]
    later = enumerate(arrivals)
    for number, (step, view) in islice(later, AHEAD):
        receive(number, step, view)
    for view in chunks[rank]:
        send(view)
    for number, (step, view) in enumerate(arrivals):
        coming.popleft()()
        if step < size - 1:
            reduction.combine(view, slots[number % AHEAD][: len(view)])
        if step == size - 2:
            reduction.finish(view, size)  # rank r owns it: once, not on N ranks
        if step < 2 * (size - 1) - 1:
            send(view)
        for following, (at, where) in islice(later, 1):
            receive(following, at, where)
    for leaving in sent.values():
        leaving()


def _cut(chunk: Tensor, segment: int) -> list[Tensor]:
    """Segments of a chunk; none of an empty one: both ends know its size, so nothing is sent."""
    return list(chunk.split(segment)) if len(chunk) else []
