"""`ringzero tune`: each engine at its best within the same number of trials, and the winner measured again."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.text import Text

from bench import launch, launchers, machine, matrix, ranktest
from bench.comparison import stamp
from bench.config import ConfigError, RunConfig
from bench.launch import LIMIT_S
from bench.matrix import REFERENCE, Matrix
from bench.record import now
from bench.report import load, tuned
from bench.report.live import clock
from bench.tuning import search, space
from bench.tuning.conduct import Conductor
from bench.tuning.outcome import outcomes
from bench.tuning.study import Request, Study, unfinished


@dataclass(frozen=True)
class Tune:
    """Search each engine's own settings, each with as many trials; then measure the best again, beside the controlled one.

    A study that was stopped goes on with the same command.
    """

    matrix: tyro.conf.Positional[str] = "quick"
    """A matrix that comes with the project, or a .toml file: its configuration, its engines and its most ranks."""
    trials: int = 8
    """Runs an engine may try; the first has the controlled setting, a failed one counts."""
    repeats: int = 5
    """Fresh rounds of winner and controlled run after the search."""
    engines: tuple[str, ...] = ()
    """Engines to tune; where none is given the matrix's, its ZeRO stages as one: deepspeed, whose stage is tried too."""
    ranks: int | None = None
    """Processes; the matrix's most where this is not given."""
    trial_steps: int | None = None
    """Optimizer steps of a trial; as many as the matrix says where this is not given."""
    results: Path = Path("results")
    """Folder of the records, of the study and of its report."""
    seed: int | None = None
    """Of the search and of the order; drawn and recorded where it is not given."""
    run_limit_s: float = LIMIT_S
    """A run that lasts longer is ended, with all its processes, and recorded as failed."""
    fresh: bool = False
    """Begin anew, although a study of the same request was stopped here."""
    dry_run: bool = False
    """Show the plan and what is tried; run nothing."""


def request(asked: Tune, chosen: Matrix) -> tuple[Request, dict[str, str]]:
    """What is searched, and engines that are left out with the reason. Raises ConfigError or MatrixError."""
    for name, low in (("trials", 2), ("repeats", 1), ("ranks", 1), ("trial_steps", 1)):
        if (value := getattr(asked, name)) is not None and value < low:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    stages = [name for name in chosen.engines if matrix.ZERO.fullmatch(name)]
    wanted = asked.engines or tuple(
        dict.fromkeys(space.STAGED if name in stages else name for name in chosen.engines if name != REFERENCE)
    )
    if REFERENCE in wanted:
        raise ConfigError(f"{REFERENCE} is what all are verified against, it has no settings; leave it out")
    ranks = asked.ranks or max(chosen.ranks)
    bases = {engine: space.base(engine, chosen.config) for engine in wanted}
    for config in bases.values():
        config.micro_batch(ranks)
    missing = {engine: why for engine, config in bases.items() if (why := launchers.unavailable(config))}
    engines = tuple(engine for engine in wanted if engine not in missing)
    if not engines:
        raise ConfigError(f"no engine to tune: {'; '.join(missing.values()) or 'the matrix has none'}")
    return Request(matrix=chosen.name, config=chosen.config, engines=engines, ranks=ranks, trials=asked.trials,
                   repeats=asked.repeats, trial_steps=asked.trial_steps), missing  # fmt: skip


def show_plan(console: Console, study: Study, left: int, estimate_s: float) -> None:
    """What is tried of each engine, how many runs that is, and how long they take."""
    wanted = study.request
    console.print(
        f"{wanted.matrix} at {wanted.ranks} ranks: {len(wanted.engines)} engines x {wanted.trials} trials, then at most "
        f"{wanted.repeats} round{'s' * (wanted.repeats != 1)} of each winner and its controlled run; seed {study.seed}.",
        soft_wrap=True,
    )
    console.print(
        f"{left} runs{' left' if study.trials else ''}, about {clock(left * estimate_s)} minutes at {estimate_s:g} s a run"
    )
    for engine in wanted.engines:
        console.print(Text(f"  {engine}", "bold"))
        config = space.base(engine, wanted.config)
        first = search.controlled(space.knobs(engine), config)
        for knob in space.knobs(engine):
            if knob.name in first or engine == space.STAGED:
                values = ", ".join("controlled" if value is None else str(value) for value in knob.values)
                console.print(Text(f"    {knob.name.replace('_', ' ')}: {values}", "dim"), soft_wrap=True)
    if wanted.repeats < (needed := ranktest.needed(len(wanted.engines))):
        console.print(
            Text(f"  with --repeats {wanted.repeats} nothing can be called faster: it takes --repeats {needed}", "dim"),
            soft_wrap=True,
        )
    for line in machine.warnings(machine.look()):
        console.print(Text(f"! {line}", "yellow"))


def show_end(console: Console, study: Study, results: Path) -> None:
    """The table, the page, the figure, and how to get them again."""
    from bench.report import page, verdicts
    from bench.report.rows import groups

    loaded = load.load(results, [*dict.fromkeys([*study.references, *(each.record for each in study.repeats)])])
    by_name = verdicts.by_file(loaded.records)
    found = outcomes(study, by_name)
    console.print()
    console.print(tuned.terminal(study, found))
    console.print()
    again = [by_name[name] for name in study.again if name in by_name]
    where = "" if results == Path("results") else f" --results {results}"
    lines = [f"study       {results / study.name}{load.STUDY}"]
    if study.repeats and again:
        made = groups(again)
        told = [verdicts.compare(group, by_name) for group in made]
        lines += [f"page        {page.write(made, again, results / f'{study.name}.html', found=told)}",
                  f"figure      ringzero plot tuned-loss {study.name}{where}"]  # fmt: skip
    for line in [*lines, f"table       ringzero report {study.name}{where}"]:
        console.print(Text(line), soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where the study came to its end, 130 after Ctrl-C."""
    asked = tyro.cli(Tune, args=argv, prog="ringzero tune")
    search.need()
    console = Console(highlight=False)
    chosen = matrix.read(asked.matrix)
    wanted, missing = request(asked, chosen)
    known = None if asked.fresh else unfinished(asked.results, wanted, asked.seed)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    study = known or Study(name=f"{stamp()}_{chosen.name}", request=wanted, seed=seed, started=now())

    def run(config: RunConfig, ranks: int) -> Path:
        return launch.run(config, ranks, limit_s=asked.run_limit_s)

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    conductor = Conductor(study, asked.results, run, tell, chosen.estimate_s)
    if known:
        console.print(f"going on with {study.name}: {len(study.trials)} trials, {len(study.repeats)} repeats are there")
    show_plan(console, study, conductor.left(), chosen.estimate_s)
    for engine, why in missing.items():
        console.print(Text.assemble("  ", (f"{engine} is left out: ", "yellow"), why), soft_wrap=True)
    if asked.dry_run:
        return 0
    asked.results.mkdir(parents=True, exist_ok=True)
    try:
        conductor.everything()
    except KeyboardInterrupt:
        study.ended = "interrupted"
        study.write(asked.results)
        console.print(Text("interrupted; what was measured is kept, the same command goes on", "yellow"))
    show_end(console, study, asked.results)
    return 130 if study.ended == "interrupted" else 0
