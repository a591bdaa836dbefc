"""What the time model is calibrated with: rows of records, and measured collectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import exposed, stats
from bench.config import ConfigError
from bench.plan.calibration.channel_fit import Point
from bench.plan.time.work import ENGINES, Work
from bench.record import first_step
from bench.report import conditions
from bench.report.load import Unreadable
from bench.report.load import read as read_record

Record = Mapping[str, Any]
COLLECTIVES = ".collectives.json"
WHOLE = ("gloo", "deepspeed")  # their reduce-scatter is an all-reduce of which a rank keeps its part (bench/wire.py)


@dataclass(frozen=True)
class Seen:
    """One row: an engine on some ranks. Seconds a step; communication None where no run measured it."""

    engine: str
    ranks: int
    hosts: int
    work: Work
    step_s: float
    communication_s: float | None
    runs: int
    bandwidth: float | None = None
    """Bytes a second of a host's link, headers included; infinite where nothing shapes it; None where it is not known."""

    @property
    def own_s(self) -> float:
        return self.step_s - (self.communication_s or 0.0)


def seen(records: Sequence[Record]) -> list[Seen]:
    """Rows of done runs whose step the model speaks of: one workload's images, an engine it knows, or one plain process.

    A row's runs are repeats of one, as in a report. A training that went on timed its own steps alone: it is left out.
    """
    groups: dict[tuple[str, int, int, float, str, int, conditions.Conditions], list[Record]] = {}
    for record in records:
        label, work = record["engine"].get("label"), record.get("workload") or {}
        if record["status"] != "done" or label not in ("single", *ENGINES) or record.get("track") == "tuned":
            continue
        if not (work.get("cost") or {}).get("blocks") or work.get("instruction_tokens") is not None:
            continue
        if first_step(record):
            continue
        world = record["world"]
        hosts = len(world.get("hosts") or ()) or 1
        cut = record["config"]["training"]["accumulation"]  # no part of the experiment, but of its speed
        under = conditions.of(record)
        key = (label, world["size"], hosts, _bandwidth(record), record["experiment"], cut, under)
        groups.setdefault(key, []).append(record)
    return [_row(*key[:4], groups[key]) for key in sorted(groups, key=lambda key: (*key[:-1], repr(key[-1])))]


def _bandwidth(record: Record) -> float:
    """Of a host's link, as a laboratory shapes it; 0 where it is not known."""
    lab = record.get("lab")
    if not lab:
        return 0.0
    return lab["rate_bits"] / 8 if lab["rate_bits"] else math.inf


def _row(label: str, ranks: int, hosts: int, speed: float, runs: Sequence[Record]) -> Seen:
    first, workload = runs[0], runs[0]["workload"]
    training, engine = first["config"]["training"], first["config"]["engine"]
    work = Work(
        cost=workload["cost"],
        micro_batch=workload["micro_batch"],
        accumulation=training["accumulation"],
        bucket_mb=engine["bucket_mb"],
        real_scatter=(first["world"].get("device") or "cpu") == "cuda",
    )
    taken = exposed.exposed(runs)
    phases = exposed.phases(runs) if taken is None and ranks > 1 else None
    comm = 0.0 if ranks == 1 else taken.median if taken else phases["communication"] if phases else None
    return Seen(
        label,
        ranks,
        hosts,
        work,
        stats.step_s(runs).median,
        None if comm is None else max(comm, 0.0),
        len(runs),
        speed or None,
    )


def points(records: Sequence[Record], library: str) -> list[Point]:
    """A library's measured collectives out of `*.collectives.json`, each the median over iterations of the slowest rank.

    Raises ConfigError where the library is in none of them.
    """
    whole = [(record, row) for record in records for row in record["rows"] if row["rounds"]]
    names = {"all_reduce": "all-reduce", "reduce_scatter": "reduce-scatter", "all_gather": "all-gather"}
    if library in WHOLE:
        names["reduce_scatter"] = "all-reduce"
    found = []
    for record, row in whole:
        if row["library"] == library and not row["wrong"] and row["operation"] in names:
            times = np.concatenate([np.max(turn["ns"], axis=0) for turn in row["rounds"]]) / 1e9
            kind, ranks = names[row["operation"]], record["world"]["ranks"]
            found.append(Point(kind, "ring", ranks, float(row["bytes"]), float(np.median(times))))
    if not found:
        there = ", ".join(sorted({row["library"] for _, row in whole})) or "none"
        raise ConfigError(f"--library {library} was not measured; there are: {there}")
    return found


def read(paths: Sequence[Path]) -> tuple[list[Record], list[Path]]:
    """Records of runs, and files of collectives, of folders and files."""
    runs: list[Record] = []
    collectives: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} is not there; give a results folder or a record")
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            if file.name.endswith(COLLECTIVES):
                collectives.append(file)
                continue
            try:
                runs.append(read_record(file))
            except Unreadable as error:
                if not path.is_dir():
                    raise ConfigError(str(error)) from None
    if not runs:
        raise ConfigError(f"no records of runs in {', '.join(map(str, paths))}; make some with: ringzero compare quick")
    return runs, collectives
