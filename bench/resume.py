"""A comparison that was stopped goes on: what was measured is found, what was in flight is closed and taken again."""

import contextlib
import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import comparison, environment, launch, launchers, machine, processes
from bench.comparison import SUFFIX, Comparison, ComparisonError
from bench.failed import End
from bench.launch import INCOMING
from bench.matrix import Cell, Matrix, MatrixError
from bench.record import now
from bench.report import load

CUT = End("interrupted", "the comparison was stopped while this ran; it was taken again", ours=True)


def surroundings() -> dict[str, Any]:
    """What must not change within a comparison: commit, versions, and the machine without what moves by itself."""
    seen = machine.look()
    return {
        "host": platform.node(),
        "cpu": seen.cpu,
        "gpus": list(seen.gpus),
        "cores": list(seen.allowed),
        "variables": dict(seen.variables),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **environment.versions(),
        **{k: v for k, v in environment.commit().items() if k in ("commit", "dirty")},
    }


def differing(began: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the comparison began, a line each."""
    if not began:
        return ["it does not say what it began on"]
    return [
        f"{name} was {began.get(name)}, is {here.get(name)}"
        for name in dict.fromkeys((*began, *here))
        if began.get(name) != here.get(name)
    ]


def find(results: Path, name: str | None) -> Comparison:
    """The comparison of that name, or the latest unfinished one (of a matrix of that name). Raises ComparisonError."""
    names = comparison.names(results) if results.is_dir() else []
    if name in names:
        found = comparison.read(results / f"{name}{SUFFIX}")
        if found.ended == "complete":
            raise ComparisonError(
                f"{name} is complete: there is nothing to go on with; show it: ringzero report {name}"
            )
        return found
    known = (comparison.read(results / f"{each}{SUFFIX}") for each in reversed(names))
    for each in known:
        if each.ended != "complete" and name in (None, each.matrix.get("name")):
            return each
    what = "no unfinished comparison" if name is None else f"no unfinished comparison {name!r}"
    raise ComparisonError(f"{what} in {results}; there are: {', '.join(names) or 'none'}")


def plan_of(kept: Comparison) -> tuple[Matrix, list[Cell]]:
    """The runs again, in the remembered order. Raises ComparisonError where this version would plan others."""
    try:
        chosen = Matrix(**kept.matrix)
        plan = [cell for cell in chosen.plan(kept.seed) if cell.label not in kept.unavailable]
    except (MatrixError, TypeError) as error:
        raise ComparisonError(f"{kept.name} was planned by another version: {error}; compare again") from error
    if names(plan) != kept.order:
        raise ComparisonError(
            f"{kept.name} was planned by another version, which ordered its runs otherwise; compare again"
        )
    return chosen, plan


def names(plan: Sequence[Cell]) -> list[str]:
    """The runs in words, as a comparison remembers them."""
    return [f"{cell} #{cell.repeat + 1}" for cell in plan]


def recover(kept: Comparison, plan: Sequence[Cell], results: Path) -> list[Path]:
    """Bring the folder in order after a kill at any moment; `kept.records` then holds every run that counts.

    Returns the records of runs that were cut short: closed as interrupted, kept, not counted. The caller holds the lock.
    """
    cut = [
        path
        for folder in sorted((results / INCOMING).glob(f"{kept.name}~*"))
        if (path := _sweep(folder, plan, results))
    ]
    while len(kept.records) < len(plan) and (name := _measured(kept, results)) is not None:
        kept.records.append(name)
    kept.ended, kept.finished = "running", None
    kept.write(results)
    return cut


def _sweep(folder: Path, plan: Sequence[Cell], results: Path) -> Path | None:
    """Close what a run left in its private folder and move it up; the path where it was cut short, else None."""
    processes.end(folder.name)  # the guard has done so; it may have been killed as well
    place = folder.name.rpartition("~")[0]
    cell = plan[int(place.rpartition("~")[2])]
    if not any(folder.glob("*.json")) and not (folder / "log").exists():  # nothing was started
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # not empty: another run uses it
            folder.parent.rmdir()
        return None
    began = datetime.fromtimestamp(folder.stat().st_ctime, UTC).isoformat(timespec="seconds")
    config = dataclasses.replace(cell.config, output=dataclasses.replace(cell.config.output, results=results))
    path = launch.keep(folder, config, cell.ranks, launchers.command(config, cell.ranks), CUT, began, place)
    return path if load.read(path)["status"] != "done" else None


def _measured(kept: Comparison, results: Path) -> str | None:
    """The record of the next run, where it was finished but not yet written down."""
    place = {"name": kept.name, "place": len(kept.records)}
    for path in sorted(results.glob("*.json"), reverse=True):
        if path.name.endswith((SUFFIX, load.EVALUATION)):
            continue
        if path.name[:8] < kept.name[:8]:  # both begin with the day, in UTC
            break
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("comparison") == place and _counts(record):
            return path.name
    return None


def _counts(record: Mapping[str, Any]) -> bool:
    """Whether a run was taken to its end, good or bad."""
    return record["status"] == "done" or (record["status"] == "failed" and record["failure"]["cause"] != "interrupted")


def went_on(kept: Comparison, differs: Sequence[str]) -> None:
    """Note it in the comparison."""
    kept.resumed.append({"at": now(), "run": len(kept.records), "differs": list(differs)})
