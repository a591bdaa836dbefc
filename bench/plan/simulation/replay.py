"""One step replayed, bucket after bucket, on up to ten thousand ranks: stragglers and crowded links, of which no closed form speaks.

Each rank has two streams, as with NCCL: compute, and collectives that start in one order on all ranks. A bucket's collective
starts on a rank when its gradients are there and the one before is done on that rank; messages then follow
bench/plan/simulation/schedules.py exactly. What is left out: variation within a collective, a transport's windows, overlap of
two collectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.config import ConfigError
from bench.plan.machines.links import Channel, Fabric
from bench.plan.simulation.schedules import ring_all_gather, ring_reduce_scatter, schedule
from bench.plan.simulation.topology import Array, Topology
from bench.plan.time.collective_cost import over

PASSES = 3  # backward takes twice as long as forward


@dataclass(frozen=True, kw_only=True)
class Step:
    """What every rank computes and exchanges. Seconds of forward and backward of a rank that is no straggler."""

    compute_s: float
    buckets: Sequence[float]
    """Bytes of each, in the order in which backward fills them; for `gathers`, of each layer, in forward's order."""
    jitter: float = 0.0
    """Standard deviation of ln(compute) between ranks, drawn anew for each seed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.compute_s < np.inf or not 0 <= self.jitter < 3:
            raise ConfigError(
                f"compute of {self.compute_s} s with jitter {self.jitter}; give 0 or more, and a jitter below 3"
            )
        if not self.buckets or not all(0 < size < np.inf for size in self.buckets):
            raise ConfigError("a step needs at least one bucket, each of more than 0 bytes")

    def factors(self, topology: Topology) -> Array:
        """By rank: how many times longer it computes."""
        drawn = np.random.default_rng(self.seed).normal(0.0, 1.0, topology.ranks) if self.jitter else 0.0
        return topology.compute() * np.exp(self.jitter * drawn)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Seconds. `ends`: when each rank ends its step."""

    ends: Array
    compute_s: float
    """Of the slowest rank."""
    closed_s: float
    """What the closed form says of the same step without straggler, slow link, oversubscription and jitter."""
    messages: int

    @property
    def step_s(self) -> float:
        return float(self.ends.max())

    @property
    def exposed_s(self) -> float:
        """By how much the step outlasts the slowest rank's compute."""
        return self.step_s - self.compute_s


def replay(step: Step, topology: Topology, algorithm: str = "ring") -> Replay:
    """Buckets all-reduced beside backward, as DDP and Horovod do. Raises ConfigError for an unknown algorithm."""
    reduce, factors = schedule(algorithm), step.factors(topology)
    count = len(step.buckets)
    forward, each = step.compute_s / PASSES, step.compute_s * (1 - 1 / PASSES) / count
    done = np.zeros(topology.ranks)
    for number, size in enumerate(step.buckets):
        ready = factors * (forward + (number + 1) * each)
        done = reduce(topology, np.maximum(done, ready), size)
    own = factors * step.compute_s
    closed, fabric = 0.0, fabric_of(topology)
    for number, size in enumerate(step.buckets):
        closed = max(closed, forward + (number + 1) * each) + _closed("all-reduce", algorithm, topology, size, fabric)
    return Replay(
        ends=np.maximum(done, own),
        compute_s=float(own.max()),
        closed_s=max(closed, step.compute_s),
        messages=count * _messages(algorithm, topology),
    )


def gathers(step: Step, topology: Topology) -> Replay:
    """ZeRO-3: each layer gathered before its forward and again before its backward, one layer ahead; its gradients reduce-scattered
    behind its backward. Rings over all ranks."""
    factors, fabric = step.factors(topology), fabric_of(topology)
    layers = list(step.buckets)
    order = [*((size, False) for size in layers), *((size, True) for size in reversed(layers))]
    part = step.compute_s / PASSES / len(layers)
    computed, begun, channel = (np.zeros(topology.ranks) for _ in range(3))
    flat = [0.0, 0.0, 0.0]  # the same three for the closed form
    gathered, flat_gathered = (
        _gather(topology, begun, channel, order[0][0]),
        _closed("all-gather", "ring", topology, order[0][0], fabric),
    )
    channel, flat[2] = gathered, flat_gathered
    for number, (size, back) in enumerate(order):
        begun, flat[1] = np.maximum(computed, gathered), max(flat[0], flat_gathered)
        computed = begun + factors * part * (2 if back else 1)
        flat[0] = flat[1] + part * (2 if back else 1)
        if number + 1 < len(order):
            gathered = channel = _gather(topology, begun, channel, order[number + 1][0])
            flat_gathered = flat[2] = max(flat[1], flat[2]) + _closed(
                "all-gather", "ring", topology, order[number + 1][0], fabric
            )
        if back:
            channel = ring_reduce_scatter(topology, np.maximum(channel, computed), size)
            flat[2] = max(flat[0], flat[2]) + _closed("reduce-scatter", "ring", topology, size, fabric)
    return Replay(
        ends=np.maximum(channel, computed),
        compute_s=float((factors * step.compute_s).max()),
        closed_s=max(flat[0], flat[2]),
        messages=3 * len(layers) * topology.ranks * (topology.ranks - 1),
    )


def fabric_of(topology: Topology) -> Fabric:
    """The closed form's idea of a topology in which nothing is wrong."""
    return Fabric(
        topology.size,
        Channel.of(topology.inside, topology.inside_latency, topology.gamma),
        Channel.of(topology.rail * topology.rails, topology.rail_latency, topology.gamma),
    )


def _gather(topology: Topology, begun: Array, channel: Array, size: float) -> Array:
    return ring_all_gather(topology, np.maximum(begun, channel), size)


def _closed(collective: str, algorithm: str, topology: Topology, size: float, fabric: Fabric) -> float:
    return over(collective, algorithm, topology.ranks, size, fabric)


def _messages(algorithm: str, t: Topology) -> int:
    """Of one all-reduce, all ranks together."""
    if algorithm == "tree":
        return 2 * (t.ranks - 1)
    if algorithm == "ring":
        return 2 * t.ranks * (t.ranks - 1)
    return 2 * t.ranks * (t.size - 1) + 2 * t.ranks * (t.nodes - 1)
