"""Records from a folder. A file that can't be read is told by name, never skipped in silence."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.comparison import SUFFIX
from bench.record import SCHEMA

STUDY = ".tune.json"  # what a search for an engine's best settings was
EVALUATION = ".eval.json"  # ending of what `ringzero evaluate --output` writes: beside records, but no run
COLLECTIVES = ".collectives.json"  # what `ringzero collectives` measured
NEEDED = ("run_id", "status", "started", "config", "experiment", "engine", "world", "environment", "ranks", "losses")


class Unreadable(ValueError):
    """A file is no record that this version reads; the message names it and says what to do."""


@dataclass(frozen=True)
class Loaded:
    """`unreadable`: path and reason of each file that is not in `records`."""

    records: list[dict[str, Any]]
    unreadable: list[tuple[Path, str]]


def read(path: Path) -> dict[str, Any]:
    """One record. Raises Unreadable for a missing or half-written file, or another schema."""
    try:
        record = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise Unreadable(f"{path} is missing; a comparison names it: put it back, or compare again") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise Unreadable(
            f"{path} is not whole JSON ({error}); a run was killed while it wrote: delete the file or run again"
        ) from error
    if not isinstance(record, dict) or "schema" not in record:
        raise Unreadable(f"{path} is no RingZero record (no schema in it); move it out of the results folder")
    if record["schema"] != SCHEMA:
        raise Unreadable(
            f"{path} has schema {record['schema']!r}, this version reads {SCHEMA!r}; "
            "read it with the version that wrote it, or run again"
        )
    if missing := [name for name in NEEDED if name not in record]:
        raise Unreadable(
            f"{path} lacks {', '.join(missing)}; it was edited or not written by a run: delete it or run again"
        )
    return record


def load(folder: Path, names: Sequence[str] | None = None) -> Loaded:
    """The records of a folder, oldest first; with `names`, those files only, in that order.

    Raises Unreadable where the folder does not exist.
    """
    if not folder.is_dir():
        raise Unreadable(f"no folder {folder}; give --results, or make records with: ringzero compare quick")
    every = sorted(
        path for path in folder.glob("*.json") if not path.name.endswith((SUFFIX, STUDY, EVALUATION, COLLECTIVES))
    )
    paths = every if names is None else [folder / name for name in names]
    records, unreadable = [], []
    collecting = gc.isenabled()
    gc.disable()  # thousands of records are millions of objects, none of them in a cycle
    try:
        for path in paths:
            try:
                records.append(read(path))
            except Unreadable as error:
                unreadable.append((path, str(error)))
    finally:
        if collecting:
            gc.enable()
    if names is None:
        records.sort(key=lambda record: str(record["started"]))
    return Loaded(records, unreadable)
