"""Constants of the time model: fitted or stated, each with its standard error, as one TOML file."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.config import ConfigError
from bench.plan.machines.links import Channel, Line

SCHEMA = 1
GENERATIONS = {"v100": "volta", "a100": "ampere", "h100": "hopper", "h200": "hopper"}  # by the start of a device's name
SHARED = ("efficiency", "link_share", "network_share", "sync", "rate", "contention", "pass_s", "latency_s", "byte_s")
ENGINE = ("hidden", "host_s", "call_s")


@dataclass(frozen=True)
class Value:
    """A constant. `error`: its standard error, None where it is stated, not fitted."""

    value: float
    error: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.value < 0:
            raise ConfigError(f"a constant is {self.value}; it must be a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Constants:
    """One machine's, or one generation's of devices."""

    source: str
    """What they were fitted to."""
    efficiency: Value = Value(1.0)
    """Share of the device's stated peak that products reach (before what moves memory is added)."""
    link_share: Value = Value(0.8)
    """Share of the nominal bandwidth that a collective reaches inside a node."""
    network_share: Value = Value(0.8)
    """The same between nodes."""
    sync: Value = Value(0.0)
    """Lost share of a step a doubling of the ranks, one synchronisation a step: waiting for the slowest."""
    hidden: Mapping[str, Value] = field(default_factory=dict)
    """By engine: share of its communication that goes on beside compute, as far as there is compute beside it."""
    host_s: Mapping[str, Value] = field(default_factory=dict)
    """By engine: seconds a step of its own work on the host that nothing hides."""
    call_s: Mapping[str, Value] = field(default_factory=dict)
    """By engine: seconds a collective that it takes beside what the channel takes, and that nothing hides."""
    rate: Value | None = None
    """FLOP/s that one rank reaches, in the place of peak and efficiency."""
    contention: Value = Value(0.0)
    """Ranks that share a machine's cores: by how much each one's compute is longer where all cores are busy, than where one is."""
    pass_s: Value = Value(0.0)
    """Seconds of a micro-batch's forward and backward that do not depend on its size: calls, not products."""
    latency_s: Value | None = None
    """Seconds a message between hosts, in the place of the machine's."""
    byte_s: Value = Value(0.0)
    """Seconds a byte between hosts beside what the link takes: copies, the kernel."""
    cores: int = 0
    """Cores that all ranks share: more ranks than that take turns. 0: every rank has a device of its own."""
    channels: Mapping[str, Channel] = field(default_factory=dict)
    """`intra`, `inter`: measured, in the place of the machine's nominal ones."""
    scatter: float = 0.25
    """Standard deviation of ln(measured / predicted) that remained."""
    ranks: tuple[int, int] = (1, 1)
    """Fewest and most ranks among the runs."""

    @property
    def engines(self) -> frozenset[str]:
        """Those that were calibrated."""
        return frozenset(self.hidden) | frozenset(self.host_s)

    def turns(self, ranks: int) -> float:
        """How many times longer what a core does takes where `ranks` share the cores: more than there are take turns."""
        return max(1.0, ranks / self.cores) if self.cores else 1.0

    def crowd(self, ranks: int) -> float:
        """The same of compute, which busy neighbours slow down too."""
        return self.turns(ranks) * (1 + self.contention.value * busy(ranks, self.cores))


def busy(ranks: int, cores: int) -> float:
    """0 where one rank runs alone, 1 where every core has one."""
    return (min(ranks, cores) - 1) / (cores - 1) if cores > 1 else 0.0


