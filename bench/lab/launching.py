"""`ringzero lab launch`: one run of an engine over the hosts of a laboratory."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from bench import elastic
from bench.config import RunConfig
from bench.flags import defaults
from bench.hosts.description import slots as all_slots
from bench.lab import kept, start
from bench.report import load
from bench.report.rows import cause
from bench.restarts import Restarts


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start one run over the hosts of the laboratory that stands, under the engine's own launcher."""

    run: RunConfig
    slots: int = 1
    """Ranks of each host; those of one host share its memory, not its link."""
    on_hosts: int | None = None
    """Only on so many hosts, the first ones."""
    ranks: int | None = None
    """Processes in all, where not as many as the hosts take: then the last hosts stand in for one that is lost (--elastic)."""
    restarts: Restarts = field(default_factory=Restarts)
    lab: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of the laboratory, where several stand."""
    run_limit_s: float = 600.0
    """A run that lasts longer is ended, with all its processes on every host, and recorded as failed."""


def main(argv: Sequence[str]) -> int:
    """Returns 0 where the record says `done`, else 1."""
    settings = (tyro.conf.OmitArgPrefixes,)
    if varied := defaults(argv):
        asked = tyro.cli(Launch, args=argv, default=Launch(run=varied), prog="ringzero lab launch", config=settings)
    else:
        asked = tyro.cli(Launch, args=argv, prog="ringzero lab launch", config=settings)
    lab = kept.find(asked.lab)
    hosts = start.named(lab, asked.on_hosts, asked.slots)

    def echo(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    path = elastic.run(
        asked.run,
        all_slots(hosts) if asked.ranks is None else asked.ranks,
        asked.restarts,
        limit_s=asked.run_limit_s,
        echo=echo,
        build=start.builder(lab, hosts, asked.restarts),
        place=partial(start.place, lab, hosts),
    )
    record = load.read(path)
    why = "" if record["status"] == "done" else f" ({cause(record)}); log: {path.with_suffix('.log')}"
    print(f"{record['status']}: {path}{why}")
    return 0 if record["status"] == "done" else 1
