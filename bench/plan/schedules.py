"""Collectives as exact recurrences of times: when each rank has its result, from when each rank began. Arrays over ranks.

Nothing is averaged: a message leaves when its sender has what it sends and its link is free, and a rank adds when it has both parts.
Ten thousand ranks are one array, and a ring of p ranks 2(p-1) steps of it. A ring's step is linear in the (max, +) algebra; once
all times have grown by the same amount in a step, they will for ever (an eigenvector, Baccelli et al. 1992, theorem 3.23), and
the steps that are left are one multiplication.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.config import ConfigError
from bench.plan.topology import Array, Topology

LOOK = 8  # steps between two looks whether the ring has come into its stride
SAME = 1e-12  # relative to the times themselves: their last digits


def circle(start: Array, costs: Array, steps: int, *, fresh: bool = True) -> Array:
    """When each rank's link has sent its `steps` messages around the last axis's circle: S[r] = max(S[r], S[r-1]) + c[r] a step.

    `fresh`: the first message is the rank's own, so it waits for nobody. `start`, `costs`: shape (..., ranks).
    """
    if steps == 0:
        return start
    sent = np.concatenate(
        [start[..., -1:], start], axis=-1
    )  # what comes from the left neighbour stands before the first
    after = np.empty_like(sent)
    done = 0
    if fresh:
        sent[..., 1:] += costs
        sent[..., 0] = sent[..., -1]
        done = 1
    while done < steps:
        np.maximum(sent[..., 1:], sent[..., :-1], out=after[..., 1:])
        after[..., 1:] += costs
        after[..., 0] = after[..., -1]
        done += 1
        if done % LOOK == 0:
            grown = after - sent
            low, high = grown.min(axis=-1), grown.max(axis=-1)
            if np.all(high - low <= SAME * after[..., -1]):
                after += (high * (steps - done))[..., None]
                done = steps
        sent, after = after, sent
    return sent[..., 1:]


def _arrived(sent: Array) -> Array:
    """A rank is done when it has sent its last message and the left neighbour's has come."""
    return np.maximum(sent, np.roll(sent, 1, axis=-1))


def ring_all_reduce(t: Topology, start: Array, size: float) -> Array:
    """Reduce-scatter, then all-gather, p-1 steps each of 1/p."""
    if t.ranks == 1:
        return start
    reduced = circle(start, _around(t, size / t.ranks, adding=True), t.ranks - 1)
    return _arrived(circle(reduced, _around(t, size / t.ranks, adding=False), t.ranks - 1, fresh=False))


def ring_all_gather(t: Topology, start: Array, size: float) -> Array:
    """p-1 steps of 1/p."""
    return start if t.ranks == 1 else _arrived(circle(start, _around(t, size / t.ranks, adding=False), t.ranks - 1))


def ring_reduce_scatter(t: Topology, start: Array, size: float) -> Array:
    """p-1 steps of 1/p, each added."""
    return start if t.ranks == 1 else _arrived(circle(start, _around(t, size / t.ranks, adding=True), t.ranks - 1))


def _around(t: Topology, size: float, *, adding: bool) -> Array:
    ranks = np.arange(t.ranks)
    return t.costs(ranks, (ranks + 1) % t.ranks, size, adding)


def tree_all_reduce(t: Topology, start: Array, size: float) -> Array:
    """Up a binomial tree to rank 0 and down again: ceil(lg p) rounds each of the whole vector, ranks that meet in a round at once."""
    at = start.copy()
    rounds = [1 << k for k in range((t.ranks - 1).bit_length())]
    pairs = [np.arange(0, t.ranks - step, 2 * step) for step in rounds]
    for step, low in zip(rounds, pairs, strict=True):
        cost = t.costs(low + step, low, size, adding=True)
        at[low] = np.maximum(at[low], at[low + step]) + cost
    for step, low in reversed(list(zip(rounds, pairs, strict=True))):
        at[low] += t.costs(low, low + step, size, adding=False)  # its link is busy meanwhile
        at[low + step] = at[low]
    return at


def hierarchical_all_reduce(t: Topology, start: Array, size: float) -> Array:
    """Reduce-scatter in each node, rings of equal positions between nodes, all-gather in each node."""
    k, nodes = t.size, t.nodes
    ranks = np.arange(t.ranks).reshape(nodes, k)
    at = start.reshape(nodes, k)
    inside, across = np.roll(ranks, -1, axis=1), np.roll(ranks, -1, axis=0)

    def cost(targets: NDArray[np.intp], part: float, adding: bool) -> Array:
        return t.costs(ranks.ravel(), targets.ravel(), part, adding).reshape(nodes, k)

    if k > 1:
        at = _arrived(circle(at, cost(inside, size / k, True), k - 1))
    if nodes > 1:
        part = size / k / nodes
        sent = circle(at.T, cost(across, part, True).T, nodes - 1)
        at = _arrived(circle(sent, cost(across, part, False).T, nodes - 1, fresh=False)).T
    if k > 1:
        at = _arrived(circle(at, cost(inside, size / k, False), k - 1))
    return at.reshape(t.ranks)


Schedule = Callable[[Topology, Array, float], Array]
ALL_REDUCE: dict[str, Schedule] = {
    "ring": ring_all_reduce, "tree": tree_all_reduce, "hierarchical": hierarchical_all_reduce,
}  # fmt: skip


def schedule(name: str) -> Schedule:
    """Raises ConfigError for an unknown one."""
    if name not in ALL_REDUCE:
        raise ConfigError(f"no schedule {name!r} to simulate; there are: {', '.join(ALL_REDUCE)}")
    return ALL_REDUCE[name]
