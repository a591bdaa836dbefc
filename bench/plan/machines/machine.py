"""What a prediction knows of a machine: a device, its links, its nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bench.config import ConfigError

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Link:
    """gb_s: 10^9 bytes/s in one direction, of one device inside a node, of one port of a network. latency_us: a small message's."""

    name: str
    kind: Literal["inside", "network"]
    gb_s: float
    latency_us: float
    sources: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What one rank has. peak_tflops and matmul_bf16_tflops (measured at best) in 10^12 FLOP/s, dense; None: not known."""

    name: str
    kind: Literal["gpu", "cpu"]
    memory_gib: float
    peak_tflops: Mapping[str, float]
    matmul_bf16_tflops: float | None
    memory_gb_s: float | None
    power_w: float | None
    sources: Mapping[str, str]

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * GIB

    def peak(self, precision: str) -> float | None:
        """FLOP/s in `precision` (bf16, fp16, tf32, fp32); bf16 falls back to fp16 where the device has none. None: not known."""
        found = self.peak_tflops.get(precision) or (self.peak_tflops.get("fp16") if precision == "bf16" else None)
        return None if found is None else found * 1e12


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes of `per_node` devices, joined inside by `link`, to their host by `host_link`, to other nodes by `nics` ports."""

    device: Device
    per_node: int
    link: Link
    host_link: Link
    network: Link
    nics: int

    @property
    def ports(self) -> str:
        """What leaves a node, for a title."""
        return f"{self.nics} x {self.network.name} a node"

    def nodes(self, devices: int) -> int:
        """Raises ConfigError where so many devices can't be whole nodes."""
        if devices < 1:
            raise ConfigError(f"--gpus {devices}: there must be at least one")
        if devices > self.per_node and devices % self.per_node:
            low = devices // self.per_node * self.per_node
            raise ConfigError(
                f"--gpus {devices}: nodes have {self.per_node} devices each; type {low} or {low + self.per_node}, "
                "or say how many a node has with --per-node"
            )
        return -(-devices // self.per_node)