def dump(sets: Mapping[str, Constants], path: Path) -> None:
    """Write named sets. Raises ConfigError where the file can't be written."""
    lines = [f"schema = {SCHEMA}"]
    for name, constants in sets.items():
        head = f"set.{name}"
        lines += ["", f"[{head}]", f"source = {_quote(constants.source)}", f"scatter = {constants.scatter:.6g}"]
        lines += [f"ranks = [{constants.ranks[0]}, {constants.ranks[1]}]", f"cores = {constants.cores}"]
        shared = {each: getattr(constants, each) for each in SHARED}
        lines += [f"{each} = {_inline(value)}" for each, value in shared.items() if value is not None]
        for kind in ENGINE:
            values: Mapping[str, Value] = getattr(constants, kind)
            if values:
                lines += [f"[{head}.{kind}]", *(f"{engine} = {_inline(value)}" for engine, value in values.items())]
        for channel, found in constants.channels.items():
            regimes = ", ".join(
                f"{{ alpha = {line.alpha:.6g}, beta = {line.beta:.6g}, gamma = {line.gamma:.6g} }}"
                for line in found.lines
            )
            lines += [f"[{head}.channel.{channel}]", f"lines = [{regimes}]"]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror}); give another path") from error


def load(path: Path) -> dict[str, Constants]:
    """Sets by name. Raises ConfigError, naming file and field."""
    try:
        return _sets(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}); `ringzero plan calibrate` writes one") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def shipped() -> dict[str, Constants]:
    """By generation of devices, fitted to all published throughputs (`plan validate` tells how well they predict others)."""
    text = files("bench.plan").joinpath("data/constants.toml").read_text(encoding="utf-8")
    return _sets(tomllib.loads(text))


def chosen(path: Path | None, hardware: str) -> Constants:
    """The first set of a file, or, without one, the shipped set of a device."""
    return of_hardware(hardware) if path is None else next(iter(load(path).values()))


def of_hardware(name: str) -> Constants:
    """The shipped constants of a known device's generation; for another device, wide stated ones that say so."""
    generation = next((kind for start, kind in GENERATIONS.items() if name.startswith(start)), None)
    if generation is not None:
        return shipped()[generation]
    source = f"stated, not fitted: nothing of {name} is published here; calibrate with your own runs"
    return Constants(source=source, efficiency=Value(0.4), scatter=0.5, ranks=(0, 0))


def _sets(found: Mapping[str, Any]) -> dict[str, Constants]:
    if found.get("schema") != SCHEMA:
        raise ConfigError(
            f"schema is {found.get('schema')}, not {SCHEMA}: write it anew with `ringzero plan calibrate`"
        )
    if not isinstance(found.get("set"), dict) or not found["set"]:
        raise ConfigError("there is no table [set.NAME]")
    return {name: _constants(table, name) for name, table in found["set"].items()}


def _constants(table: Mapping[str, Any], name: str) -> Constants:
    known = {"source", "scatter", "ranks", "cores", "channel", *SHARED, *ENGINE}
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"[set.{name}] has no field {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    if "efficiency" not in table and "rate" not in table:
        raise ConfigError(f"[set.{name}] lacks efficiency, or rate")
    try:
        return Constants(
            source=str(table.get("source", "stated")),
            scatter=float(table.get("scatter", 0.25)),
            ranks=(int(table["ranks"][0]), int(table["ranks"][1])) if "ranks" in table else (1, 1),
            cores=int(table.get("cores", 0)),
            **dict[str, Any]({each: _value(table[each]) for each in SHARED if each in table}),
            **dict[str, Any](
                {kind: {engine: _value(each) for engine, each in table.get(kind, {}).items()} for kind in ENGINE}
            ),
            channels={
                kind: Channel(tuple(Line(**line) for line in channel["lines"]))
                for kind, channel in table.get("channel", {}).items()
            },
        )
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"[set.{name}] can't be read: {error!r}") from error


def _value(given: Any) -> Value:
    if isinstance(given, Mapping):
        return Value(float(given["value"]), None if given.get("error") is None else float(given["error"]))
    return Value(float(given))


def _inline(value: Value) -> str:
    error = "" if value.error is None else f", error = {value.error:.3g}"
    return f"{{ value = {value.value:.6g}{error} }}"


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
