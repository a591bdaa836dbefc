"""Which hosts a run has and how many ranks each takes: from flags, from a hostfile, or from the scheduler's allocation."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import ConfigError

HOSTS = "RINGZERO_HOSTS"  # variable with the hosts of a run, as `write` makes it: records say it
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"  # of a host, or an IPv4 address: it stands in commands of a shell
LINE = re.compile(
    rf"(?P<name>{NAME})(?::(?P<short>\d+)|(?:\s+slots\s*=\s*(?P<long>\d+)))(?:\s+max[_-]slots\s*=\s*\d+)?"
)
ENTRY = re.compile(rf"(?P<name>{NAME}):(?P<slots>\d+)")


class HostsError(ConfigError):
    """The hosts of a run can't be told; the message says where that stands and what to type."""


@dataclass(frozen=True)
class Host:
    """A machine by the name that every other host knows it by, and how many ranks it takes."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def parse(text: str) -> tuple[Host, ...]:
    """Hosts as flags give them: `a:4,b:4`. Raises HostsError."""
    found = []
    for word in text.split(","):
        entry = ENTRY.fullmatch(word.strip())
        if entry is None:
            raise HostsError(f"--hosts {text!r}: {word.strip()!r} is not HOST:RANKS; type, say, --hosts a:4,b:4")
        found.append(Host(entry["name"], int(entry["slots"])))
    return _checked(found, [f"--hosts {text!r}, entry {number}" for number in range(1, len(found) + 1)])


def read(path: Path) -> tuple[Host, ...]:
    """Hosts of a file, a line each: `a slots=4` as MPI and DeepSpeed write it, or `a:4`; `#` begins a comment.

    Raises HostsError for a file that is missing, unreadable or empty, and for a line that is wrong or repeats a host.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise HostsError(f"--hostfile {path}: {why}; write a line a host into it, such as: a slots=4") from error
    found, places = [], []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        entry = LINE.fullmatch(words)
        if entry is None:
            raise HostsError(f"--hostfile {path}, line {number}: {words!r} is not a host; write: a slots=4")
        found.append(Host(entry["name"], int(entry["short"] or entry["long"])))
        places.append(f"--hostfile {path}, line {number}")
    if not found:
        raise HostsError(f"--hostfile {path} names no host; write a line a host into it, such as: a slots=4")
    return _checked(found, places)


def _checked(hosts: Sequence[Host], places: Sequence[str]) -> tuple[Host, ...]:
    """Each host once, with at least one rank; `places` say where each stands."""
    first: dict[str, str] = {}
    for host, place in zip(hosts, places, strict=True):
        if host.slots < 1:
            raise HostsError(f"{place}: {host.name} takes {host.slots} ranks; give it at least 1, or leave it out")
        if host.name in first:
            raise HostsError(
                f"{place}: {host.name} stands already in {first[host.name]}; name it once, with all its ranks"
            )
        first[host.name] = place
    return tuple(hosts)


def write(hosts: Sequence[Host]) -> str:
    """`parse` backwards."""
    return ",".join(map(str, hosts))


def slots(hosts: Sequence[Host]) -> int:
    """Ranks that all of them take together."""
    return sum(host.slots for host in hosts)


def most(hosts: Sequence[Host]) -> int:
    """Ranks on the host that takes the most of them."""
    return max(host.slots for host in hosts)


def used(hosts: Sequence[Host], ranks: int) -> tuple[Host, ...]:
    """Those hosts that `ranks` ranks are put on, host after host, with as many slots as are taken. Raises HostsError."""
    if ranks < 1:
        raise HostsError(f"--ranks {ranks}: a run has at least 1")
    if ranks > slots(hosts):
        raise HostsError(
            f"{ranks} ranks don't fit on {write(hosts)}, which take {slots(hosts)}; name more, or fewer --ranks"
        )
    taken = []
    for host in hosts:
        here = min(host.slots, ranks)
        ranks -= here
        if here:
            taken.append(replace(host, slots=here))
    return tuple(taken)


def evenly(hosts: Sequence[Host], ranks: int) -> tuple[Host, ...]:
    """Those hosts that `ranks` ranks are put on, one after the other by turns until all are placed. Raises HostsError."""
    used(hosts, ranks)  # raises where they don't fit
    taken = [0] * len(hosts)
    while sum(taken) < ranks:
        for at, host in enumerate(hosts):
            if taken[at] < host.slots and sum(taken) < ranks:
                taken[at] += 1
    return tuple(replace(host, slots=count) for host, count in zip(hosts, taken, strict=True) if count)


def host_of(rank: int, hosts: Sequence[Host]) -> Host:
    """Where a rank runs: the launchers fill the first host, then the next. Raises HostsError where there is no such rank."""
    for host in hosts:
        if rank < host.slots:
            return host
        rank -= host.slots
    raise HostsError(f"{write(hosts)} take no rank {rank + slots(hosts)}")


def first_rank(name: str, hosts: Sequence[Host]) -> int:
    """The lowest rank of a host. Raises StopIteration where it is none of them."""
    at = next(place for place, host in enumerate(hosts) if host.name == name)
    return slots(hosts[:at])


def is_here(name: str) -> bool:
    """Whether a host is the one that this process runs on: by its name, or because its address can be bound here."""
    if name in ("localhost", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        address = socket.gethostbyname(name)
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:  # no such name, or somebody else's address
        return False
    return True
