"""Two sets of rows, old and new: what changed, and whether it is shown to be worse. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bench import accuracy, pairwise
from bench.accuracy import Effect
from bench.pairwise import Pair, Sample
from bench.report import conditions
from bench.report.conditions import Conditions
from bench.report.rows import Group, Row, memory_bytes
from bench.report.table import status, title


class Key(NamedTuple):
    """What must be equal for two rows to be compared."""

    label: str
    ranks: int
    experiment: str
    device: str
    machine: str  # empty where it may differ
    under: Conditions = ()  # empty where they may differ

    def beside(self, others: Sequence["Key"]) -> str:
        """In words, with the conditions that another of the same name does not share."""
        same = next((each for each in others if each[:-1] == self[:-1]), self)
        apart = tuple(each for each in self.under if each not in same.under)
        return f"{self.label} x{self.ranks} ({', '.join([self.experiment, self.device, *conditions.words(apart)])})"


class Side(NamedTuple):
    """A row, its table, and the records of its finished runs."""

    row: Row
    group: Group
    records: list[dict[str, Any]]


@dataclass
class Change:
    """One row on both sides. `said`: effect and words of everything that is told about it."""

    key: Key
    title: str
    time: Pair | None = None  # NEW over OLD
    memory: Pair | None = None
    loss: accuracy.Shift | None = None
    said: list[tuple[Effect, str]] = field(default_factory=list)

    @property
    def effect(self) -> Effect:
        """The gravest."""
        effects = [effect for effect, _ in self.said]
        return "worse" if "worse" in effects else "better" if "better" in effects else "none shown"


@dataclass(frozen=True)
class Changes:
    """Rows on both sides, and those on one only."""

    rows: list[Change]
    only_old: list[Key]
    only_new: list[Key]

    @property
    def worse(self) -> list[Change]:
        """Rows of which something is shown to be worse."""
        return [row for row in self.rows if row.effect == "worse"]

    @property
    def pairs(self) -> list[Pair]:
        """The family: every comparison by the rank test."""
        return [pair for row in self.rows for pair in (row.time, row.memory) if pair is not None]


def compare(old: Mapping[Key, Side], new: Mapping[Key, Side], *, threshold: float) -> Changes:
    """Times and memory by the rank test, all in one family: at most 5 % of comparisons of equals are called different.

    That holds where OLD and NEW were measured in turn, or on a machine that stays as it is. It can't hold for a machine
    that changes in between, which nothing in the records tells from a change of the software: with one that drifts by 1 %
    while each set is measured, 13 of 100 simulated comparisons of equals were called different, all in time.
    """
    common = [key for key in new if key in old]
    rows = [Change(key, title(new[key].group)) for key in common]
    asked: list[tuple[Change, str, tuple[Sample, Sample]]] = []
    for row in rows:
        before, after = old[row.key], new[row.key]
        row.said += _verdicts(before.row, after.row)
        if not all(side.records and status(side.row) != "void" for side in (before, after)):
            continue
        asked.append((row, "time", (pairwise.times(after.records), pairwise.times(before.records))))
        peaks = [_peaks(side.records) for side in (after, before)]
        if peaks[0] is not None and peaks[1] is not None:
            asked.append((row, "memory", (peaks[0], peaks[1])))
        row.loss = accuracy.final_loss(before.records, after.records)
        shifts, why = accuracy.evaluations(before.records, after.records)
        row.said += [("none shown", why)] if why else []
        for shift in [*([row.loss] if row.loss else []), *shifts]:
            if shift.effect != "none shown":
                words = f"{'less' if shift.effect == 'worse' else 'more'} accurate: {shift.name} {shift.old:.5g} -> {shift.new:.5g}"
                row.said.append(
                    (shift.effect, f"{words} (from the same seed; no difference up to {shift.allowed:.1g})")
                )
    for (row, what, _), pair in zip(asked, pairwise.family([sides for _, _, sides in asked]), strict=True):
        setattr(row, what, pair)
        row.said += _shown(pair, what, threshold)
    return Changes(rows, [key for key in old if key not in new], [key for key in new if key not in old])


def _peaks(records: Sequence[Mapping[str, Any]]) -> Sample | None:
    """Bytes, one value a run."""
    found = [memory_bytes(record) for record in records]
    if any(not each for each in found):
        return None
    return Sample(label="", runs=np.array(found, dtype=np.float64)[:, None])


def _verdicts(old: Row, new: Row) -> list[tuple[Effect, str]]:
    """A row that lost its verdict is worse; one that failed in part is told."""
    before, after = status(old), status(new)
    if after in ("void", "failed"):
        why = new.verdict.why if new.verdict else "; ".join(new.failures[:1])
        return [("worse" if after != before and before != "failed" else "none shown", f"{after}, was {before}: {why}")]
    if before in ("void", "failed"):
        return [("better", f"{after}, was {before}")]
    said: list[tuple[Effect, str]] = []
    if after != before and "unproven" in (before, after):
        said.append(("none shown", f"{after}, was {before}"))
    if new.failures:
        said.append(
            (
                "none shown",
                f"{len(new.failures)} of {len(new.failures) + len(new.files)} runs failed: {new.failures[0]}",
            )
        )
    return said


def _shown(pair: Pair, what: str, threshold: float) -> list[tuple[Effect, str]]:
    """Words for a difference that is shown."""
    if not pair.shown:
        return []
    less, more = ("faster", "slower") if what == "time" else ("lighter", "heavier")
    change = pair.ratio.median - 1
    effect: Effect = "better" if change < 0 else "worse"
    words = f"{pair.verdict(less, more)}: {'step time' if what == 'time' else 'memory'} {100 * change:+.1f} %"
    interval = f"[{100 * (pair.ratio.low - 1):+.1f}, {100 * (pair.ratio.high - 1):+.1f}]"
    small = abs(change) <= threshold
    return [
        (
            "none shown" if small else effect,
            f"{words} {interval}, p {pair.holm:.2g}{', below the threshold' if small else ''}",
        )
    ]
