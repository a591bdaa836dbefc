"""What a comparison says of itself: the plan before it starts, the tables, figures and what went wrong at its end."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench import comparison as kept
from bench import machine, ranktest
from bench.comparison import Comparison
from bench.failure import Cause
from bench.matrix import Cell, Matrix
from bench.report import scaling, table, verdicts
from bench.report.live import clock
from bench.report.rows import Group, groups
from bench.verify import Verdict, references, verify


def verdict_of(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict of one run among those of its comparison."""
    return verify(record, references(records).get(record["experiment"]))


def causes(records: Sequence[dict[str, Any]]) -> Counter[Cause]:
    """How many runs have no speed to show, by cause."""
    found: Counter[Cause] = Counter()
    for record in records:
        if record["status"] != "done":
            found[(record.get("failure") or {}).get("cause", "error")] += 1
        elif verdict_of(record, records).status == "void":
            found["not equivalent"] += 1
    return found


def good(records: Sequence[dict[str, Any]]) -> bool:
    """Whether every run was finished and is verified, or the reference."""
    return all(
        record["status"] == "done" and verdict_of(record, records).status in ("verified", "reference")
        for record in records
    )


def show_plan(console: Console, chosen: Matrix, plan: Sequence[Cell], missing: dict[str, str], seed: int) -> None:
    """Before anything runs: what, how much of it, how long, in which order, and what is left out."""
    console.print(Text.assemble((chosen.name, "bold"), f": {chosen.about or 'no description'}"))
    console.print(Text(chosen.axes_in_words(), "dim"))
    console.print(
        f"{len(plan)} runs, about {clock(len(plan) * chosen.estimate_s)} minutes at {chosen.estimate_s:g} s a run "
        f"(corrected by what the runs take); order drawn with seed {seed}:"
    )
    console.print(Text("  " + ("; " if any(cell.axes for cell in plan) else ", ").join(map(str, plan)), "dim"))
    for label, why in missing.items():
        console.print(Text.assemble("  ", (f"{label} is left out: ", "yellow"), why), soft_wrap=True)
    if (pairs := paired(plan)) and chosen.repeats < (needed := ranktest.needed(pairs)):
        console.print(
            Text(
                f"  with repeats {chosen.repeats} nothing can be called faster: over {pairs} pair{'s' * (pairs > 1)} the "
                f"rank test needs --repeats {needed}",
                "dim",
            ),
            soft_wrap=True,
        )
    for line in machine.warnings(machine.look()):
        console.print(Text(f"! {line}", "yellow"))


def paired(plan: Sequence[Cell]) -> int:
    """Pairs of engines at the same rank count: what the report's rank tests are corrected for; of its tables the largest."""
    tables: dict[tuple[str, ...], set[tuple[str, int]]] = {}
    for cell in plan:
        tables.setdefault((cell.config.experiment_id(), *cell.axes), set()).add((cell.label, cell.ranks))
    return max(
        (
            sum(first < second and ranks == others for first, ranks in seen for second, others in seen)
            for seen in tables.values()
        ),
        default=0,
    )


def show_end(
    console: Console, done: Comparison, records: Sequence[dict[str, Any]], results: Path, typed: str | None
) -> None:
    """After the last run: the table, the figure, and how to get them again; `typed`: the matrix, where its file is known."""
    made = groups(records)
    for group in made:
        console.print()
        console.print(table.terminal(group))
    console.print()
    where = "" if results == Path("results") else f" --results {results}"
    if done.ended == "interrupted":
        console.print(
            Text(
                f"interrupted after {len(records)} of {len(done.order)} runs; what was measured is kept; "
                f"go on with: ringzero compare --resume {done.name}{where}",
                "yellow",
            ),
            soft_wrap=True,
        )
    if said := ", ".join(f"{count} {cause}" for cause, count in causes(records).items()):
        console.print(Text(f"runs without a speed: {said}", "yellow"))
    files = verdicts.by_file(records)
    found = [verdicts.compare(group, files) for group in made]
    for each in found:
        console.print(verdicts.terminal(each))
        console.print()
    if (scaled := scaling.terminal(made)) is not None:
        console.print(scaled)
        console.print()
    lines = [
        *figure_lines(made, results / done.name),
        *page_lines(made, records, results / f"{done.name}.html", found),
        f"comparison  {results / done.name}{kept.SUFFIX}",
        *(
            [f"again       ringzero compare {typed} --seed {done.seed} --repeats {done.matrix['repeats']}{where}"]
            if typed
            else []
        ),
        f"table       ringzero report {done.name}{where}",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def page_lines(
    made: Sequence[Group], records: Sequence[dict[str, Any]], path: Path, found: Sequence[verdicts.Verdicts]
) -> list[str]:
    """Write the page and say where it is."""
    from bench.report import page  # the plan should be there at once

    return [f"page        {page.write(made, records, path, found=found)}"] if made else []


def figure_lines(made: Sequence[Group], stem: Path) -> list[str]:
    """Draw the figure and say where it is; without matplotlib, say what to type."""
    if find_spec("matplotlib") is None:
        return ["figure      none: matplotlib is not installed; type: pip install -c constraints.txt -e '.[plots]'"]
    from bench.report import figures  # takes a second, and the plan should be there at once

    return [f"figure      {path}" for path in figures.write(made, stem)]
