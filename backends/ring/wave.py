"""The ring's steps as a wave: a buffer goes round in segments that stay in the cache, and nobody waits for a whole chunk.

    tick         0      1      2      3         each rank does the steps of a tick in the same order; what a step reads was
    segment 0    add    copy                    written by the left neighbour in the tick before
    segment 1           add    copy
    segment 2                  add    copy      (2 ranks: 1 step of share-reduce, 1 of share-only)

Pure functions of a rank's place: which of its values meet which of its left neighbour's, after how many steps of that one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from backends.ring.reduction import Reduction, alone


class Step(NamedTuple):
    """One segment in one step of the ring: `operate(mine, theirs)`, an addition (share-reduce) or a copy (share-only)."""

    after: int  # steps that the left rank must have done
    mine: Tensor
    theirs: Tensor  # the same values in the left rank's memory
    operate: Callable[[Tensor, Tensor], object] | None  # None: a root, which has nothing to do
    finish: Callable[[Tensor, int], object] | None  # with the last addition: what it leaves is the result


_copy = alone(Tensor.copy_)


def wave(segments: int, steps: range) -> list[tuple[int, int]]:
    """(segment, step) in the order in which every rank does them: a segment's next step comes a tick after its last."""
    return [
        (tick - late, step)
        for tick in range(segments + len(steps) - 1)
        for late, step in reversed(list(enumerate(steps)))
        if 0 <= tick - late < segments
    ]


def plan(
    kind: str, buffer: Tensor, beside: Tensor, rank: int, size: int, reduction: Reduction, segment: int
) -> tuple[list[Step], int]:
    """A rank's steps with `buffer`, 1-D like the left rank's `beside`, `segment` values at a time; and what the right one reads.

    `kind`: all-reduce, reduce-scatter and all-gather (part r belongs to rank r), broadcast (of rank 0's). The second number is
    in bytes: 2(N-1)/N of the buffer for an all-reduce, half of that for each of its parts.
    """
    if kind == "broadcast":
        pieces = zip(buffer.split(segment), beside.split(segment), strict=True)
        copy = _copy if rank else None
        return [Step(number, *both, copy, None) for number, both in enumerate(pieces, 1)], (
            0 if rank == size - 1 else buffer.nbytes
        )
    rounds = {
        "all-reduce": range(2 * (size - 1)),
        "reduce-scatter": range(size - 1),
        "all-gather": range(size - 1, 2 * (size - 1)),
    }[kind]
    turn = 0 if kind == "all-reduce" else 1  # alone, each phase ends or begins with the rank's own part
    chunks = list(zip(torch.tensor_split(buffer, size), torch.tensor_split(beside, size), strict=True))
    order = wave(-(-len(chunks[0][0]) // segment), rounds)
    places = {place: number for number, place in enumerate(order, 1)}
    steps = []
    for part, step in order:
        cut = slice(part * segment, (part + 1) * segment)
        mine, theirs = chunks[(rank - step - 1 - turn) % size]
        operate = reduction.combine if step < size - 1 else _copy
        finish = reduction.finish if step == size - 2 else None
        steps.append(Step(places.get((part, step - 1), 0), mine[cut], theirs[cut], operate, finish))
    return steps, sum(chunks[(rank - step - turn) % size][0].nbytes for step in rounds)
