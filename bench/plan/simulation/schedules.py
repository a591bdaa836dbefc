"""Collectives as exact recurrences of times: when each rank has its result, from when each rank began. Arrays over ranks.

Nothing is averaged: a message leaves when its sender has what it sends and its link is free, and a rank adds when it has both parts.
Ten thousand ranks are one array; a ring's thousands of steps are one path problem (bench/plan/simulation/circle.py).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.config import ConfigError
from bench.plan.simulation.circle import circle
from bench.plan.simulation.topology import Array, Topology


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
