"""`ringzero launch`: one run, on this host or over several."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import tyro

from bench.config import RunConfig
from bench.flags import cut, defaults
from bench.hosts.asked import Where
from bench.restarts import Restarts


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start all ranks of one run under the engine's own launcher, on this host or over several, and wait for its record."""

    run: RunConfig
    where: Where = field(default_factory=Where)
    ranks: int | None = None
    """Processes in all: 1 where it is not given, or as many as the hosts take."""
    dry_run: bool = False
    """Print the exact commands, and run nothing; no host is looked at."""
    run_limit_s: float = 1800.0
    """A run that lasts longer is ended, with all its processes on every host, and recorded as failed."""
    restarts: Restarts = field(default_factory=Restarts)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where the record says `done`, else 1."""
    from bench import elastic, launchers
    from bench.hosts import description, spread
    from bench.hosts.ready import ready
    from bench.report import load
    from bench.report.rows import cause

    words = list(sys.argv[1:] if argv is None else argv)
    asked = parse(words)
    hosts = asked.where.find()
    ranks = asked.ranks if asked.ranks is not None else description.slots(hosts) if hosts else 1
    if asked.run.engine.backend == "single" and asked.ranks is None:
        ranks = 1
    asked = replace(asked, run=cut(asked.run, words, ranks))
    if asked.dry_run and hosts is None:
        print(elastic.command(asked.run, ranks, asked.restarts))
        return 0
    if asked.dry_run and hosts is not None:
        asked.restarts.check(asked.run, ranks)
        where = asked.where
        made = spread.commands(
            asked.run,
            hosts,
            ranks,
            interface=where.interface,
            ssh=where.reach(),
            pdsh=where.pdsh,
            srun=where.srun,
            restarts=asked.restarts,
        )
        print(spread.shown(made))
        return 0

    def echo(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    asked.run.micro_batch(ranks)  # before hosts are asked
    there = ready(asked.where, asked.run.output.results, lambda note: print(f"! {note}", file=sys.stderr))
    build, place = (there.build(asked.restarts), there.place) if there else (launchers.command, None)
    path = elastic.run(asked.run, ranks, asked.restarts, limit_s=asked.run_limit_s, echo=echo, build=build, place=place)
    record = load.read(path)
    print(
        f"{record['status']}: {path}"
        + ("" if record["status"] == "done" else f" ({cause(record)}); log: {path.with_suffix('.log')}")
    )
    return 0 if record["status"] == "done" else 1


def parse(words: Sequence[str]) -> Launch:
    """The flags. With `--variant`, what is not given is what that variant trained with."""
    settings = (tyro.conf.OmitArgPrefixes,)
    varied = defaults(words)
    if varied:
        return tyro.cli(Launch, args=words, default=Launch(run=varied), prog="ringzero launch", config=settings)
    return tyro.cli(Launch, args=words, prog="ringzero launch", config=settings)
