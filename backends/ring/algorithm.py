"""Ring all-reduce (Patarasuk & Yuan 2009): pure functions of a flat buffer and a transport that talks to two neighbours.

N ranks stand in a ring; the buffer is cut into N chunks; each rank only ever sends to its right and receives from its left.

    share-reduce (reduce-scatter), N-1 steps          share-only (all-gather), N-1 steps
    rank 0   [a0 ]> a1   a2                           rank 0    A0  [A1 ]> A2
    rank 1    b0  [b1 ]> b2    each passes on the     rank 1    A0   A1  [A2 ]>   each passes on the
    rank 2    c0   c1  [c2 ]>  chunk it just added    rank 2   [A0 ]>A1   A2      chunk it just got

In step t rank r sends chunk r-t and gets chunk r-t-1, which is what it sends in step t+1: that is the whole schedule. In the
first N-1 steps what comes in is added to the own chunk; after them rank r owns the finished chunk r+1. In the last N-1 steps
the finished chunks travel on, unchanged, so all ranks end with the same bits.

Cost: each of the 2(N-1) steps moves S/N bytes, together 2(N-1)/N * S sent by each rank for a buffer of S bytes. That tends
to 2S however many ranks there are, and no all-reduce can send less (Patarasuk & Yuan, theorem 1). With a latency of a seconds
and a bandwidth of B bytes/s on every link, and g seconds to add a byte, it takes 2(N-1) (a + S/(N B)) + (N-1)/N g S: a link
lies idle while its rank adds. `pipeline.py` fills that gap; this file is the idea.
"""

import torch
from torch import Tensor

from backends.ring.reduction import SUM, Reduction
from backends.ring.transport import Links


def ring_allreduce(buffer: Tensor, links: Links, scratch: Tensor, reduction: Reduction = SUM) -> None:
    """Replace `buffer` (1-D) by its reduction over ranks, in place, in two phases of N-1 steps.

    `scratch`: at least ceil(len(buffer) / N) values of the same dtype, overwritten. Chunks differ by one value where N does
    not divide the length; nothing is padded.
    """
    chunks = torch.tensor_split(buffer, links.size)
    share_reduce(chunks, links, scratch, reduction)
    reduction.finish(chunks[(links.rank + 1) % links.size], links.size)  # by its owner: once, not on N ranks
    share_only(chunks, links)


def share_reduce(chunks: tuple[Tensor, ...], links: Links, scratch: Tensor, reduction: Reduction = SUM) -> None:
    """Phase 1: afterwards rank r holds the reduction of chunk r+1; the other chunks hold partial results."""
    rank, size = links.rank, links.size
    for step in range(size - 1):
        mine, theirs = chunks[(rank - step) % size], chunks[(rank - step - 1) % size]
        incoming = scratch[: len(theirs)]
        links.exchange(mine, incoming)
        reduction.combine(theirs, incoming)


def share_only(chunks: tuple[Tensor, ...], links: Links) -> None:
    """Phase 2: every finished chunk travels once around, straight into its place."""
    rank, size = links.rank, links.size
    for step in range(size - 1, 2 * (size - 1)):
        links.exchange(chunks[(rank - step) % size], chunks[(rank - step - 1) % size])
