"""Who is joined to whom, how fast, and what is wrong there: nodes with rails, racks with too few uplinks, a slow link, a straggler."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.config import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Equal nodes, numbered rank after rank; bandwidths in bytes a second and direction.

    A link inside a node belongs to its rank. A node's `rails` are shared by whatever leaves it; a rack's uplinks by whatever leaves
    the rack, and carry 1/`oversubscription` of what its nodes could send.
    """

    ranks: int
    per_node: int
    inside: float
    rail: float
    rails: int = 1
    inside_latency: float = 1e-6
    rail_latency: float = 5e-6
    gamma: float = 0.0
    """Seconds a byte to add."""
    nodes_per_rack: int = 16
    oversubscription: float = 1.0
    slow_links: Mapping[int, float] = field(default_factory=dict)
    """By rank: how many times slower what it sends travels."""
    stragglers: Mapping[int, float] = field(default_factory=dict)
    """By rank: how many times longer it computes."""

    def __post_init__(self) -> None:
        for name in ("ranks", "per_node", "rails", "nodes_per_rack"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.ranks % self.per_node and self.ranks > self.per_node:
            raise ConfigError(f"{self.ranks} ranks don't fill nodes of {self.per_node}; give a multiple")
        for name in ("inside", "rail"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} bandwidth is {getattr(self, name)} bytes/s; it must be above 0")
        for name in ("inside_latency", "rail_latency", "gamma"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)} s; it must be 0 or more")
        if not self.oversubscription >= 1:
            raise ConfigError(f"oversubscription is {self.oversubscription}; it must be at least 1 (1: none)")
        for kind in ("slow_links", "stragglers"):
            for rank, factor in getattr(self, kind).items():
                if not 0 <= rank < self.ranks or not factor >= 1:
                    raise ConfigError(
                        f"{kind}: rank {rank}, {factor} times; ranks are 0 to {self.ranks - 1}, factors 1 or more"
                    )

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.per_node)

    @property
    def size(self) -> int:
        """Ranks of a node."""
        return min(self.per_node, self.ranks)

    def slow(self) -> Array:
        """By rank, factor of what it sends."""
        return self._factors(self.slow_links)

    def compute(self) -> Array:
        """By rank, factor of its compute."""
        return self._factors(self.stragglers)

    def _factors(self, given: Mapping[int, float]) -> Array:
        found = np.ones(self.ranks)
        for rank, factor in given.items():
            found[rank] = factor
        return found

    def costs(self, sources: NDArray[np.intp], targets: NDArray[np.intp], size: float, adding: bool) -> Array:
        """Seconds of messages of `size` bytes that all travel at the same time: each gets its even share of what it crosses.

        A node's rails together carry what leaves it; a rack's uplinks what leaves the rack. Exact for equal messages that start
        together; where they don't, it is what they take at worst.
        """
        node, other = sources // self.per_node, targets // self.per_node
        leaves, far = node != other, node // self.nodes_per_rack != other // self.nodes_per_rack
        out = np.bincount(node[leaves], minlength=self.nodes)
        speed = np.full(len(sources), self.inside)
        whole = self.rail * self.rails
        speed[leaves] = whole / np.maximum(out[node[leaves]], 1)
        up = np.bincount((node // self.nodes_per_rack)[far], minlength=self.nodes // self.nodes_per_rack + 1)
        uplink = whole * self.nodes_per_rack / self.oversubscription
        share = uplink / np.maximum(up[node // self.nodes_per_rack], 1)
        speed = np.where(far, np.minimum(speed, share), speed)
        latency = np.where(leaves, self.rail_latency, self.inside_latency)
        return (latency + size / speed) * self.slow()[sources] + (self.gamma * size if adding else 0.0)
