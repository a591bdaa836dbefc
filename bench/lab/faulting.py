"""`ringzero lab fault`: break something while an engine runs over hosts, and see how the run ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from bench.config import RunConfig
from bench.lab import breaking, rights
from bench.lab.faults import KINDS

HELP = "; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items())


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Start a run in a laboratory of its own, do this to its last host, and look how it ends and what is left."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KIND", help=HELP)]
    run: RunConfig
    hosts: int = 2
    """How many hosts, one rank each."""
    link: str = "1gbit"
    """Bandwidth of their links."""
    at_step: int = 2
    """The step at which it happens, from 0; some kinds happen before the run starts."""


def main(argv: Sequence[str]) -> int:
    """Returns 0 where the run ended as it must, 1 where it did not."""
    asked = tyro.cli(Fault, args=argv, prog="ringzero lab fault", config=(tyro.conf.OmitArgPrefixes,))
    rights.check()
    found = breaking.fault(asked.kind, asked.run, hosts=asked.hosts, link=asked.link, at_step=asked.at_step)
    console = Console(highlight=False)
    console.print(
        f"{found.kind} on {found.victim}, {found.label}: ended {found.seconds:.1f} s later\n{found.said}\n"
        f"record: {found.record}{f'; whole checkpoints: {found.checkpoints}' if asked.run.checkpoints.checkpoint_every else ''}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for line in found.wrong:
        console.print(f"wrong: {line}", style="red", markup=False, soft_wrap=True)
    return 1 if found.wrong else 0
