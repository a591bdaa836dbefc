"""What a comparison says, in sentences for someone who decides. Every number comes from the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.pairwise import Pair
from bench.report.page import facts
from bench.report.page.figure import Entry
from bench.report.rows import Row
from bench.report.table import MIB, number
from bench.report.verdicts import Verdicts

NAMED = 4  # rows named one by one in a sentence; of more, the number


@dataclass(frozen=True)
class Summary:
    """`lead` is the sentence to remember; `rest` what belongs beside it; `tiles` its numbers (number, unit, whose)."""

    lead: str
    rest: list[str]
    tiles: list[tuple[str, str, str]]


def summary(entries: Sequence[Entry], found: Verdicts | None = None) -> Summary:
    """Only verified rows that are not oversubscribed may be called highest; what was left out is said.

    Two rows differ where their intervals are apart and, with `found` and enough repeats, the rank test says so too.
    """
    fair = [entry for entry in entries if entry.status == "verified" and not entry.row.oversubscribed and entry.spoken]
    fair.sort(key=lambda entry: -_speed(entry.row))
    single = next((e for e in entries if e.row.label == "single" and e.spoken), None)
    ending = [*_left_out(entries), *_caution(fair), *([said] if (said := facts.shared(entries)) else [])]
    if not fair:
        why = (
            "only the single-process run finished"
            if single and len(entries) == 1
            else "no row is both verified and fair"
        )
        return Summary(f"Nothing can be called highest: {why}.", ending, _tiles(fair, entries))
    best, level, below = fair[0], [], None
    for entry in fair[1:]:
        if alike(best.row, entry.row, found):
            level.append(entry)
        elif below is None:
            below = entry
    kept = best.row.memory_bytes
    lead = (
        f"Highest throughput among verified rows: {best.name}, {_with_interval(best.row)}, "
        f"{_beside(best.row, single.row if single else None)}; "
        + (f"memory {kept / MIB:,.0f} MiB a rank at most." if kept is not None else "memory not measured.")
    )
    rest = []
    if level:
        told = [f"{entry.name} ({number(_speed(entry.row))})" for entry in level]
        rest.append(
            f"No difference shown between it and {_list(told)}: {_because(best.row, [each.row for each in level], found)}."
        )
        known = [entry for entry in (best, *level) if entry.row.memory_bytes is not None]
        if len(known) > 1:
            light = min(known, key=lambda entry: entry.row.memory_bytes or 0)
            rest.append(
                f"Of these, {light.name} takes the least memory: {(light.row.memory_bytes or 0) / MIB:,.0f} MiB a rank."
            )
    if below:
        more = 100 * (_speed(best.row) / _speed(below.row) - 1)
        rest.append(
            f"The next below it, by {_basis(best.row, below.row, found)}, is {below.name} with {number(_speed(below.row))} samples/s: "
            f"{best.row.label} did {more:.0f} % more."
        )
    return Summary(lead, [*rest, *ending], _tiles(fair, entries))


def overlap(one: Row, other: Row) -> bool:
    """Whether the 95 % intervals of two throughputs share a point: then no difference is shown."""
    a, b = one.throughput, other.throughput
    return a is None or b is None or (a.low <= b.high and b.low <= a.high)


def alike(one: Row, other: Row, found: Verdicts | None) -> bool:
    """Whether no difference is shown; the rank test knows pairs of one rank count only."""
    pair = _tested(one, other, found)
    return overlap(one, other) if pair is None else not pair.shown


def _tested(one: Row, other: Row, found: Verdicts | None) -> Pair | None:
    """Their rank test, where there is one with enough repeats to show anything."""
    names = {(one.name, one.ranks), (other.name, other.ranks)}
    for pair in found.pairs if found else ():
        if pair.possible and {(pair.first.label, pair.first.ranks), (pair.second.label, pair.second.ranks)} == names:
            return pair
    return None


def _basis(one: Row, other: Row, found: Verdicts | None) -> str:
    return "rank test and intervals" if _tested(one, other, found) else "intervals alone (no rank test, so no proof)"


def _because(best: Row, level: Sequence[Row], found: Verdicts | None) -> str:
    tested = [_tested(best, row, found) is not None for row in level]
    if all(tested):
        return "rank test and 95 % intervals do not tell them apart"
    return f"their 95 % intervals overlap{', and where there is a rank test it does not tell them apart' if any(tested) else ''}"


def _speed(row: Row) -> float:
    return row.throughput.median if row.throughput else 0.0


def _with_interval(row: Row) -> str:
    speed = row.throughput
    assert speed is not None  # the caller took rows with a speed
    return f"{number(speed.median)} samples/s (95 % interval {number(speed.low)}\N{EN DASH}{number(speed.high)})"


def _beside(row: Row, single: Row | None) -> str:
    if single is None or single.throughput is None or row.vs_single is None:
        return "with no plain process to compare with"
    if overlap(row, single):
        return f"no difference shown from one plain process ({number(_speed(single))})"
    return f"{row.vs_single:.2f} times one plain process"


def _left_out(entries: Sequence[Entry]) -> list[str]:
    kinds = {
        "void (they computed something else)": [e for e in entries if e.status == "void"],
        "failed": [e for e in entries if e.status == "failed"],
        "unproven (not checked against one process)": [e for e in entries if e.status == "unproven"],
        "oversubscribed (more ranks than cores or GPUs)": [e for e in entries if e.row.oversubscribed and e.spoken],
    }
    told = [f"{len(found)} {kind}: {_list([entry.name for entry in found])}" for kind, found in kinds.items() if found]
    return [f"Left out of this claim: {'; '.join(told)}."] if told else []


def _caution(fair: Sequence[Entry]) -> list[str]:
    if fair and max(len(entry.done) for entry in fair) == 1:
        return [
            "One run a row: the intervals know the spread between steps, not between runs. Repeat before you decide."
        ]
    return []


def _tiles(fair: Sequence[Entry], entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    tiles = []
    if fair:
        best = fair[0]
        tiles.append((number(_speed(best.row)), "samples/s", f"highest verified: {best.name}"))
        if best.row.vs_single is not None:
            tiles.append((f"{best.row.vs_single:.2f}\N{MULTIPLICATION SIGN}", "one plain process", best.name))
    known = [entry for entry in fair if entry.row.memory_bytes is not None]
    if known:
        light = min(known, key=lambda entry: entry.row.memory_bytes or 0)
        tiles.append((f"{(light.row.memory_bytes or 0) / MIB:,.0f}", "MiB a rank", f"least memory: {light.name}"))
    sound = sum(entry.status in ("verified", "reference") for entry in entries)
    tiles.append((f"{sound}/{len(entries)}", "rows", "verified, with the reference"))
    return tiles


def _list(names: Sequence[str]) -> str:
    """a, b and c; of many the first few and how many more."""
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
