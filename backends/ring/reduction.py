"""What happens to two values that meet: sum, mean, smallest, largest, product."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

GRAIN = 32_768  # values that torch works on with one thread; on more it calls its OpenMP team


class Reduction(NamedTuple):
    """`combine(into, incoming)` in place, associative but for rounding; `finish(result, N)` once, on the finished values.

    Half precision is added in fp32 and rounded once an addition (torch's own arithmetic on these types).
    """

    name: str
    combine: Callable[[Tensor, Tensor], object]
    finish: Callable[[Tensor, int], object]


def alone(operate: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], None]:
    """The same on this thread alone: the team of a thread that exchanges would spin on the cores that backward computes on."""

    def combine(into: Tensor, incoming: Tensor) -> None:
        # a GPU has no such team: in pieces it would start one kernel for each
        if into.device.type != "cpu" or torch.get_num_threads() == 1 or len(into) <= GRAIN:
            operate(into, incoming)
            return
        for piece, other in zip(into.split(GRAIN), incoming.split(GRAIN), strict=True):
            operate(piece, other)

    return combine


def _leave(result: Tensor, ranks: int) -> None:
    """Nothing to do."""


SUM = Reduction("sum", alone(Tensor.add_), _leave)
MEAN = Reduction("mean", SUM.combine, lambda result, ranks: result.div_(ranks))
MIN = Reduction("min", alone(lambda into, incoming: torch.minimum(into, incoming, out=into)), _leave)
MAX = Reduction("max", alone(lambda into, incoming: torch.maximum(into, incoming, out=into)), _leave)
PRODUCT = Reduction("product", alone(Tensor.mul_), _leave)
REDUCTIONS = {each.name: each for each in (SUM, MEAN, MIN, MAX, PRODUCT)}
