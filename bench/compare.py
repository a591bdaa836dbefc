"""`ringzero compare`: a matrix of runs, each in processes of its own, shuffled, interleaved, in a recorded order."""

import dataclasses
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.text import Text

from bench import comparison as kept
from bench import launch, machine, matrix, ranktest
from bench.comparison import Comparison
from bench.config import RunConfig
from bench.launch import LIMIT_S, LaunchFailed
from bench.matrix import REFERENCE, Cell, Matrix
from bench.record import now
from bench.report import load, table, verdicts
from bench.report.live import View, clock, view
from bench.report.rows import Group, groups
from bench.verify import Verdict, references, verify

Run = Callable[[RunConfig, int], Path]


@dataclass(frozen=True)
class Compare:
    """Run a matrix: every installed engine against one plain process, each run in processes of its own."""

    matrix: tyro.conf.Positional[str] = "quick"
    """A matrix that comes with the project (quick), or a .toml file of your own."""
    results: Path = Path("results")
    """Folder of the records, of the comparison and of its figure."""
    repeats: int | None = None
    """Rounds over the whole matrix; the matrix decides where this is not given."""
    seed: int | None = None
    """Order of the runs; drawn and recorded where it is not given."""
    run_limit_s: float = LIMIT_S
    """A run that lasts longer is ended, with all its processes, and recorded as failed."""
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
) -> tuple[Comparison, list[dict[str, Any]]]:
    """Take the runs in order; returns what is remembered of them, and their records.

    A failed run is a record like any other. Ctrl-C ends the runs, not the comparison: what was measured stays, and
    `ended` says `interrupted`.
    """
    results.mkdir(parents=True, exist_ok=True)
    remembered = Comparison(
        name=f"{kept.stamp()}_{chosen.name}",
        matrix=chosen.to_dict(),
        seed=seed,
        started=now(),
        unavailable=missing,
        order=[f"{cell} #{cell.repeat + 1}" for cell in plan],
    )
    remembered.write(results)
    records: list[dict[str, Any]] = []
    lasted: list[float] = []
    try:
        with show:
            for index, cell in enumerate(plan):
                show.started(index, (len(plan) - index) * (statistics.mean(lasted) if lasted else chosen.estimate_s))
                begun = time.monotonic()
                config = dataclasses.replace(
                    cell.config, output=dataclasses.replace(cell.config.output, results=results)
                )
                path = run(config, cell.ranks)
                lasted.append(time.monotonic() - begun)
                record = load.read(path)
                records.append(record)
                remembered.records.append(path.name)
                remembered.write(results)
                show.ended(index, record, verdict_of(record, records), lasted[-1])
        remembered.end("complete")
    except KeyboardInterrupt:
        remembered.end("interrupted")
    remembered.write(results)
    return remembered, records


def verdict_of(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict of one run among those of its comparison."""
    return verify(record, references(records).get(record["experiment"]))


def good(records: Sequence[dict[str, Any]]) -> bool:
    """Whether every run was finished and is verified, or the reference."""
    return all(
        record["status"] == "done" and verdict_of(record, records).status in ("verified", "reference")
        for record in records
    )


def show_plan(console: Console, chosen: Matrix, plan: Sequence[Cell], missing: dict[str, str], seed: int) -> None:
    """Before anything runs: what, how much of it, how long, in which order, and what is left out."""
    console.print(Text.assemble((chosen.name, "bold"), f": {chosen.about or 'no description'}"))
    console.print(
        f"{len(plan)} runs, about {clock(len(plan) * chosen.estimate_s)} minutes at {chosen.estimate_s:g} s a run "
        f"(corrected by what the runs take); order drawn with seed {seed}:"
    )
    console.print(Text("  " + ", ".join(map(str, plan)), "dim"))
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
    """Pairs of engines at the same rank count: what the report's rank tests are corrected for."""
    seen = {(cell.label, cell.ranks) for cell in plan}
    return sum(first < second and ranks == others for first, ranks in seen for second, others in seen)


def show_end(console: Console, done: Comparison, records: Sequence[dict[str, Any]], results: Path, typed: str) -> None:
    """After the last run: the table, the figure, and how to get them again."""
    made = groups(records)
    for group in made:
        console.print()
        console.print(table.terminal(group))
    console.print()
    if done.ended == "interrupted":
        console.print(
            Text(f"interrupted after {len(records)} of {len(done.order)} runs; what was measured is kept", "yellow")
        )
    where = "" if results == Path("results") else f" --results {results}"
    files = verdicts.by_file(records)
    found = [verdicts.compare(group, files) for group in made]
    for each in found:
        console.print(verdicts.terminal(each))
        console.print()
    lines = [
        *figure_lines(made, results / done.name),
        *page_lines(made, records, results / f"{done.name}.html", found),
        f"comparison  {results / done.name}{kept.SUFFIX}",
        f"again       ringzero compare {typed} --seed {done.seed} --repeats {done.matrix['repeats']}{where}",
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
    chosen = matrix.read(asked.matrix)
    if asked.repeats is not None:
        chosen = dataclasses.replace(chosen, repeats=asked.repeats)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    plan, missing = available(chosen.plan(seed))
    show_plan(console, chosen, plan, missing, seed)
    if asked.dry_run:
        for cell in plan:
            console.print(str(launch.command(cell.config, cell.ranks)), soft_wrap=True, style="dim", markup=False)
        return 0

    def run(config: RunConfig, ranks: int) -> Path:
        return launch.run(config, ranks, limit_s=asked.run_limit_s)

    done, records = compare(chosen, plan, run, asked.results, view(plan, console), seed=seed, missing=missing)
    show_end(console, done, records, asked.results, asked.matrix)
    return 130 if done.ended == "interrupted" else 0 if good(records) else 1
