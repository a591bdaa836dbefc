"""The command of bench/plan/calibration/calibrate.py."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
import tyro
from rich.console import Console
from rich.table import Table

from bench.config import ConfigError
from bench.plan.calibration import channel_fit, network_fit, timed
from bench.plan.calibration.calibrate import Calibration, calibrate
from bench.plan.time.constants import Constants, Value, dump
from bench.plan.time.prediction import seconds

REGIMES = 2
NAME = "here"  # of the set in the file


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit the time model's constants to records of runs on this machine, and write them for `ringzero plan --constants`.

    Wanted: runs of one rank and of several, of each engine; that they measured their communication (`--exposed-steps`) or their
    phases; and, to tell what is hidden, a `*.collectives.json` of `ringzero collectives` beside them.
    """

    records: tyro.conf.Positional[list[Path]]
    """Results folders, records, measurements of collectives."""
    cores: int | None = None
    """Cores that all ranks share; by default the machine's, and 0 (a device each) for runs on GPUs."""
    hosts: int | None = None
    """Fit only to runs of at most so many hosts, and hold the constants against the others."""
    links: str | None = None
    """Fit only to runs over these links of a laboratory (`1gbit,10gbit`), and hold the constants against the others."""
    library: str = "gloo"
    """Whose collectives describe the channel."""
    output: Path = Path("constants.toml")
    """File to write."""


def main(argv: Sequence[str]) -> int:
    """Returns 0. Raises ConfigError for records from which nothing follows."""
    asked = tyro.cli(Calibrate, args=list(argv), prog="ringzero plan calibrate")
    runs, files = timed.read(asked.records)
    rows = timed.seen(runs)
    if not rows:
        raise ConfigError(
            "none of the records is a done run of an engine that the planner knows; run: ringzero compare quick"
        )
    cores = asked.cores if asked.cores is not None else _cores(runs)
    if cores < 0:
        raise ConfigError(f"--cores is {cores}; it must be 0 or more")
    channels = {}
    if files:
        measured = [orjson.loads(file.read_bytes()) for file in files]
        channels["intra"] = channel_fit.fit(timed.points(measured, asked.library), REGIMES)
    names = ", ".join(str(path) for path in asked.records)
    fitted = chosen(rows, asked.hosts, asked.links)
    source = f"{sum(row.runs for row in fitted)} runs of {names}"
    found = calibrate(fitted, cores=cores, channels=channels, source=source)
    dump({NAME: found.constants}, asked.output)
    console = Console(highlight=False)
    show(console, found)
    if others := [row for row in rows if row not in fitted]:
        console.print(_rows("rows it was not fitted to", others, found.constants))
        for line in held_out(others, found.constants):
            console.print(line)
    print(f"wrote {asked.output}")
    return 0


def show(console: Console, found: Calibration) -> None:
    """Every constant with its standard error; every row beside what the constants say of it; what could not be told."""
    constants = found.constants
    table = Table(title="constants, fitted to " + constants.source, title_justify="left")
    for heading in ("constant", "value", "standard error", "unit"):
        table.add_column(heading, justify="right" if heading in ("value", "standard error") else "left")
    if constants.rate is not None:
        _line(table, "rate of a rank", constants.rate, "FLOP/s")
    _line(table, "contention", constants.contention, "share of compute, all cores busy")
    if constants.pass_s.error is not None:
        _line(table, "pass_s", constants.pass_s, "s a micro-batch, whatever its size")
    if constants.latency_s is not None:
        _line(table, "latency_s", constants.latency_s, "s a message between hosts")
        _line(table, "byte_s", constants.byte_s, "s a byte between hosts, beside the link")
        _line(table, "network_share", constants.network_share, "of a link's bandwidth")
    for name, unit in (("host_s", "s a step"), ("call_s", "s a collective"), ("hidden", "share of communication")):
        for engine, value in getattr(constants, name).items():
            _line(table, f"{name} {engine}", value, unit)
    for name, channel in found.channels.items():
        for number, (line, error) in enumerate(zip(channel.channel.lines, channel.errors, strict=True)):
            for constant, unit in (("alpha", "s"), ("beta", "s/byte"), ("gamma", "s/byte")):
                value = Value(getattr(line, constant), getattr(error, constant))
                _line(table, f"{constant} {name}, regime {number + 1}", value, unit)
    for name, plain in constants.channels.items():
        if name not in found.channels:
            _line(table, f"alpha {name}", Value(plain.lines[0].alpha), "s, of what shows")
            _line(table, f"beta {name}", Value(plain.lines[0].beta), "s/byte, of what shows")
    console.print(table)
    console.print(_rows("rows it was fitted to: no test of the model", found.rows, constants))
    for note in found.notes:
        console.print(f"- {note}", soft_wrap=True)


