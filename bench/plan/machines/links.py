"""Channels that messages take, in seconds a message and a byte, and nodes joined by them."""

import math
from dataclasses import dataclass

from bench.config import ConfigError
from bench.plan.machines.machine import Machine


@dataclass(frozen=True)
class Line:
    """One regime of a channel: `alpha` seconds a message, `beta` seconds a byte, `gamma` seconds a byte to add."""

    alpha: float
    beta: float
    gamma: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta), ("gamma", self.gamma)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"a channel's {name} is {value}; it must be a finite number of seconds, 0 or more")
        if not self.alpha + self.beta > 0:
            raise ConfigError("a channel with alpha 0 and beta 0 takes no time; give its latency or its bandwidth")


@dataclass(frozen=True)
class Channel:
    """Regimes of which the fastest for a message counts, as NCCL picks LL, LL128 or Simple: one line can't fit its sweeps."""

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, bandwidth: float, latency: float, gamma: float = 0.0) -> "Channel":
        """From bytes a second and seconds a message."""
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ConfigError(f"a channel's bandwidth is {bandwidth} bytes/s; it must be above 0")
        return cls((Line(latency, 1 / bandwidth, gamma),))


@dataclass(frozen=True)
class Fabric:
    """Equal nodes of `per_node` ranks. `intra`: between two ranks of a node. `inter`: between two nodes, all rails together."""

    per_node: int
    intra: Channel
    inter: Channel

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise ConfigError(f"a node has {self.per_node} ranks; it must have at least 1")

    def nodes(self, ranks: int) -> int:
        """Nodes that `ranks` take. Raises ConfigError where they leave a node half used: its ranks would not be equal."""
        if ranks < 1:
            raise ConfigError(f"{ranks} ranks: there must be at least 1")
        if ranks > self.per_node and ranks % self.per_node:
            near = ranks // self.per_node * self.per_node
            raise ConfigError(
                f"{ranks} ranks don't fill nodes of {self.per_node}: type {near} or {near + self.per_node}"
            )
        return -(-ranks // self.per_node)


def fabric(machine: Machine, *, share: float = 1.0, network_share: float = 1.0) -> Fabric:
    """A machine's: of the nominal bandwidth, collectives reach `share` inside a node and `network_share` between nodes."""
    intra, network = machine.link, machine.network
    return Fabric(
        machine.per_node,
        Channel.of(share * intra.gb_s * 1e9, intra.latency_us * 1e-6),
        Channel.of(network_share * network.gb_s * 1e9 * machine.nics, network.latency_us * 1e-6),
    )
