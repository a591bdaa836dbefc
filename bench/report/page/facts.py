"""Beside the numbers: where they were measured, what may have disturbed them, what was not measured and why."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bench.machine import Machine, warnings
from bench.report.page.figure import Entry, Record
from bench.report.rows import thrashing

MOVING = ("load", "available")  # of the machine: another value at each run
LEVEL = re.compile(r"\d+%")  # another at each run; the record has it
SHOWN = 3  # values of a setting that differs between runs; of more, their number


def environment(records: Sequence[Record]) -> list[tuple[str, str, bool]]:
    """(name, value, whether the runs differ in it) of everything the runs noted about where they ran."""
    distinct: dict[str, dict[str, Any]] = {}
    for record in records:
        if seen := record.get("environment"):
            kept = {**seen, "machine": {k: v for k, v in (seen.get("machine") or {}).items() if k not in MOVING}}
            distinct.setdefault(json.dumps(kept, sort_keys=True, default=str), kept)
    values: dict[str, list[str]] = {}
    for each in distinct.values():
        for name, value in _flat(each):
            if value not in (known := values.setdefault(name, [])):
                known.append(value)
    return [(name, _several(known), len(known) > 1) for name, known in values.items()]


def cautions(entries: Sequence[Entry], seen: Sequence[tuple[str, str, bool]]) -> list[str]:
    """What the records themselves say could make a number wrong, each once, with how many runs it stood in.

    `seen`: what `environment` gave for the same runs.
    """
    counted: dict[str, int] = {}
    runs = [record for entry in entries for record in (*entry.done, *entry.lost)]
    for record in runs:
        for said in _of_run(record):
            counted[said] = counted.get(said, 0) + 1
    found = [f"{said} ({count} of {len(runs)} runs)" for said, count in counted.items()]
    for name, value, differs in seen:
        if differs and name.startswith(("kernel", "packages", "python", "torch", "commit", "machine: cpu")):
            found.append(f"the runs differ in {name}: {value}")
    return found


def _of_run(record: Record) -> Iterator[str]:
    seen = record.get("environment") or {}
    if seen.get("dirty"):
        yield "the code had changes that no commit holds"
    if record["world"].get("oversubscribed"):
        yield "more ranks than cores or GPUs: no measure of scaling"
    if thrashing(record):
        yield "the GPU's allocator was short of memory while it was measured: retries, or over 90 % of the GPU reserved"
    if record.get("skipped_steps"):
        yield "optimizer steps were skipped"
    yield from (LEVEL.sub("some", str(each)) for each in record.get("warnings") or ())
    noted = seen.get("machine") or {}
    if not record.get("warnings") and all(field.name in noted for field in fields(Machine)):
        here = Machine(**{field.name: noted[field.name] for field in fields(Machine)})
        # At a run's start the load is still that of the run before it, and the launcher has set its variables.
        yield from warnings(replace(here, load=0.0, variables={}))


def shared(entries: Sequence[Entry]) -> str:
    """Says so where more ranks did not get more cores: then no line can follow the ideal one."""

    def held(entry: Entry) -> int:
        counts = [rank.get("threads") for record in entry.done[:1] for rank in record["ranks"]]
        return sum(count for count in counts if count) if all(counts) else 0

    cpu = [e for e in entries if e.spoken and held(e) and (e.done[0]["world"].get("device") or "cpu") == "cpu"]
    plain = next((held(entry) for entry in cpu if entry.row.label == "single"), 0)
    many = {entry.row.ranks: held(entry) for entry in cpu if entry.row.ranks > 1 and held(entry) <= plain}
    if not many:
        return ""
    most = max(many)
    return (
        f"One plain process used {plain} threads, {most} ranks together {many[most]}: the same hardware shared out, "
        "so perfect scaling is not to be expected here."
    )


def load(records: Sequence[Record]) -> str | None:
    """The spread of the load averages at the runs' starts."""
    known = [
        value for r in records if (value := ((r.get("environment") or {}).get("machine") or {}).get("load")) is not None
    ]
    return f"{min(known):.2f} to {max(known):.2f} when the runs started" if known else None


def unmeasured(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """(measure, reason, whose) of everything that is null in a finished run, by the reason that stands beside it."""
    whose: dict[tuple[str, str], dict[str, None]] = {}
    for entry in entries:
        for record in entry.done:
            for place in _gaps(record):
                whose.setdefault(place, {})[entry.name] = None
    done = sum(bool(entry.done) for entry in entries)
    return [
        (measure, reason, "every row" if len(names) == done > 1 else ", ".join(names))
        for (measure, reason), names in whose.items()
    ]


def _gaps(record: Record) -> Iterator[tuple[str, str]]:
    for section in ("traffic", "energy", "memory", "phases", "exposed", "curve"):
        for name, reason in _reasons(record.get(section)):
            yield f"{section}: {name}", reason
    for name, reason in _reasons(record):
        yield name, reason
    for rank in record["ranks"]:
        if rank.get("memory") is None:
            yield "memory", str(rank.get("memory_reason") or "the run did not watch it")
        for name, reason in _reasons(rank.get("memory")):
            yield f"memory: {name}", reason
    if record.get("evaluation") is None and not record.get("evaluation_reason"):
        yield "what the trained model detects", "the run was not asked to evaluate; type: --evaluate N"
    if not record.get("phases") and not record.get("phases_reason"):
        yield (
            "phases of a step",
            "clocks inside a step need synchronisation, so they come from steps of their own; this run took none",
        )


def _reasons(section: Any) -> Iterator[tuple[str, str]]:
    """(name, reason) of each null of a dict that has its reason beside it."""
    if isinstance(section, Mapping):
        for name, reason in section.items():
            if name.endswith("_reason") and reason and section.get(name.removesuffix("_reason")) is None:
                yield name.removesuffix("_reason").replace("_", " "), str(reason)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{above}{name}: ")
        else:
            yield f"{above}{name}", _words(inner)


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "none"
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def _several(values: Sequence[str]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return " | ".join(values[:SHOWN]) + more
