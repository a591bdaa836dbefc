"""What a comparison was: its matrix, its order and the records it made, kept beside them."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.record import now, sync

SCHEMA = 1
SUFFIX = ".compare.json"
OLDER = {"began", "resumed", "run_limit_s", "hosts", "links"}  # not in files of the first version


class ComparisonError(ValueError):
    """No comparison, or none that this version reads; the message says what to do."""


@dataclass(kw_only=True)
class Comparison:
    """`order`: the runs in words; `records`: the file of each that was taken, so the next run is `order[len(records)]`.

    `unavailable`: engines left out, and why. `began`: commit, machine and versions it started on. `resumed`: when it went
    on after a stop, at which run, and what differed then. `run_limit_s`: seconds of one run; None in older files. `hosts`: a:4,b:4
    of one over several. `links`: bandwidths of the laboratory that each run was taken on.
    """

    name: str
    matrix: Mapping[str, Any]
    seed: int
    started: str
    order: list[str]
    unavailable: dict[str, str]
    records: list[str] = field(default_factory=list)
    finished: str | None = None
    ended: str = "running"  # then: complete, interrupted
    began: Mapping[str, Any] = field(default_factory=dict)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    run_limit_s: float | None = None
    hosts: str | None = None
    links: list[str] | None = None
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Write whole or not at all, also where the power goes; called after each run, so an end at any time loses nothing."""
        path = folder / f"{self.name}{SUFFIX}"
        partial = path.with_name(path.name + ".partial")
        with partial.open("w") as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(folder)
        return path

    def end(self, how: str) -> None:
        """Say how it ended, and when."""
        self.ended, self.finished = how, now()


def stamp() -> str:
    """UTC for a file name."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def read(path: Path) -> Comparison:
    """Raises ComparisonError for a missing, broken or unknown file."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ComparisonError(f"no comparison {path}; there are: {', '.join(names(path.parent)) or 'none'}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ComparisonError(f"{path} is not whole JSON ({error}); delete it or compare again") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else None
        raise ComparisonError(
            f"{path} has schema {found!r}, this version reads {SCHEMA}; read it with the version that wrote it"
        )
    known = {each.name for each in dataclasses.fields(Comparison)}
    wrong = (set(values) - known) | (known - OLDER - set(values))
    if wrong:
        raise ComparisonError(f"{path} has fields missing or unknown: {', '.join(sorted(wrong))}")
    return Comparison(**values)


def names(folder: Path) -> list[str]:
    """Comparisons in a folder, oldest first: their names begin with the time."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def latest(folder: Path) -> Comparison:
    """The newest comparison of a folder. Raises ComparisonError where there is none."""
    found = names(folder) if folder.is_dir() else []
    if not found:
        raise ComparisonError(f"no comparison in {folder}; make one with: ringzero compare quick")
    return read(folder / f"{found[-1]}{SUFFIX}")
