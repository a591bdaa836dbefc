"""The runs of the network experiment: every engine on every number of hosts and every link, shuffled round by round, resumable."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench import comparison, launch, lock
from bench import resume as resuming
from bench.compare import compare
from bench.comparison import Comparison, ComparisonError
from bench.config import RunConfig
from bench.lab import start
from bench.lab.laboratory import laboratory
from bench.lab.link import Link
from bench.matrix import REFERENCE, Cell, Matrix
from bench.record import now
from bench.report import load
from bench.report.live import view

NAME = "network"
LINK = "link "  # begins the word of a cell that says on which


def plan(chosen: Matrix, links: Sequence[str], seed: int) -> list[Cell]:
    """The plain process first, since every verdict needs it, and again on smaller micro-batches (see `smaller`); then each round
    over all the rest in an order of its own."""
    order, cells = random.Random(seed), chosen.cells()
    taken = [cell for cell in cells if cell.label == REFERENCE][:1]
    taken += [each for cell in taken for each in smaller(cell, chosen.ranks)]
    for repeat in range(chosen.repeats):
        this = [
            dataclasses.replace(cell, axes=(*cell.axes, f"{LINK}{link}"))
            for cell in cells
            if cell.label != REFERENCE and cell.repeat == repeat
            for link in links
        ]
        order.shuffle(this)
        taken += this
    return taken


def smaller(cell: Cell, ranks: Sequence[int]) -> list[Cell]:
    """A plain process on micro-batches as small as those of so many ranks: calibration tells by them what a micro-batch costs
    whatever its size."""
    training = cell.config.training
    found = []
    for accumulation in (training.accumulation * count for count in ranks):
        if training.global_batch % accumulation == 0:
            config = dataclasses.replace(cell.config, training=dataclasses.replace(training, accumulation=accumulation))
            words = (*cell.axes, f"micro-batch {training.global_batch // accumulation}")
            found.append(dataclasses.replace(cell, config=config, axes=words))
    return found


def link_of(cell: Cell) -> Link | None:
    """The link of a run; None of one that is on this machine alone."""
    words = [word.removeprefix(LINK) for word in cell.axes if word.startswith(LINK)]
    return Link.read(words[0]) if words else None


def unfinished(results: Path, chosen: Matrix, links: Sequence[str]) -> Comparison | None:
    """The latest of the same runs that was stopped."""
    for name in reversed(comparison.names(results) if results.is_dir() else []):
        found = comparison.read(results / f"{name}{comparison.SUFFIX}")
        same = found.links == list(links) and found.matrix == chosen.to_dict()
        if same and found.ended != "complete":
            return found
    return None


def runner(cells: Sequence[Cell], mtu: int, limit_s: float) -> Callable[[RunConfig, int, str], Path]:
    """How `compare` takes one of the runs: in a laboratory of its own, made for it and removed after it."""

    def run(config: RunConfig, ranks: int, place: str) -> Path:
        link = link_of(cells[int(place.rpartition("~")[2])])
        if link is None:
            return launch.run(config, ranks, limit_s=limit_s, place=place)
        with laboratory(ranks, link, mtu=mtu) as lab:
            build = start.builder(lab, start.named(lab))
            return launch.run(config, ranks, limit_s=limit_s, place=place, build=build)

    return run


def take(
    chosen: Matrix,
    links: Sequence[str],
    results: Path,
    console: Console,
    *,
    seed: int,
    missing: dict[str, str],
    mtu: int,
    limit_s: float,
    force: bool,
) -> tuple[Comparison, list[dict[str, Any]]]:
    """Take the runs that are left; goes on by itself where the same experiment was stopped. Raises ComparisonError."""
    results.mkdir(parents=True, exist_ok=True)
    kept = unfinished(results, chosen, links)
    cells = [cell for cell in plan(chosen, links, kept.seed if kept else seed) if cell.label not in missing]
    name = kept.name if kept else f"{comparison.stamp()}_{NAME}"
    with lock.held(results, name):
        if kept is None:
            kept = Comparison(
                name=name,
                matrix=chosen.to_dict(),
                seed=seed,
                started=now(),
                unavailable=missing,
                order=resuming.names(cells),
                began=resuming.surroundings(),
                run_limit_s=limit_s,
                links=list(links),
            )
        else:
            _go_on(kept, cells, results, console, force=force)
        return compare(
            chosen, cells, runner(cells, mtu, limit_s), results, view(cells, console),
            seed=kept.seed, missing=missing, going_on=kept, limit_s=limit_s, name=name,
        )  # fmt: skip


def _go_on(kept: Comparison, cells: Sequence[Cell], results: Path, console: Console, *, force: bool) -> None:
    """Put the folder in order after a stop. Raises ComparisonError where the rest could not be compared with the first."""
    if resuming.names(cells) != kept.order:
        raise ComparisonError(f"{kept.name} was planned by another version; remove it, or give another --results")
    differs = resuming.differing(kept.began, resuming.surroundings())
    for line in differs:
        console.print(Text(f"! since {kept.name} began, {line}", "yellow"), soft_wrap=True)
    if differs and not force:
        raise ComparisonError(
            f"{kept.name} began under other conditions; restore them, give another --results, or go on with --force"
        )
    for path in resuming.recover(kept, cells, results):
        console.print(Text(f"cut short, kept, taken again: {path}", "dim"), soft_wrap=True)
    resuming.went_on(kept, differs)
    console.print(f"{kept.name} goes on: {len(kept.records)} of {len(cells)} runs are there", soft_wrap=True)


def read(results: Path, name: str | None) -> tuple[Comparison, list[dict[str, Any]]]:
    """A network experiment that was taken, the latest where no name is given. Raises ComparisonError."""
    names = comparison.names(results) if results.is_dir() else []
    for each in [name] if name else reversed(names):
        found = comparison.read(results / f"{each}{comparison.SUFFIX}")
        if found.links:
            return found, [load.read(results / file) for file in found.records]
    raise ComparisonError(f"no network experiment in {results}; take one: ringzero lab network --results {results}")
