"""The same ring with half the bytes: fp32 values travel as 16 bits, and are added up in fp32.

Each rank rounds what it sends and adds what it gets to its own fp32 values. A finished chunk is rounded once more, by its
owner before it travels, so that all ranks end with the same bits. Over N ranks a value is rounded at most N times: 2^-11
relative each in fp16, which ends at 65,504; 2^-8 in bf16, which has the range of fp32.
"""

import torch
from torch import Tensor

from backends.ring.reduction import SUM, Reduction
from backends.ring.transport import Links

WIRE = {"fp16": torch.float16, "bf16": torch.bfloat16}


def compressed_allreduce(buffer: Tensor, links: Links, scratch: Tensor, reduction: Reduction = SUM) -> None:
    """Replace `buffer` (1-D, fp32) by its reduction over ranks, in place, to the precision of `scratch`'s dtype.

    `scratch`: at least 2 ceil(len(buffer) / N) values of the type that travels, overwritten. The schedule is `algorithm.py`'s.
    """
    rank, size = links.rank, links.size
    if size == 1:
        return
    chunks = torch.tensor_split(buffer, size)
    outgoing, incoming = scratch[: 2 * len(chunks[0])].view(2, -1)
    for step in range(size - 1):
        mine, theirs = chunks[(rank - step) % size], chunks[(rank - step - 1) % size]
        links.exchange(outgoing[: len(mine)].copy_(mine), incoming[: len(theirs)])
        reduction.combine(theirs, incoming[: len(theirs)])
    own = chunks[(rank + 1) % size]
    reduction.finish(own, size)
    own.copy_(outgoing[: len(own)].copy_(own))  # rounded where it stays, as where it goes
    for step in range(size - 1, 2 * (size - 1)):
        mine, theirs = chunks[(rank - step) % size], chunks[(rank - step - 1) % size]
        links.exchange(outgoing[: len(mine)], incoming[: len(theirs)])
        theirs.copy_(incoming[: len(theirs)])
        outgoing, incoming = incoming, outgoing  # what came in goes on, as it is
