"""`ringzero plan validate`: predictions beside published numbers, and beside your own records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bench.config import ConfigError
from bench.plan.validation import families as checks
from bench.plan.validation import measured, published, ran
from bench.plan.validation.judged import Verdict, details, judge, plain, summary


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Recompute published numbers about memory, FLOPs and throughput from what their sources state: every row, every miss.

    Returns 1 where a number that must be reproduced is not.
    """

    records: Path | None = None
    """Folder of your own records: judge what each rank held instead of published numbers."""
    summary: bool = False
    """Families only, no rows."""
    family: str | None = None
    """Only families whose name contains this."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where something that must hold does not."""
    asked = tyro.cli(Validate, args=argv, prog="ringzero plan validate")
    console = Console(highlight=False)
    return own(asked.records, console) if asked.records else literature(asked, console)


def literature(asked: Validate, console: Console) -> int:
    """Published numbers: what is set apart first, then each family's rows, then all families."""
    chosen = [each for each in checks.FAMILIES if not asked.family or asked.family.lower() in each.name.lower()]
    if not chosen:
        raise ConfigError(f"--family {asked.family}: there are: {'; '.join(each.name for each in checks.FAMILIES)}")
    console.print(apart())
    verdicts = judge(chosen, published.rows())
    if not asked.summary:
        for verdict in verdicts:
            if verdict.judged:
                console.print(details(verdict))
            for why, count in Counter(why for _, why in verdict.silent).items():
                console.print(f"  not predicted: {count} x {why}")
    console.print(summary(verdicts))
    if not asked.family:
        words, misses = ran.report()
        console.print(words)
        for name, share in misses:
            console.print(f"  miss: {name}: {share:.0%} of the device")
        from bench.plan.validation import tables as validate_time_tables
        from bench.plan.validation import throughput as validate_time

        validate_time_tables.show(console, validate_time.judge(), rows=not asked.summary)
    return told(verdicts, console)


def told(verdicts: Sequence[Verdict], console: Console) -> int:
    """What must hold and does not, row by row."""
    broken = [each for verdict in verdicts for each in verdict.broken]
    for each in broken:
        console.print(f"does not hold: {each.id} {each.what}: {each.predicted:.6g}, published {each.published:.6g}")
    return 1 if broken else 0


def apart() -> Table:
    """Rows that no prediction is held against, by reason."""
    columns = {"reason": "left", "rows": "right", "meaning": "left", "which": "left"}
    drawn = plain("set apart before anything is judged", columns)
    for reason, meaning in published.REASONS.items():
        rows = [row for row in published.rows() if row.apart == reason]
        counted = Counter(row.family for row in rows)
        drawn.add_row(reason, str(len(rows)), meaning, ", ".join(f"{name} {count}" for name, count in counted.items()))
    return drawn


def own(folder: Path, console: Console) -> int:
    """Records of a folder. Raises ConfigError where none can be judged."""
    from bench.report import load

    loaded = load.load(folder)
    found: list[measured.Held] = []
    silent: Counter[str] = Counter()
    for record in loaded.records:
        if why := measured.silent(record):
            silent[why] += 1
        else:
            found += measured.judge(record, str(record.get("file", "")))
    for why, count in silent.items():
        console.print(f"not judged: {count} x {why}")
    if not found:
        raise ConfigError(f"no record of {folder} can be judged; make some with: ringzero compare quick")
    console.print(measured.table(found))
    holds, words = measured.sentence(found)
    console.print(words)
    return 0 if holds else 1
