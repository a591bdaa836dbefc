"""One comparison of the page: its rows with their records, and everything that stands under its heading."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from bench.derived import NOTHING, Stated
from bench.pairwise import Pair
from bench.report import costs, look, quality, table, verdicts
from bench.report.page import bars, curves, facts, parts, phases
from bench.report.page.figure import Entry, Figure, Record
from bench.report.page.raw import Detail, Shelf
from bench.report.page.sentence import Summary, summary
from bench.report.page.states import states
from bench.report.rows import Group, Row
from bench.report.verdicts import Verdicts

FIGURES = (bars.throughput, bars.memory, bars.steps, phases.phases, curves.over_ranks, curves.against_single, curves.against_itself,
           curves.loss_over_steps, curves.loss_over_time, bars.wire, parts.parameters)  # fmt: skip
ON_REQUEST = (curves.auroc_over_steps, curves.auroc_over_time)  # of runs that were asked to look at it


@dataclass(frozen=True)
class Cell:
    """`key` sorts: a number, or the text itself; None sorts last whatever the direction."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Line:
    """A row of the table, and what opens below it."""

    ident: str
    entry: Entry
    cells: Sequence[Cell]
    note: str | None
    detail: Detail


@dataclass(frozen=True)
class Mark:
    """How an engine's name is marked: classes and outline of a path in a box of 14 by 14."""

    look: str
    outline: str


@dataclass(frozen=True)
class Section:
    """One group. `figures` is None where the page has too many groups to draw each."""

    ident: str
    group: Group
    title: str
    summary: Summary
    lines: Sequence[Line]
    figures: Sequence[Figure] | None
    key: Mapping[str, Mark]
    detected: Sequence[Sequence[str]]
    images: int | None
    meant_headings: Sequence[str]
    meant: Sequence[Sequence[str]]
    meaning: Sequence[str]
    cautions: Sequence[str]
    unmeasured: Sequence[tuple[str, str, str]]
    environment: Sequence[tuple[str, str, bool]]
    load: str | None
    terms: Sequence[str]
    pairs: Sequence[Sequence[Cell]]
    states: Sequence[Sequence[str]]


def gather(groups: Sequence[Group], records: Sequence[Record]) -> list[list[Entry]]:
    """Each row with its records: the finished by their file's name, the failed by their run's."""
    named = {(r["experiment"], f"{r['run_id']}.json"): r for r in records if r["status"] == "done"}
    lost = {(r["experiment"], r["run_id"]): r for r in records if r["status"] != "done"}

    def entry(group: Group, row: Row) -> Entry:
        done = [named[place] for name in row.files if (place := (group.experiment, name)) in named]
        return Entry(row, done, [lost[place] for name in row.lost if (place := (group.experiment, name)) in lost])

    return [[entry(group, row) for row in group.rows] for group in groups]


def section(
    ident: str,
    group: Group,
    entries: Sequence[Entry],
    shelf: Shelf,
    drawn: bool,
    found: Verdicts | None,
    stated: Stated = NOTHING,
) -> Section:
    evaluated = [entry for entry in entries if entry.row.evaluations]
    runs = [record for entry in entries for record in (*entry.done, *entry.lost)]
    environment = facts.environment(runs)
    figures = FIGURES + (ON_REQUEST if any(record.get("curve") for record in runs) else ())
    files = verdicts.by_file([record for entry in entries for record in entry.done])
    headings, meant = costs.lines(group, files, stated)
    return Section(
        ident=ident,
        group=group,
        title=table.title(group),
        summary=summary(entries, found),
        lines=[_line(f"{ident}-r{place + 1}", entry, shelf) for place, entry in enumerate(entries)],
        figures=[make(entries, f"{ident}-f{place + 1}") for place, make in enumerate(figures)] if drawn else None,
        key={entry.row.label: _mark(entry.row.label) for entry in entries},
        detected=[quality.cells(entry.row) for entry in evaluated],
        images=evaluated[0].row.evaluations[0]["text"]["images"] if evaluated else None,
        meant_headings=[heading.replace("\n", " ") for heading in headings],
        meant=meant,
        meaning=costs.caption(group, files, stated),
        cautions=facts.cautions(entries, environment),
        unmeasured=facts.unmeasured(entries),
        environment=environment,
        load=facts.load(runs),
        terms=verdicts.summary(found) if found else [],
        pairs=[_pair(pair) for pair in found.pairs] if found else [],
        states=states(entries),
    )


def _line(ident: str, entry: Entry, shelf: Shelf) -> Line:
    row = entry.row
    speed = (row.throughput.median, row.throughput.low) if row.throughput else (None, None)
    step = row.step_s.median if row.step_s else None
    keys = [row.label, row.ranks, *speed, step, row.vs_single, row.memory_bytes, row.final_loss, table.status(row)]
    cells = [Cell(text, key) for text, key in zip(table.cells(row), keys, strict=True)]
    return Line(ident, entry, cells, table.note(row), shelf.detail(entry))


def _pair(pair: Pair) -> Sequence[Cell]:
    """Two engines at one rank count; the ratio is of speeds."""
    speed = pair.ratio.over(1.0)
    least = None if pair.detectable is None else 100 * pair.detectable
    return [
        Cell(str(pair.first.ranks), pair.first.ranks),
        Cell(f"{pair.first.label} : {pair.second.label}", f"{pair.first.label} : {pair.second.label}"),
        Cell(pair.verdict(), pair.verdict()),
        Cell(f"{speed.median:.3f}", speed.median),
        Cell(f"{speed.low:.3f}\N{EN DASH}{speed.high:.3f}", speed.low),
        Cell(f"{pair.holm:.2g}", pair.holm),
        Cell(table.NONE if least is None else f"{least:.1f} %", least),
    ]


@cache
def _mark(label: str) -> Mark:
    look_ = f"{'stroke' if look.hollow(label) else 'fill'} e-{look.family(label)}"
    return Mark(look_, look.marker(label, 7, 7, 4.5))
