"""Ring all-reduce (Patarasuk & Yuan 2009): pure functions of a flat buffer and a transport that talks to two neighbours.

N ranks stand in a ring; the buffer is cut into N chunks; each rank only ever sends to its right and receives from its left.

    share-reduce (reduce-scatter), N-1 steps          share-only (all-gather), N-1 steps
    rank 0   [a0 ]> a1   a2                           rank 0    A0  [A1 ]> A2
    rank 1    b0  [b1 ]> b2    each passes on the     rank 1    A0   A1  [A2 ]>   each passes on the
    rank 2    c0   c1  [c2 ]>  chunk it just added    rank 2   [A0 ]>A1   A2      chunk it just got

In step s of the first phase, rank r sends chunk r-s and adds what comes in to chunk r-s-1; afterwards it owns the finished
chunk r+1. In the second phase the finished chunks travel on, unchanged, so all ranks end with the same bits.

Cost: each of the 2(N-1) steps moves S/N bytes, together 2(N-1)/N * S sent by each rank for a buffer of S bytes. That tends
to 2S however many ranks there are, and no all-reduce can send less (Patarasuk & Yuan, theorem 1).
"""

import torch
from torch import Tensor

from backends.ring.transport import Transport


def naive_allreduce(buffer: Tensor, transport: Transport) -> None:
    """Replace `buffer` (1-D) by its sum over ranks, in place: every rank sees everybody's whole buffer, (N-1) * S bytes.

    Never used in training. It is what the ring is held against: easy to believe, and added in rank order on every rank.
    """
    parts = {transport.rank: buffer.clone()}
    for step in range(transport.size - 1):
        passed_on = parts[(transport.rank - step) % transport.size]
        received = torch.empty_like(buffer)
        transport.exchange(passed_on, received)
        parts[(transport.rank - step - 1) % transport.size] = received
    buffer.zero_()
    for rank in range(transport.size):
        buffer.add_(parts[rank])


def ring_allreduce(buffer: Tensor, transport: Transport, scratch: Tensor, *, mean: bool = False) -> None:
    """Replace `buffer` (1-D) by its sum (or mean) over ranks, in place, in two phases of N-1 steps.

    `scratch`: at least ceil(len(buffer) / N) values of the same dtype, overwritten. Chunks differ by one value where N does
    not divide the length; nothing is padded.
    """
    chunks = torch.tensor_split(buffer, transport.size)
    share_reduce(chunks, transport, scratch)
    if mean:
        chunks[(transport.rank + 1) % transport.size].div_(transport.size)  # the owner divides: once, not on N ranks
    share_only(chunks, transport)


def share_reduce(chunks: tuple[Tensor, ...], transport: Transport, scratch: Tensor) -> None:
    """Phase 1: afterwards rank r holds the finished sum of chunk r+1; the other chunks hold partial sums."""
    rank, size = transport.rank, transport.size
    for step in range(size - 1):
        mine, theirs = chunks[(rank - step) % size], chunks[(rank - step - 1) % size]
        incoming = scratch[: len(theirs)]
        transport.exchange(mine, incoming)
        theirs.add_(incoming)


def share_only(chunks: tuple[Tensor, ...], transport: Transport) -> None:
    """Phase 2: every finished chunk travels once around, straight into its place."""
    rank, size = transport.rank, transport.size
    for step in range(size - 1):
        transport.exchange(chunks[(rank + 1 - step) % size], chunks[(rank - step) % size])
