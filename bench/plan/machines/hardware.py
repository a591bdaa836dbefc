"""Machines as data: devices and links of `data/hardware.toml`, each value with its source, or a user's own TOML file.

A user's file has a table `[device]` and, where no known link fits, tables `[link]` (inside a node), `[host_link]` and `[network]`:

    [device]
    name = "our box"
    kind = "gpu"
    memory_gib = 24
    peak_bf16_tflops = 71
    peak_fp32_tflops = 35
    per_node = 4
    link = "pcie4"

    [network]
    gb_s = 1.25
    latency_us = 20
"""

import difflib
import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from bench.config import ConfigError
from bench.plan.machines.machine import Device, Link, Machine

PEAKS = ("bf16", "fp16", "tf32", "fp32")
NUMBERS = ("memory_gib", *(f"peak_{name}_tflops" for name in PEAKS), "matmul_bf16_tflops", "memory_gb_s", "power_w")
COUNTS = ("per_node", "nics")
WORDS = ("name", "kind", "link", "host_link", "network")
NEEDED = ("kind", "memory_gib")
LINK_NUMBERS = ("gb_s", "latency_us")


@functools.cache
def _shipped() -> dict[str, Any]:
    return tomllib.loads(files("bench.plan").joinpath("data/hardware.toml").read_text(encoding="utf-8"))


def devices() -> tuple[str, ...]:
    """Names of the devices that are known."""
    return tuple(_shipped()["device"])


def links(kind: str) -> tuple[str, ...]:
    """Names of the links of a kind, `inside` or `network`, that are known."""
    return tuple(name for name, link in _shipped()["link"].items() if link["kind"] == kind)


def machine(
    hardware: str, network: str | None = None, *, per_node: int | None = None, nics: int | None = None
) -> Machine:
    """The machine of a known device, or of a user's file where `hardware` ends in .toml; the rest overrides its usual node.

    Another network than its own has one port a node: the device's eight are of its own, and nobody said there are eight of these.
    Raises ConfigError for what is unknown or makes no sense.
    """
    if hardware.endswith(".toml"):
        made = read(Path(hardware))
    else:
        known = _shipped()["device"]
        _known(hardware, known, "--hardware", "or the path of a .toml file of your own (docs/plan.md)")
        made = _machine(known[hardware], hardware, {})
    if network is not None:
        other = link(network, "network", "--network")
        made = replace(made, network=other, nics=made.nics if other.name == made.network.name else 1)
    for flag, value in (("per-node", per_node), ("nics", nics)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} is {value}; it must be at least 1")
    return replace(made, per_node=per_node or made.per_node, nics=nics or made.nics)


def read(path: Path) -> Machine:
    """A user's machine. Raises ConfigError, naming file and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}); give the path of a machine's TOML file") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    tables = ("device", "link", "host_link", "network")
    if unknown := sorted(set(found) - set(tables)):
        raise ConfigError(f"{path}: unknown table {unknown[0]!r}; there are: {', '.join(tables)}")
    if any(not isinstance(found[name], dict) for name in found) or "device" not in found:
        raise ConfigError(f"{path}: a machine needs a table [device]; docs/plan.md has an example")
    try:
        own = {name: _link(found[name], name, _kind(name)) for name in tables[1:] if name in found}
        return _machine(found["device"], path.stem, own)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def link(name: str, kind: Literal["inside", "network"], flag: str) -> Link:
    """A known link. Raises ConfigError, naming `flag`."""
    _known(name, links(kind), flag)
    return _link(_shipped()["link"][name], name, kind)


def _kind(table: str) -> Literal["inside", "network"]:
    return "network" if table == "network" else "inside"


def _known(name: str, known: Iterable[str], flag: str, otherwise: str = "") -> None:
    if name not in (names := list(known)):
        near = difflib.get_close_matches(name, names, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise ConfigError(f"{flag} {name}: unknown; {meant}" + (f" ({otherwise})" if otherwise else ""))


def _machine(table: Mapping[str, Any], name: str, own: Mapping[str, Link]) -> Machine:
    known = (*WORDS, *NUMBERS, *COUNTS)
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"[device] has no field {unknown[0]!r}; there are: {', '.join(known)}")
    if missing := [field for field in NEEDED if field not in table]:
        raise ConfigError(f"[device] lacks {missing[0]}")
    if table["kind"] not in ("gpu", "cpu"):
        raise ConfigError(f"[device] kind is {table['kind']!r}; it is gpu or cpu")
    read = {field: _number(table[field], f"[device] {field}") for field in (*NUMBERS, *COUNTS) if field in table}
    for field in COUNTS:
        if field in read and read[field][0] != int(read[field][0]):
            raise ConfigError(f"[device] {field} is {read[field][0]}; it is a whole number")
    values = {field: value for field, (value, _) in read.items()}
    peaks = {each: values[f"peak_{each}_tflops"] for each in PEAKS if f"peak_{each}_tflops" in values}
    device = Device(
        name=str(table.get("name", name)),
        kind=table["kind"],
        memory_gib=values["memory_gib"],
        peak_tflops=peaks,
        matmul_bf16_tflops=values.get("matmul_bf16_tflops"),
        memory_gb_s=values.get("memory_gb_s"),
        power_w=values.get("power_w"),
        sources={field: source for field, (_, source) in read.items()},
    )
    inside = own.get("link") or link(str(table.get("link", "pcie4")), "inside", "[device] link")
    host = own.get("host_link") or link(str(table.get("host_link", "pcie4")), "inside", "[device] host_link")
    network = own.get("network") or link(str(table.get("network", "100gbe")), "network", "[device] network")
    per_node, nics = int(values.get("per_node", 1)), int(values.get("nics", 1))
    return Machine(device=device, per_node=per_node, link=inside, host_link=host, network=network, nics=nics)


def _link(table: Mapping[str, Any], name: str, kind: Literal["inside", "network"]) -> Link:
    if unknown := sorted(set(table) - {*LINK_NUMBERS, "kind", "name"}):
        raise ConfigError(f"[{name}] has no field {unknown[0]!r}; there are: {', '.join(LINK_NUMBERS)}")
    if missing := [field for field in LINK_NUMBERS if field not in table]:
        raise ConfigError(f"[{name}] lacks {missing[0]}")
    read = {field: _number(table[field], f"[{name}] {field}") for field in LINK_NUMBERS}
    sources = {field: source for field, (_, source) in read.items()}
    called = str(table.get("name", name))
    return Link(name=called, kind=kind, gb_s=read["gb_s"][0], latency_us=read["latency_us"][0], sources=sources)


def _number(given: Any, where: str) -> tuple[float, str]:
    """(value, source): a number, or a table with both. The source may be a key of [sources]."""
    value, source = (given.get("value"), given.get("source")) if isinstance(given, dict) else (given, "stated")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} is {value!r}; it is a number")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{where} is {value}; it must be above 0")
    return float(value), _shipped()["sources"].get(source, str(source))
