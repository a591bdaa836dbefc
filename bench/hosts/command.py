"""`ringzero preflight`: what every host is, and what keeps a run from starting on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.hosts.asked import Where
from bench.hosts.description import HostsError
from bench.hosts.preflight import Seen, look

GIB = 2**30
VERSIONS = ("torch", "deepspeed", "horovod", "mpi4py")


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Reach every host, compare what must be the same on all, and name the host that differs. Starts no run."""

    where: Where
    results: Path = Path("results")
    """Folder that the records are to go to."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where a run can start, else 1."""
    asked = tyro.cli(Preflight, args=argv, prog="ringzero preflight", config=(tyro.conf.OmitArgPrefixes,))
    hosts = asked.where.find()
    if hosts is None:
        raise HostsError("which hosts? Type, say: ringzero preflight --hosts a:4,b:4")
    found = look(hosts, asked.where.reach(), asked.results, interface=asked.where.interface)
    console = Console(highlight=False)
    console.print(table(found.seen))
    for note in found.notes:
        console.print(Text(f"! {note}", "yellow"), soft_wrap=True)
    for problem in found.problems:
        console.print(Text(f"✗ {problem}", "red"), soft_wrap=True)
    if not found.problems:
        console.print(f"ready: {found.interface} on every host, rank 0 at {found.master}")
    return 1 if found.problems else 0


def table(seen: Sequence[Seen]) -> Table:
    """A row a fact, a column a host."""
    made = Table("", *(str(each.host) for each in seen))
    rows: dict[str, Callable[[Seen], object]] = {
        "name": lambda each: each.facts["hostname"],
        "Python": lambda each: each.facts["python"],
        **{name: partial(_version, name) for name in VERSIONS},
        "commit, source": lambda each: (
            f"{each.facts['commit']}{'+' if each.facts['dirty'] else ''}, {each.facts['code']}"
        ),
        "cores, GPUs": lambda each: f"{len(each.facts['machine']['allowed'])}, {len(each.facts['machine']['gpus'])}",
        "free memory": lambda each: f"{each.facts['machine']['available'] / GIB:.1f} GiB",
        "interfaces": lambda each: ", ".join(f"{k} {' '.join(v)}" for k, v in each.facts["interfaces"].items()),
        "clock": _clock,
    }
    for name, value in rows.items():
        made.add_row(name, *("no answer" if each.unreachable else str(value(each)) for each in seen))
    return made


def _version(name: str, seen: Seen) -> str:
    return seen.facts["packages"][name] or "none"


def _clock(seen: Seen) -> str:
    return f"{seen.clock.offset_s * 1e3:+.1f} ± {seen.clock.bound_s * 1e3:.1f} ms" if seen.clock else "unknown"
