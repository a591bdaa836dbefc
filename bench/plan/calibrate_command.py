"""The command of bench/plan/calibrate.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import tyro
from rich.console import Console
from rich.table import Table

from bench.config import ConfigError
from bench.plan import channel_fit, timed
from bench.plan.calibrate import Calibration, calibrate
from bench.plan.constants import Value, dump
from bench.plan.hardware import machine
from bench.plan.time import seconds

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
    for file in files:
        channels["intra"] = channel_fit.fit(timed.points(orjson.loads(file.read_bytes()), asked.library), REGIMES)
    names = ", ".join(str(path) for path in asked.records)
    found = calibrate(rows, cores=cores, channels=channels, source=f"{sum(row.runs for row in rows)} runs of {names}")
    dump({NAME: found.constants}, asked.output)
    show(Console(highlight=False), found)
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
    _rows(console, found)
    for note in found.notes:
        console.print(f"- {note}", soft_wrap=True)


def _rows(console: Console, found: Calibration) -> None:
    table = Table(title="rows it was fitted to: no test of the model", title_justify="left")
    for heading in ("engine", "ranks", "hosts", "runs", "measured s", "fitted s", "error"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in found.rows:
        box = machine("epyc-7763", per_node=max(1, row.ranks // row.hosts))  # its links and peaks are not asked for
        engine = "ddp" if row.engine == "single" else row.engine
        constants = found.constants
        fitted = seconds(row.work, engine, row.ranks, box, constants)
        if row.engine == "single":
            fitted -= constants.host_s[engine].value if engine in constants.host_s else 0.0
        error = f"{fitted / row.step_s - 1:+.1%}"
        table.add_row(
            row.engine, str(row.ranks), str(row.hosts), str(row.runs), f"{row.step_s:.4g}", f"{fitted:.4g}", error
        )
    console.print(table)


def _line(table: Table, name: str, value: Value, unit: str) -> None:
    error = "-" if value.error is None else f"{value.error:.2g}"
    table.add_row(name, f"{value.value:.4g}", error, unit)


def _cores(runs: Sequence[timed.Record]) -> int:
    first = runs[0]
    if (first["world"].get("device") or "cpu") == "cuda":
        return 0
    machine_ = (first["environment"].get("machine") or {}) if isinstance(first["environment"], dict) else {}
    return int(machine_.get("cores") or 1)
