"""`ringzero compare`: a matrix of runs, each in processes of its own, shuffled, interleaved, in a recorded order."""

import dataclasses
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from bench import comparison as kept
from bench import launch, lock, machine, matrix, ranktest
from bench import resume as resuming
from bench.comparison import Comparison, ComparisonError
from bench.config import ConfigError, RunConfig
from bench.failure import Cause
from bench.launch import LIMIT_S, LaunchFailed
from bench.matrix import REFERENCE, Cell, Matrix
from bench.record import now
from bench.report import load, scaling, table, verdicts
from bench.report.live import View, clock, view
from bench.report.rows import Group, groups
from bench.verify import Verdict, references, verify

Run = Callable[[RunConfig, int, str], Path]  # configuration, ranks, place in the comparison -> record


HELP = f"""A matrix that comes with the project ({", ".join(matrix.names())}; quick where none is given), or a .toml file of your
own; with --resume the name of a comparison."""


@dataclass(frozen=True)
class Compare:
    """Run a matrix: every installed engine against one plain process, each run in processes of its own."""

    matrix: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MATRIX|NAME]", help=HELP)] = None
    resume: bool = False
    """Go on with a comparison that was stopped, by Ctrl-C, kill or a power cut: the one of this NAME, else the latest that is
    unfinished. Nothing measured is lost or repeated; matrix, seed and order stay what they were."""
    force: bool = False
    """Go on although the commit, the versions or the machine are not those it began with; the comparison says so."""
    results: Path = Path("results")
    """Folder of the records, of the comparison and of its figure."""
    repeats: int | None = None
    """Rounds over the whole matrix; the matrix decides where this is not given."""
    seed: int | None = None
    """Order of the runs; drawn and recorded where it is not given."""
    run_limit_s: float | None = None
    """A run that lasts longer is ended, with all its processes, and recorded as failed (1800 where it is not given)."""
    dry_run: bool = False
    """Show the plan and the commands; run nothing."""


def available(plan: Sequence[Cell]) -> tuple[list[Cell], dict[str, str]]:
    """The runs whose engine is installed, and why others are not. Raises LaunchFailed where `single` is not."""
    missing = {cell.label: why for cell in plan if (why := launch.unavailable(cell.config))}
    if REFERENCE in missing:
        raise LaunchFailed(
            f"{REFERENCE}, the run that all others are verified against, can't run here: {missing[REFERENCE]}"
        )
    return [cell for cell in plan if cell.label not in missing], missing


def compare(
    chosen: Matrix,
    plan: Sequence[Cell],
    run: Run,
    results: Path,
    show: View,
    *,
    seed: int,
    missing: dict[str, str],
    going_on: Comparison | None = None,
    limit_s: float = LIMIT_S,
    name: str | None = None,
) -> tuple[Comparison, list[dict[str, Any]]]:
    """Take the runs in order; returns what is remembered of them, and their records.

    `going_on`: a comparison that holds the first of them. `limit_s` is remembered for whoever goes on with this one.
    Raises ComparisonError where another process works on the same comparison.

    A failed run is a record like any other. Ctrl-C ends the runs, not the comparison: what was measured stays, and
    `ended` says `interrupted`.
    """
    results.mkdir(parents=True, exist_ok=True)
    remembered = going_on or Comparison(
        name=name or f"{kept.stamp()}_{chosen.name}",
        matrix=chosen.to_dict(),
        seed=seed,
        started=now(),
        unavailable=missing,
        order=resuming.names(plan),
        began=resuming.surroundings(),
        run_limit_s=limit_s,
    )
    records = [load.read(results / name) for name in remembered.records]
    lasted = [seconds(record) for record in records]
    whole = [took for took, record in zip(lasted, records, strict=True) if record["status"] == "done"]
    remembered.write(results)
    try:
        with show:
            for index, record in enumerate(records):
                show.ended(index, record, verdict_of(record, records), lasted[index])
            for index in range(len(records), len(plan)):
                cell = plan[index]
                show.started(index, (len(plan) - index) * (statistics.mean(whole) if whole else chosen.estimate_s))
                begun = time.monotonic()
                config = dataclasses.replace(
                    cell.config, output=dataclasses.replace(cell.config.output, results=results)
                )
                path = run(config, cell.ranks, f"{remembered.name}~{index}")
                lasted.append(time.monotonic() - begun)
                record = load.read(path)
                records.append(record)
                remembered.records.append(path.name)
                remembered.write(results)
                whole += lasted[-1:] if record["status"] == "done" else []  # one that failed says nothing of the others
                show.ended(index, record, verdict_of(record, records), lasted[-1])
        remembered.end("complete")
    except KeyboardInterrupt:
        remembered.end("interrupted")
    remembered.write(results)
    return remembered, records


