"""pytest-benchmark's JSON, so that `pytest-benchmark compare` and services that keep such files read a comparison."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import stats
from bench.config import ConfigError
from bench.report.rows import Group, Row
from bench.report.table import status, title

Record = Mapping[str, Any]


def write(groups: Sequence[Group], records: Sequence[Record], path: Path) -> list[Path]:
    """One file. Raises ConfigError without pytest-benchmark, or where no row has a speed."""
    if find_spec("pytest_benchmark") is None:
        raise ConfigError(
            "pytest-benchmark is not installed, its statistics are needed; type: pip install -c constraints.txt -e '.[test]'"
        )
    content = document(groups, records)
    if not content["benchmarks"]:
        raise ConfigError("no row has a speed to export: every run failed or is void")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n")
    return [path]


def document(groups: Sequence[Group], records: Sequence[Record]) -> dict[str, Any]:
    """A benchmark a row, a round a step: seconds of the slowest rank, all runs of the row. Rows without a speed are left out.

    machine_info and commit_info are the first record's: a file of theirs has room for one of each.
    """
    by_name = {f"{record['run_id']}.json": record for record in records}
    first = records[0]["environment"] or {}
    machine = first.get("machine") or {}
    return {
        "machine_info": {
            "node": (records[0]["world"].get("hosts") or ["unknown"])[0],
            "processor": machine.get("cpu"),
            "machine": "unknown",
            "python_implementation": "CPython",
            "python_version": first.get("python"),
            "release": first.get("kernel"),
            "system": "Linux",
            "cpu": {"brand_raw": machine.get("cpu"), "count": machine.get("cores")},
        },
        "commit_info": {"id": first.get("commit") or "unversioned", "time": None, "author_time": None,
                        "dirty": bool(first.get("dirty")), "project": "ringzero", "branch": "(unknown)"},
        "benchmarks": [
            _benchmark(group, row, [by_name[name] for name in row.files])
            for group in groups for row in group.rows if row.throughput is not None
        ],
        "datetime": min(str(record["started"]) for record in records),
        "version": version("pytest-benchmark"),
    }  # fmt: skip


def _benchmark(group: Group, row: Row, runs: Sequence[Record]) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    seconds = Stats()
    for run in runs:
        for step in stats.slowest(run["ranks"]).tolist():
            seconds.update(step)
    name = f"step[{row.label}-np{row.ranks}]"
    under = [f"{condition}={value}" for condition, value in group.under]
    return {
        "group": title(group),
        "name": name,
        "fullname": "/".join(["ringzero", group.experiment, group.device, *under]) + f"::{name}",
        "params": {"engine": row.label, "ranks": row.ranks},
        "param": f"{row.label}-np{row.ranks}",
        "extra_info": {
            "verdict": status(row),
            "samples_per_s": row.throughput.median if row.throughput else None,
            "global_batch": group.config["training"]["global_batch"],
            "memory_bytes": row.memory_bytes,
            "final_loss": row.final_loss,
            "oversubscribed": row.oversubscribed,
            "machine": group.machine,
            "records": list(row.files),
        },
        "options": {"disable_gc": True, "warmup": group.config["measure"]["warmup"] > 0, "timer": "perf_counter",
                    "min_rounds": seconds.rounds // len(row.files), "max_time": None, "min_time": None},
        "stats": {**seconds.as_dict(), "data": seconds.data, "iterations": 1},
    }  # fmt: skip
