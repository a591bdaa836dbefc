"""The record of a measurement: one JSON file, replaced as a whole after each size. Fields: results/README.md."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.collectives.catalog import LIBRARIES
from bench.collectives.hall import COPY_BYTES, Hall
from bench.collectives.plan import Plan
from bench.config import ConfigError
from bench.environment import snapshot
from bench.record import now, plain, sync
from bench.report.load import COLLECTIVES

SCHEMA = 1
KIND = "collectives"
SUFFIX = COLLECTIVES


def name(ranks: int) -> str:
    """A name that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}Z_np{ranks}{SUFFIX}"


def opening(plan: Plan, cores: int) -> dict[str, Any]:
    """What is known before the first turn."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "status": "running",
        "started": now(),
        "finished": None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "plan": {
            "sizes": list(plan.sizes),
            "operations": list(plan.operations),
            "libraries": [library.name for library in plan.libraries],
            "repeats": plan.repeats,
            "turn_s": plan.turn_s,
            "limit_s": plan.limit_s,
            "seed": plan.seed,
        },
        "world": {"ranks": plan.ranks, "cores": cores, "oversubscribed": plan.ranks > cores, "threads": 1},
        "environment": snapshot(),
        "libraries": {},
        "pools": {},
        "copy": {"bytes": COPY_BYTES, "unit": "ns", "turns": []},
        "unit": "ns",
        "rows": [],
    }


def libraries(plan: Plan, hall: Hall) -> dict[str, Any]:
    """Of each library: its pool, its settings, and why it fell out where it did."""
    return {
        library.name: {
            "what": LIBRARIES[library.name].what,
            "pool": library.pool,
            "settings": hall.found.get(library.name),
            "reason": hall.reasons.get(library.name),
        }
        for library in plan.libraries
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all, also where the power goes. Raises ConfigError where the folder does not take it."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            json.dump(plain(record), file, default=str, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}; name another folder with --results"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Raises ConfigError for a file that is no record of collectives, or of a schema that this version does not know."""
    try:
        record: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ConfigError(f"{path} is no record of `ringzero collectives`; its files end in {SUFFIX}")
    if record.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path} has schema {record.get('schema')!r}, this version reads {SCHEMA}: take a newer version"
        )
    return record
