"""The command of bench/plan/simulation/replay.py."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from bench.config import ConfigError
from bench.plan.machines import hardware
from bench.plan.machines.machine import Machine
from bench.plan.simulation.replay import Replay, Step, gathers, replay
from bench.plan.simulation.topology import Topology

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Replay one step's buckets, message by message, on up to ten thousand ranks of which some may be late and some links slow."""

    ranks: int = 1024
    """One a device."""
    algorithm: Literal["ring", "tree", "hierarchical", "zero-3"] = "hierarchical"
    """All-reduce of buckets beside backward, or the gathers and reduce-scatters of ZeRO-3, in rings."""
    buckets: int = 40
    """Of one step (zero-3: layers)."""
    bucket_mb: float = 25.0
    """MiB of each."""
    compute_ms: float = 300.0
    """Forward and backward of a rank, in milliseconds."""
    hardware: str = "a100-80g"
    """Links of a known device, or of a .toml file."""
    network: str | None = None
    """Link between nodes; the device's usual one where it is not given."""
    nics: int | None = None
    """Such links of a node; where it is not given, the device's usual number of its usual link, and 1 of another."""
    share: float = 0.8
    """Of the nominal bandwidth of every link."""
    nodes_per_rack: int = 16
    """Nodes that share uplinks."""
    oversubscription: float = 1.0
    """How many times more the nodes of a rack could send than its uplinks carry."""
    straggler: float = 1.0
    """How many times longer rank 0 computes."""
    slow_link: float = 1.0
    """How many times slower what rank 0 sends travels."""
    jitter: float = 0.0
    """Standard deviation of ln(compute) between ranks."""
    seed: int = 0
    """Of the jitter."""


def main(argv: Sequence[str]) -> int:
    """Returns 0. Raises ConfigError for a step or a topology that can't be."""
    asked = tyro.cli(Simulate, args=list(argv), prog="ringzero plan simulate", config=(tyro.conf.FlagConversionOff,))
    if not 0 < asked.share <= 1:
        raise ConfigError(f"--share is {asked.share}; it must be above 0 and at most 1")
    if asked.buckets < 1:
        raise ConfigError(f"--buckets is {asked.buckets}; there must be at least 1")
    box = hardware.machine(asked.hardware, asked.network, nics=asked.nics)
    topology = _topology(asked, box)
    step = Step(
        compute_s=asked.compute_ms / 1e3,
        buckets=[asked.bucket_mb * MIB] * asked.buckets,
        jitter=asked.jitter,
        seed=asked.seed,
    )
    begun = time.perf_counter()
    found = _replay(step, topology, asked.algorithm)
    took = time.perf_counter() - begun
    even = found
    if asked.straggler > 1 or asked.slow_link > 1 or asked.jitter > 0 or asked.oversubscription > 1:
        healthy = replace(topology, slow_links={}, stragglers={}, oversubscription=1.0)
        even = _replay(replace(step, jitter=0.0), healthy, asked.algorithm)
    console = Console(highlight=False)
    show(console, asked, box, found, even)
    if asked.straggler > 1:
        share = straggling(found, step, topology, asked.algorithm)
        console.print(f"of the time by which rank 0 is late, {share:.0%} shows in the step")
    print(f"{found.messages:,} messages replayed in {took:.2g} s")
    return 0


def _replay(step: Step, topology: Topology, algorithm: str) -> Replay:
    return gathers(step, topology) if algorithm == "zero-3" else replay(step, topology, algorithm)


def straggling(found: Replay, step: Step, topology: Topology, algorithm: str) -> float:
    """By how much the straggler lengthens the step, of the time by which it is late. All else stays as slow, jittered and crowded
    as it was asked: that is not the straggler's doing."""
    without = replace(topology, stragglers={})
    late = step.compute_s * float((step.factors(topology) - step.factors(without)).max())
    return (found.step_s - _replay(step, without, algorithm).step_s) / late if late else 0.0


def _topology(asked: Simulate, box: Machine) -> Topology:
    return Topology(
        ranks=asked.ranks,
        per_node=box.per_node,
        inside=asked.share * box.link.gb_s * 1e9,
        rail=asked.share * box.network.gb_s * 1e9,
        rails=box.nics,
        inside_latency=box.link.latency_us * 1e-6,
        rail_latency=box.network.latency_us * 1e-6,
        nodes_per_rack=asked.nodes_per_rack,
        oversubscription=asked.oversubscription,
        slow_links={0: asked.slow_link},
        stragglers={0: asked.straggler},
    )


def show(console: Console, asked: Simulate, box: Machine, found: Replay, even: Replay) -> None:
    """As asked, with nothing slow, late or crowded, and by the closed form."""
    table = Table(
        title=f"{asked.algorithm}, {asked.ranks:,} ranks, {asked.buckets} x {asked.bucket_mb:g} MiB, {asked.hardware}, {box.ports}",
        title_justify="left",
    )
    for heading in (
        "",
        "step ms",
        "slowest rank's compute ms",
        "exchange that shows ms",
        "first rank done ms",
        "median ms",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    kinds = [("as asked", found)] + ([("healthy", even)] if even is not found else [])
    for name, each in kinds:
        numbers = (each.step_s, each.compute_s, each.exposed_s, each.ends.min(), float(np.median(each.ends)))
        table.add_row(name, *(f"{1e3 * number:.2f}" for number in numbers))
    table.add_row("closed form", f"{1e3 * even.closed_s:.2f}", *["-"] * 4)
    console.print(table)