def seconds(record: dict[str, Any]) -> float:
    """What a run took, as its record knows it."""
    start, end = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
    return (end - start).total_seconds()


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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where every run is verified, 1 where one is not, 130 after Ctrl-C."""
    asked = tyro.cli(Compare, args=argv, prog="ringzero compare")
    console = Console(highlight=False)
    if asked.resume:
        return resume(asked, console)
    chosen = matrix.read(asked.matrix or "quick")
    if asked.repeats is not None:
        chosen = dataclasses.replace(chosen, repeats=asked.repeats)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    plan, missing = available(chosen.plan(seed))
    show_plan(console, chosen, plan, missing, seed)
    if asked.dry_run:
        for cell in plan:
            console.print(str(launch.command(cell.config, cell.ranks)), soft_wrap=True, style="dim", markup=False)
        return 0
    return take(asked, console, chosen, plan, seed, missing, None)


def resume(asked: Compare, console: Console) -> int:
    """Go on with a comparison. Raises ComparisonError where there is none, or where it is not what it was."""
    if asked.seed is not None or asked.repeats is not None or asked.dry_run:
        raise ConfigError("--resume keeps seed, repeats and order as they were; leave out --seed, --repeats, --dry-run")
    found = resuming.find(asked.results, asked.matrix)
    chosen, plan = resuming.plan_of(found)
    available(plan[len(found.records) :])
    differs = resuming.differing(found.began, resuming.surroundings())
    for line in differs:
        console.print(Text(f"! since {found.name} began, {line}", "yellow"), soft_wrap=True)
    if differs and not asked.force:
        raise ComparisonError(
            f"{found.name} began under other conditions, so its runs could not be compared with each other; "
            "restore them, compare again, or go on all the same with --force"
        )
    return take(asked, console, chosen, plan, found.seed, found.unavailable, found, differs)


def take(
    asked: Compare,
    console: Console,
    chosen: Matrix,
    plan: Sequence[Cell],
    seed: int,
    missing: dict[str, str],
    going_on: Comparison | None,
    differs: Sequence[str] = (),
) -> int:
    """Take what is left of a plan, while no other process may, and show the end of it."""
    limit_s = asked.run_limit_s or (going_on.run_limit_s if going_on else None) or LIMIT_S

    def run(config: RunConfig, ranks: int, place: str) -> Path:
        return launch.run(config, ranks, limit_s=limit_s, place=place)

    name = going_on.name if going_on else f"{kept.stamp()}_{chosen.name}"
    asked.results.mkdir(parents=True, exist_ok=True)
    with lock.held(asked.results, name):
        if going_on is not None:
            going_on = kept.read(asked.results / f"{name}{kept.SUFFIX}")  # as it is now that nobody else writes it
            for path in resuming.recover(going_on, plan, asked.results):
                console.print(Text(f"cut short, kept, taken again: {path}", "dim"), soft_wrap=True)
            resuming.went_on(going_on, differs)
            console.print(
                f"{name} goes on: {len(going_on.records)} of {len(plan)} runs are there, order as drawn with seed {seed}",
                soft_wrap=True,
            )
        done, records = compare(
            chosen, plan, run, asked.results, view(plan, console),
            seed=seed, missing=missing, going_on=going_on, limit_s=limit_s, name=name,
        )  # fmt: skip
        typed = (
            (asked.matrix or "quick") if not asked.resume else chosen.name if chosen.name in matrix.names() else None
        )
        show_end(console, done, records, asked.results, typed)
    return 130 if done.ended == "interrupted" else 0 if good(records) else 1
