"""`ringzero compare`: a matrix of runs, each in processes of its own, shuffled, interleaved, in a recorded order."""

import dataclasses
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from backends.build import installed
from bench import comparison as kept
from bench import gpus, launch, launchers, lock, matrix
from bench import resume as resuming
from bench.announce import good, show_end, show_plan, verdict_of
from bench.comparison import Comparison, ComparisonError
from bench.config import ConfigError, RunConfig
from bench.hosts import spread
from bench.hosts.asked import Where
from bench.hosts.description import Host, evenly, write
from bench.hosts.ready import ready
from bench.launch import LIMIT_S
from bench.launchers import LaunchFailed
from bench.matrix import REFERENCE, Cell, Matrix
from bench.record import now
from bench.report import load
from bench.report.live import View, view

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
    where: Where = field(default_factory=Where)


def available(plan: Sequence[Cell]) -> tuple[list[Cell], dict[str, str]]:
    """The runs whose engine can take part, and why others can't. Raises LaunchFailed where `single` can't."""
    engines = {cell.label: cell.config for cell in plan}
    missing = {
        label: why
        for label, config in engines.items()
        if (why := launchers.unavailable(config) or without_nccl(config))
    }
    if REFERENCE in missing:
        raise LaunchFailed(
            f"{REFERENCE}, the run that all others are verified against, can't run here: {missing[REFERENCE]}"
        )
    return [cell for cell in plan if cell.label not in missing], missing


def without_nccl(config: RunConfig) -> str | None:
    """Why Horovod is no engine for GPUs as it is built here; None where it is, and for all else."""
    if (config.engine.backend, config.engine.device) != ("horovod", "cuda"):
        return None
    found, why = installed.probe()
    if found is None or found.nccl:
        return why or None
    return "this comparison is on GPUs, and it was built without NCCL; where CUDA and NCCL are, type: make horovod"


def placed(chosen: Matrix, hosts: Sequence[Host] | None) -> tuple[Matrix, str | None]:
    """The matrix with one device for all its runs, and what to say of it; hosts are taken to have the GPUs of this one.

    Raises HostsError for ranks that the hosts have no room for.
    """
    most = max(max(host.slots for host in evenly(hosts, ranks)) if hosts else ranks for ranks in chosen.ranks)
    there = gpus.visible()
    made = chosen.on_one_device(there, most)
    if made is chosen:
        return chosen, None
    counted = f"{there} GPU{'s' * (there > 1)} here, at most {most} rank{'s' * (most > 1)} on a host"
    if there >= most:
        return made, f"every run is on GPUs: {counted}"
    return made, f"every run is on the CPU: {counted}; for GPUs leave the larger rank counts out of the matrix"


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
    hosts: str | None = None,
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
        hosts=hosts,
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where every run is verified, 1 where one is not, 130 after Ctrl-C."""
    asked = tyro.cli(Compare, args=argv, prog="ringzero compare", config=(tyro.conf.OmitArgPrefixes,))
    console = Console(highlight=False)
    if asked.resume:
        return resume(asked, console)
    chosen = matrix.read(asked.matrix or "quick")
    if asked.repeats is not None:
        chosen = dataclasses.replace(chosen, repeats=asked.repeats)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    hosts = asked.where.find()
    chosen, device = placed(chosen, hosts)
    plan, missing = available(chosen.plan(seed))
    if hosts is not None:
        for cell in plan:
            evenly(hosts, cell.ranks)  # raises for a run that does not fit, before hours are spent
    show_plan(console, chosen, plan, missing, seed)
    if device:
        console.print(Text(f"  {device}", "dim"), soft_wrap=True)
    if asked.dry_run:
        for cell in plan:
            console.print(started(cell, asked.where), soft_wrap=True, style="dim", markup=False)
        return 0
    return take(asked, console, chosen, plan, seed, missing, None)


def started(cell: Cell, where: Where) -> str:
    """The commands of a run, for a shell."""
    hosts = where.find()
    if hosts is None:
        return str(launchers.command(cell.config, cell.ranks))
    return spread.shown(
        spread.commands(
            cell.config,
            evenly(hosts, cell.ranks),
            cell.ranks,
            interface=where.interface,
            ssh=where.reach(),
            pdsh=where.pdsh,
            srun=where.srun,
        )
    )


def resume(asked: Compare, console: Console) -> int:
    """Go on with a comparison. Raises ComparisonError where there is none, or where it is not what it was."""
    if asked.seed is not None or asked.repeats is not None or asked.dry_run:
        raise ConfigError("--resume keeps seed, repeats and order as they were; leave out --seed, --repeats, --dry-run")
    found = resuming.find(asked.results, asked.matrix)
    chosen, plan = resuming.plan_of(found)
    available(plan[len(found.records) :])
    hosts = asked.where.find()
    if (now_on := write(hosts) if hosts else None) != found.hosts:
        raise ComparisonError(
            f"{found.name} began on {found.hosts or 'this host alone'}, not on {now_on or 'this host alone'}; "
            + (f"go on with --hosts {found.hosts}" if found.hosts else "leave the hosts out")
        )
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

    there = ready(asked.where, asked.results, lambda note: console.print(Text(f"! {note}", "yellow"), soft_wrap=True))
    build = there.build_evenly() if there else launchers.command

    def run(config: RunConfig, ranks: int, place: str) -> Path:
        return launch.run(config, ranks, limit_s=limit_s, place=place, build=build)

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
            hosts=write(there.hosts) if there else None,
        )  # fmt: skip
        typed = (
            (asked.matrix or "quick") if not asked.resume else chosen.name if chosen.name in matrix.names() else None
        )
        show_end(console, done, records, asked.results, typed)
    return 130 if done.ended == "interrupted" else 0 if good(records) else 1