def chosen(rows: Sequence[timed.Seen], hosts: int | None, links: str | None) -> list[timed.Seen]:
    """Rows of one rank, and of those of several the ones that are asked for. Raises ConfigError for a link that no row has."""
    speeds = None if links is None else {_bytes(word) for word in links.split(",")}
    if speeds is not None and (unknown := speeds - {row.bandwidth for row in rows}):
        raise ConfigError(f"--links {links}: no run over {', '.join(f'{8 * each / 1e9:g} gbit' for each in unknown)}")
    return [
        row
        for row in rows
        if row.ranks == 1 or ((hosts is None or row.hosts <= hosts) and (speeds is None or row.bandwidth in speeds))
    ]


def _bytes(word: str) -> float:
    """A second, of a link as the laboratory names it."""
    found = re.fullmatch(r"([\d.]+)\s*([mg])bit|unshaped", word.strip().lower())
    if found is None:
        raise ConfigError(f"--links {word.strip()}: type links such as 100mbit, 1gbit or unshaped")
    return float(found[1]) * (1e6 if found[2] == "m" else 1e9) / 8 if found[1] else math.inf


def held_out(rows: Sequence[timed.Seen], constants: Constants) -> list[str]:
    """By engine: median and worst error of rows that had no say."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.engine, []).append(abs(step(row, constants) / row.step_s - 1))
    return [
        f"{name}: median {np.median(each):.1%}, worst {max(each):.1%} of {len(each)}" for name, each in found.items()
    ]


def step(row: timed.Seen, constants: Constants) -> float:
    """A row's step as predicted; a plain process has no engine's host time."""
    if row.engine == "single":
        constants = replace(constants, host_s={})
    return seconds(
        row.work, "ddp" if row.engine == "single" else row.engine, row.ranks, network_fit.box(row), constants
    )


def _rows(title: str, rows: Sequence[timed.Seen], constants: Constants) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("engine", "ranks", "hosts", "link", "runs", "measured s", "predicted s", "error"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in rows:
        told = step(row, constants)
        link = (
            "-"
            if row.bandwidth is None
            else f"{8 * row.bandwidth / 1e9:g} gbit"
            if row.bandwidth < math.inf
            else "unshaped"
        )
        cells = (str(row.ranks), str(row.hosts), link, str(row.runs), f"{row.step_s:.4g}", f"{told:.4g}")
        table.add_row(row.engine, *cells, f"{told / row.step_s - 1:+.1%}")
    return table


def _line(table: Table, name: str, value: Value, unit: str) -> None:
    error = "-" if value.error is None else f"{value.error:.2g}"
    table.add_row(name, f"{value.value:.4g}", error, unit)


def _cores(runs: Sequence[timed.Record]) -> int:
    first = runs[0]
    if (first["world"].get("device") or "cpu") == "cuda":
        return 0
    machine_ = (first["environment"].get("machine") or {}) if isinstance(first["environment"], dict) else {}
    return int(machine_.get("cores") or 1)
