"""`ringzero lab`: make hosts on this machine, run something on them, change their links, remove them."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from bench.lab import kept, laboratory, stream
from bench.lab.lab import Lab
from bench.lab.link import Link
from bench.lab.rights import LabError

PROGRAM = "ringzero lab"
WORDS: dict[str, tuple[str, str]] = {
    "up": ("bench.lab.command:up", "make a laboratory: --hosts 4 --link 1gbit"),
    "run": ("bench.lab.shell:main", "run a command on every host, or --on one"),
    "launch": ("bench.lab.launching:main", "one run of an engine over the hosts, under its own launcher"),
    "link": ("bench.lab.command:link", "give every link, or that of one host, another bandwidth: link 100mbit"),
    "status": ("bench.lab.command:status", "what stands; --measure sends bytes from host to host and times them"),
    "down": ("bench.lab.command:down", "remove it, and whatever a killed command has left"),
    "network": ("bench.lab.network:main", "the network experiment: step time against bandwidth, engine by engine"),
    "fault": ("bench.lab.faulting:main", "break something while an engine runs, and see what becomes of the run"),
}
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns what the word returns; 2 for an unknown one. Raises LabError."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        width = max(map(len, WORDS))
        print(
            f"usage: {PROGRAM} WORD [flags]\n\nHosts made of namespaces, on links of a chosen bandwidth. Needs root.\n"
        )
        print("\n".join(f"  {word:<{width}}  {text}" for word, (_, text) in WORDS.items()))
        print(f"\n{PROGRAM} WORD --help lists its flags; docs/lab.md tells what a laboratory is and what it is not.")
        raise SystemExit(0)
    if name not in WORDS:
        near = difflib.get_close_matches(name, WORDS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(WORDS)}"
        raise LabError(f"no word {name!r}; {meant}")
    for number in kept.sweep():
        print(f"{PROGRAM}: removed laboratory {number}, left by a command that was killed", file=sys.stderr)
    module, _, function = WORDS[name][0].partition(":")
    act: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return act(words[1:])


@dataclass(frozen=True, kw_only=True)
class Up:
    """Make a laboratory that stands until `ringzero lab down`."""

    hosts: int = 2
    """How many hosts, from 2; where there are more than cores, they take turns, and every record says so."""
    link: str = "1gbit"
    """Bandwidth of each host's link, in each direction: 100mbit, 1gbit, 2.5gbit, or none: as fast as this machine copies."""
    mtu: int = 1500
    """Largest packet, bytes: 1500 as Ethernet has it, up to 9000 as data centres do."""


def up(argv: Sequence[str]) -> int:
    """Returns 0."""
    asked = tyro.cli(Up, args=argv, prog=f"{PROGRAM} up")
    lab = laboratory.up(asked.hosts, Link.read(asked.link), mtu=asked.mtu, standing=True)
    show(lab)
    return 0


@dataclass(frozen=True, kw_only=True)
class LinkTo:
    """Change the bandwidth of the links; what runs on the hosts goes on."""

    rate: Annotated[str, tyro.conf.Positional]
    """100mbit, 1gbit, ..., none: not shaped; or cut: the cable is pulled; or plug: it is put in again."""
    on: str | None = None
    """Only the link of this host."""
    lab: Number = None
    """Number of the laboratory, where several stand."""


def link(argv: Sequence[str]) -> int:
    """Returns 0."""
    asked = tyro.cli(LinkTo, args=argv, prog=f"{PROGRAM} link")
    lab = kept.find(asked.lab)
    only = lab.named(asked.on) if asked.on else None
    if asked.rate in ("cut", "plug"):
        for each in [only] if only else lab.hosts:
            each.cable(lab.switch, plugged=asked.rate == "plug")
    else:
        lab.reshape(Link.read(asked.rate), only=only)
    show(lab)
    return 0


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show the laboratories that stand."""

    measure: bool = False
    """Send bytes from each host to the next and time them where they arrive."""


def status(argv: Sequence[str]) -> int:
    """Returns 0, or 1 where none stands."""
    asked = tyro.cli(Status, args=argv, prog=f"{PROGRAM} status")
    labs = kept.standing()
    for lab in labs:
        show(lab, measure=asked.measure)
    if not labs:
        print("no laboratory stands")
    return 0 if labs else 1


@dataclass(frozen=True, kw_only=True)
class Down:
    """Remove a laboratory and end all that runs in it."""

    lab: Number = None
    """Number of the laboratory, where several stand."""
    all: bool = False
    """Every one."""


def down(argv: Sequence[str]) -> int:
    """Returns 0."""
    asked = tyro.cli(Down, args=argv, prog=f"{PROGRAM} down")
    for lab in kept.standing() if asked.all else [kept.find(asked.lab)]:
        lab.down()
        print(f"laboratory {lab.number} is gone")
    return 0


def show(lab: Lab, *, measure: bool = False) -> None:
    """Its hosts as a table."""
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("host", "address", "cores", "link now", *(["measured, payload"] if measure else [])):
        table.add_column(title)
    for index, each in enumerate(lab.hosts):
        row = [each.name, each.address, ",".join(map(str, each.cores)), each.shaped(lab.switch)]
        if measure:
            following = lab.hosts[(index + 1) % len(lab.hosts)]
            row.append(f"{stream.measure(lab, each.name, following.name) / 1e6:.1f} Mbit/s to {following.name}")
        table.add_row(*row)
    link = Link.read(lab.link)
    payload = link.payload_rate(lab.mtu)
    least = "" if payload is None else f", which leaves {payload / 1e6:.1f} Mbit/s of payload"
    console.print(f"laboratory {lab.number}: {len(lab.hosts)} hosts, link {lab.link}, MTU {lab.mtu}{least}")
    console.print(table)
    if lab.shared_cores:
        console.print("* more hosts than cores: they take turns, so times are no measure of scaling.")
