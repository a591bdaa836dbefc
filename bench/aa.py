"""`ringzero aa`: one engine entered twice under two names, again and again. How often are they called different here?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bench import launch, launchers, machine, matrix, pairwise, ranktest
from bench.config import ConfigError, Measure, Output, RunConfig, Training
from bench.pairwise import Pair
from bench.report import load, rows

REPEATS = ranktest.needed(1) + 1  # one more than a pair needs at least: one run out of place may then be borne


@dataclass(frozen=True, kw_only=True)
class AA:
    """Run one engine against itself: real runs in turn under two names, through the test that decides who is faster."""

    engine: str = "single"
    """Engine, as in a comparison's table."""
    ranks: int = 1
    """Processes of each run."""
    comparisons: int = 20
    """Comparisons of the engine with itself; each has runs of its own."""
    repeats: int = REPEATS
    """Runs of each of the two names in one comparison."""
    steps: int = 10
    """Timed steps of a run."""
    results: Path = Path("results/aa")
    """Folder of the records and of aa.md; finished runs that lie there and fit are counted, not repeated."""


def config(asked: AA) -> RunConfig:
    """A run without proof: only its step times are looked at. Raises MatrixError, ConfigError."""
    engine = RunConfig.from_dict({"engine": matrix.engine(asked.engine)}).engine
    run = RunConfig(
        engine=engine,
        training=Training(steps=asked.steps),
        measure=Measure(proof_steps=0),
        output=Output(results=asked.results),
    )
    run.micro_batch(asked.ranks)
    return run


def fitting(records: Sequence[Mapping[str, Any]], asked: AA) -> list[Mapping[str, Any]]:
    """Finished runs of this engine, these ranks and this experiment."""
    wanted = (config(asked).experiment_id(), asked.engine, asked.ranks)
    return [
        record
        for record in records
        if record["status"] == "done"
        and (record["experiment"], record["engine"]["label"], record["world"]["size"]) == wanted
    ]


def measure(asked: AA, run: Callable[[RunConfig, int], Path], tell: Callable[[str], None]) -> list[Mapping[str, Any]]:
    """Take the runs that are still missing, one after the other. Raises ConfigError after three that failed in a row."""
    known = fitting(load.load(asked.results).records, asked) if asked.results.is_dir() else []
    need, lost = 2 * asked.repeats * asked.comparisons, 0
    while len(known) < need:
        record = load.read(run(config(asked), asked.ranks))
        lost = 0 if record["status"] == "done" else lost + 1
        tell(f"{len(known) + (lost == 0)}/{need} {record['run_id']} {record['status']}")
        if lost == 3:
            raise ConfigError(f"three runs failed in a row, the last with {rows.cause(record)}; try: ringzero launch")
        known += [record] if lost == 0 else []
    return known[:need]


def told(pairs: Sequence[Pair], asked: AA) -> list[str]:
    """The outcome as Markdown."""
    wrong, alone = sum(pair.shown for pair in pairs), sum(pair.p < ranktest.ALPHA for pair in pairs)
    allowed = int(ranktest.ALPHA * len(pairs))
    lines = [
        f"**{asked.engine} x{asked.ranks} against itself: called different in {wrong} of {len(pairs)} comparisons** "
        f"(at most {allowed} may be; by the rank test without the interval: {alone}).",
        "",
        f"{asked.repeats} runs a name, {asked.steps} steps a run, runs in turn (A B B A). Each comparison is a family "
        "of its own. p: Mann-Whitney over the runs' medians; detectable: share that would be found in four of five.",
        "",
        "| comparison | ratio A / B | 95 % interval | p | detectable | verdict |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    for number, pair in enumerate(pairs, 1):
        least = "-" if pair.detectable is None else f"{100 * pair.detectable:.1f} %"
        lines.append(
            f"| {number} | {pair.ratio.median:.3f} | {pair.ratio.low:.3f}\N{EN DASH}{pair.ratio.high:.3f} "
            f"| {pair.p:.2g} | {least} | {pair.verdict()} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where at most 5 % were called different, else 1."""
    asked = tyro.cli(AA, args=argv, prog="ringzero aa")
    if asked.comparisons < 1 or asked.repeats < ranktest.needed(1):
        raise ConfigError(f"--comparisons must be at least 1 and --repeats at least {ranktest.needed(1)}")
    if why := launchers.unavailable(config(asked)):
        raise ConfigError(f"{asked.engine} can't run here: {why}")
    for line in machine.warnings(machine.look()):
        print(f"! {line}")
    print(f"{2 * asked.repeats * asked.comparisons} runs; Ctrl-C at any time, the same command goes on", flush=True)
    records = measure(asked, lambda run, ranks: launch.run(run, ranks), lambda line: print(line, flush=True))
    pairs = pairwise.aa(records, asked.repeats)
    where = "; ".join(sorted({f"{rows.machine(record)}, commit {rows.commit(record)}" for record in records}))
    command = " ".join(["ringzero aa", *(argv or ())])
    lines = [*told(pairs, asked), "", f"Runs from {records[0]['started'][:10]} on: {where}. Command: `{command}`"]
    (asked.results / "aa.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\nwrote {asked.results / 'aa.md'}", sep="\n")
    return 0 if sum(pair.shown for pair in pairs) <= ranktest.ALPHA * len(pairs) else 1
