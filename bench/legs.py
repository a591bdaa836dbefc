"""A leg of the reference as arrays: of thousands of runs most agree with it, and each is seen to agree at once."""

import math
from collections.abc import Mapping
from itertools import chain
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

SUMS = itemgetter("norm", "projection")


class Limits(Protocol):
    """What `bench.verify.Tolerance` says of a leg."""

    @property
    def loss(self) -> float: ...
    @property
    def parameter(self) -> float: ...
    def growth(self, steps: int) -> float: ...


class Leg:
    """Losses and parameters of a reference's leg, in the order in which it holds them; its numbers must be finite."""

    def __init__(self, leg: Mapping[str, Any], allowed: Limits) -> None:
        losses, tensors = leg["losses"], leg["parameters"]["tensors"]
        self.terms, self.names = [list(each) for each in losses], list(tensors)
        self.values = self._flat(losses, tensors)
        sizes = [abs(each["total"]) or 1.0 for each in losses for _ in each]
        sizes += [sums["norm"] or 1.0 for sums in tensors.values() for _ in SUMS(sums)]
        limits = [allowed.loss * allowed.growth(step) for step, each in enumerate(losses, 1) for _ in each]
        limits += [allowed.parameter * allowed.growth(len(losses))] * (len(sizes) - len(limits))
        self.sizes, self.limits = np.array(sizes), np.array(limits)

    def agrees(self, leg: Mapping[str, Any]) -> float | None:
        """The largest relative difference of a leg that holds the same names in the same order, all within the limits.

        None: something is to be told of it, and it takes a closer look to say what.
        """
        losses, tensors = leg["losses"], leg["parameters"]["tensors"]
        if [list(each) for each in losses] != self.terms or list(tensors) != self.names:
            return None
        apart = np.abs(self._flat(losses, tensors) - self.values) / self.sizes
        return float(apart.max()) if (apart <= self.limits).all() else None

    @staticmethod
    def _flat(losses: Any, tensors: Any) -> Any:
        parts = chain.from_iterable(each.values() for each in losses)
        return np.fromiter(chain(parts, chain.from_iterable(map(SUMS, tensors.values()))), dtype=np.float64)


def finite(leg: Mapping[str, Any]) -> bool:
    """Whether all numbers of a leg are sure to be finite: their sum is one. False: look at each."""
    tensors = (leg["parameters"] or {}).get("tensors") or {}
    try:
        return math.isfinite(sum(chain.from_iterable(map(_values, chain(leg["losses"] or (), tensors.values())))))
    except TypeError:
        return False


def _values(numbers: Mapping[str, float]) -> Any:
    return numbers.values()
