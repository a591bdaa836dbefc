"""Messages around a circle: when each link has sent its last one, exactly, without a loop over the steps.

A rank's link sends message after message, each as soon as the one before is out and what it carries has come from the left:

    S[r, s] = max(S[r, s-1], S[r-1, s-1]) + c[r]

So S[r, s] is the longest path of s steps that ends at r and, at each step, stays or moves one to the right (a power of a matrix in the
(max, +) algebra, Baccelli et al. 1992, chapter 3). A path that starts at j pays every c on its way once, and stays where c is largest,
M, for what is left of its steps:

    S[r, s] = max over j of  S[j, 0] + c[j+1] + ... + c[r] + (s - (r - j)) M(j..r)

Staying at any other link on the way is a path too, only a shorter one. So for each value of M among the links (a topology has a
handful) the starts j from which a path meets M lie in one interval, and the best of them is a maximum over it: O(p lg p) for
each, where p-1 steps of p links would be O(p^2).
"""

import numpy as np
from numpy.typing import NDArray

from bench.plan.simulation.topology import Array

FEW = 48  # steps that are taken one after the other: fewer than the paths would cost
KINDS = 32  # different links beyond which steps are taken one after the other too


def circle(start: Array, costs: Array, steps: int, *, fresh: bool = True) -> Array:
    """When each rank's link has sent its `steps` messages around the last axis's circle.

    `fresh`: the first message is the rank's own, so it waits for nobody. `start`, `costs`: shape (..., ranks).
    """
    if fresh and steps:
        return circle(start + costs, costs, steps - 1, fresh=False)
    ranks = start.shape[-1]
    if steps <= FEW or len(np.unique(costs)) > KINDS:
        return taken(start, costs, steps)
    rows, prices = start.reshape(-1, ranks), np.broadcast_to(costs, start.shape).reshape(-1, ranks)
    while steps > 0:  # the formula looks back once around
        part = min(steps, ranks - 1) if ranks > 1 else steps
        rows = np.array([_paths(row, price, part) for row, price in zip(rows, prices, strict=True)])
        steps -= part
    return rows.reshape(start.shape)


def taken(start: Array, costs: Array, steps: int) -> Array:
    """The same, step by step."""
    sent = np.concatenate(
        [start[..., -1:], start], axis=-1
    )  # what comes from the left neighbour stands before the first
    after = np.empty_like(sent)
    for _ in range(steps):
        np.maximum(sent[..., 1:], sent[..., :-1], out=after[..., 1:])
        after[..., 1:] += costs
        after[..., 0] = after[..., -1]
        sent, after = after, sent
    return sent[..., 1:]


def _paths(start: Array, costs: Array, steps: int) -> Array:
    """One circle, fewer steps than links."""
    ranks = len(start)
    if ranks == 1:
        return start + steps * costs
    twice, place = np.tile(costs, 2), np.arange(2 * ranks)
    way, begun = np.cumsum(twice), np.tile(start, 2)
    ends = place[ranks:]
    best = np.full(ranks, -np.inf)
    for most in np.unique(costs):
        met = np.maximum.accumulate(np.where(twice == most, place, -1))[ranks:]
        first = ends - steps
        able = first <= met
        if able.any():
            found = _largest(begun - way + place * most, first[able], met[able])
            best[able] = np.maximum(best[able], found + way[ends[able]] + (steps - ends[able]) * most)
    return best


def _largest(values: Array, first: NDArray[np.intp], last: NDArray[np.intp]) -> Array:
    """Of each interval, ends included: two overlapping ones whose length is a power of two cover it (a sparse table)."""
    power = np.frexp(last - first + 1)[1] - 1
    table = [values]
    for exponent in range(int(power.max())):
        width = 1 << exponent
        longer = table[-1].copy()
        np.maximum(table[-1][:-width], table[-1][width:], out=longer[:-width])
        table.append(longer)
    known = np.stack(table)
    return np.maximum(known[power, first], known[power, last - (1 << power) + 1])
