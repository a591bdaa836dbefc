"""`ringzero diff OLD NEW`: what became slower, heavier or less accurate between two sets of records, and how surely."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from bench import changes, comparison
from bench.comparison import ComparisonError
from bench.report import changes as shown
from bench.report import conditions, load
from bench.report.rows import groups, machine

OLD, NEW = "OLD", "NEW"


class NotComparable(ComparisonError):
    """Two sets of records from which no difference may be read; the message says why."""


@dataclass(frozen=True)
class Diff:
    """What became slower, heavier (memory) or less accurate (final loss, evaluation). Returns 0: nothing shown to be worse,
    1: something is, 2: not comparable."""

    old: tyro.conf.Positional[Path]
    """Results folder, comparison (*.compare.json) or record."""
    new: tyro.conf.Positional[Path]
    """The same, of the later state."""
    markdown: Path | None = None
    """Write what is shown to this file as well, as Markdown, for a pull request."""
    threshold: float = 0.0
    """Changes of time or memory below this share (0.02: two per cent) are told, and are not worse."""
    force: bool = False
    """Compare although the machine, the version of the benchmark or the conditions of the runs differ, or a file can't be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where nothing is shown to be worse, 1 where something is. Raises NotComparable, Unreadable."""
    asked = tyro.cli(Diff, args=argv, prog="ringzero diff")
    if not 0 <= asked.threshold < 1:
        raise NotComparable(f"--threshold is {asked.threshold}; it must be a share from 0 to below 1, as 0.02")
    sides = [records(path, asked.force) for path in (asked.old, asked.new)]
    if (against := differing(*sides)) and not asked.force:
        raise NotComparable(f"{'; '.join(against)}. Compare all the same with --force")
    old, new = (
        rows(side, name, by_machine=not against, by_condition=not asked.force)
        for side, name in zip(sides, (OLD, NEW), strict=True)
    )
    found = changes.compare(aligned(old, new), aligned(new, old), threshold=asked.threshold)
    if not found.rows:
        raise NotComparable(
            f"no row of {asked.old} is in {asked.new}: a row is an engine, its ranks, the experiment, the device, and the conditions "
            f"of the run; there are {_listed(found.only_old, found.only_new)} and {_listed(found.only_new, found.only_old)}"
        )
    about = [*(f"! {line}" for line in against), *libraries(*sides)]
    console = Console(highlight=False)
    console.print(shown.terminal(found, about))
    if asked.markdown:
        asked.markdown.write_text("\n".join(shown.markdown(found, about)) + "\n")
        console.print(f"wrote {asked.markdown}", soft_wrap=True)
    return 1 if found.worse else 0


def records(path: Path, force: bool) -> list[dict[str, Any]]:
    """Of a folder, a comparison or one file. Raises NotComparable, Unreadable or ComparisonError."""
    if path.is_dir():
        loaded = load.load(path)
    elif path.name.endswith(comparison.SUFFIX):
        loaded = load.load(path.parent, comparison.read(path).records)
    elif path.name.endswith(load.EVALUATION):
        raise NotComparable(f"{path} is an evaluation of a checkpoint, not of a run; give records or their folder")
    elif path.is_file():
        return [load.read(path)]
    else:
        raise NotComparable(f"no {path}; give a results folder, a comparison ({comparison.SUFFIX}) or a record (.json)")
    for _, why in loaded.unreadable:
        print(f"unreadable: {why}", file=sys.stderr)
    if loaded.unreadable and not force:
        raise NotComparable(f"{path}: {len(loaded.unreadable)} files can't be read; what they hold might be worse")
    if not loaded.records:
        raise NotComparable(f"{path} holds no record; make some with: ringzero compare quick")
    return loaded.records


def differing(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[str]:
    """Why two sets can't be compared: layout of the records, version of the benchmark, machine; a line each."""
    told = []
    for what, of in (("schema", _schema), ("version of the benchmark", _version), ("machine", machine)):
        sides = [
            sorted({of(record) for record in side if what == "schema" or record["environment"]}) for side in (old, new)
        ]
        if sides[0] != sides[1]:
            told.append(f"the {what} differs: {OLD} {' and '.join(sides[0])}, {NEW} {' and '.join(sides[1])}")
    return told


def rows(
    side: Sequence[dict[str, Any]], name: str, *, by_machine: bool, by_condition: bool = True
) -> dict[changes.Key, changes.Side]:
    """Rows of a side by what must be equal to compare them. Raises NotComparable where two machines give one row.

    Without `by_condition` only what tells rows of one side apart counts: the other may have been taken under another.
    """
    by_run = {f"{record['run_id']}.json": record for record in side}
    made: dict[changes.Key, changes.Side] = {}
    for group in groups(side):
        for row in group.rows:
            runs = [by_run[file] for file in row.files]
            under = conditions.of(runs[0]) if by_condition and runs else group.under
            place = group.machine if by_machine else ""
            key = changes.Key(row.name, row.ranks, group.experiment, group.device, place, under)
            if key in made:
                raise NotComparable(f"{name} holds {row.label} x{row.ranks} of several machines; give records of one")
            made[key] = changes.Side(row, group, runs)
    return made


def aligned(
    side: Mapping[changes.Key, changes.Side], other: Mapping[changes.Key, changes.Side]
) -> dict[changes.Key, changes.Side]:
    """Rows of a side; one of which no run finished, so that its conditions are not all known, is the other side's of that name."""
    made = {}
    for key, each in side.items():
        named = [its for its in other if its[:-1] == key[:-1]]
        made[named[0] if not each.records and len(named) == 1 else key] = each
    return made


def libraries(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[str]:
    """Commits and library versions of both sides, where they differ."""
    found: list[dict[str, set[str]]] = []
    for side in (old, new):
        seen: dict[str, set[str]] = {}
        for record in side:
            environment = record["environment"] or {}
            values = {"commit": environment.get("commit"), "python": environment.get("python")}
            for library, version in {**values, **environment.get("packages", {})}.items():
                seen.setdefault(library, set()).add(str(version))
        found.append(seen)
    return [
        f"{name}: {', '.join(sorted(found[0].get(name, {'-'})))} -> {', '.join(sorted(found[1].get(name, {'-'})))}"
        for name in dict.fromkeys([*found[0], *found[1]])
        if found[0].get(name) != found[1].get(name)
    ]


def _schema(record: dict[str, Any]) -> str:
    return str(record["schema"])


def _version(record: dict[str, Any]) -> str:
    return str((record["environment"].get("packages") or {}).get("ringzero") or "unknown")


def _listed(keys: Sequence[changes.Key], others: Sequence[changes.Key]) -> str:
    return ", ".join(key.beside(others) for key in keys) or "none"
