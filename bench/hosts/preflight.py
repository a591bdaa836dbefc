"""Before anything starts: every host is reached at once and asked what it is; what differs is told by the host's name."""

import contextlib
import shlex
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.hosts import line
from bench.hosts.description import Host
from bench.hosts.differences import compare, network
from bench.hosts.line import Line, Unreachable
from bench.hosts.ssh import Ssh
from bench.launchers import LaunchFailed

PINGS = 5
CONNECT_S = 5.0
REACH_LIMIT_S = 60.0  # the first answer of a host; Python may come from a cold network folder


@dataclass(frozen=True)
class Clock:
    """How far a host's clock is ahead of this one's, known to `bound_s`: half of the quickest round trip."""

    offset_s: float
    bound_s: float


@dataclass(frozen=True)
class Seen:
    """One host: what its probe said, or why there is no answer."""

    host: Host
    facts: dict[str, Any] = field(default_factory=dict)
    clock: Clock | None = None
    unreachable: str | None = None


@dataclass(frozen=True)
class Findings:
    """`problems` keep a run from starting, `notes` do not. `master`: address of the first host on `interface`."""

    seen: tuple[Seen, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    master: str = ""
    interface: str = ""

    def raise_problems(self) -> None:
        """Raise LaunchFailed where there are any."""
        if self.problems:
            raise LaunchFailed("\n".join(["the hosts are not ready:", *(f"  {each}" for each in self.problems)]))


def look(hosts: Sequence[Host], ssh: Ssh, results: Path, *, interface: str = "") -> Findings:
    """Ask all hosts at once. `interface`: the one that a run is to use; empty finds the one of the hosts' own addresses."""
    asked = {"names": [host.name for host in hosts], "cwd": str(Path.cwd()), "folder": str(results.absolute())}
    with ExitStack() as stack, ThreadPoolExecutor(len(hosts)) as pool, _token(results) as token:
        lines: list[Line | None] = [stack.enter_context(line.opened(host, ssh)) for host in hosts]

        def one(at: int) -> Seen:
            probe = lines[at]
            assert probe is not None
            try:
                facts = probe.ask("look", limit_s=REACH_LIMIT_S, **asked, token=token)
                return Seen(hosts[at], facts, _clock(probe))
            except Unreachable as error:
                return Seen(hosts[at], unreachable=str(error))

        seen = tuple(pool.map(one, range(len(hosts))))
        if lost := [each for each in seen if each.unreachable]:
            return Findings(seen, tuple(_unreached(each, ssh) for each in lost), ())
        chosen, problems = network(seen, interface)
        differing, notes = compare(seen)
        problems += differing
        if chosen and not problems:
            problems += _closed_ports([each for each in lines if each is not None], chosen.address, pool)
    address, name = (chosen.address, chosen.interface) if chosen else ("", "")
    return Findings(seen, tuple(problems), tuple(notes), address, name)


@contextlib.contextmanager
def _token(results: Path) -> Iterator[str]:
    """The name of a file in the results folder, there for as long as the hosts may look for it."""
    name = f".preflight-{uuid.uuid4().hex[:12]}"
    try:
        results.mkdir(parents=True, exist_ok=True)
        (results / name).touch()
    except OSError as error:
        raise LaunchFailed(
            f"no records can be written to {results}: {error.strerror}; give another --results"
        ) from error
    try:
        yield name
    finally:
        (results / name).unlink(missing_ok=True)


def _clock(probe: Line) -> Clock:
    """The quickest of a few round trips says most: the answer was given somewhere within it."""

    best: Clock | None = None
    for _ in range(PINGS):
        before = time.time()
        there = probe.ask("clock")
        after = time.time()
        bound = (after - before) / 2
        if best is None or bound < best.bound_s:
            best = Clock(there - (before + after) / 2, bound)
    assert best is not None
    return best


def _closed_ports(lines: Sequence[Line], address: str, pool: ThreadPoolExecutor) -> list[str]:
    """Which hosts can't connect to a free port of the first one: a firewall, or a name that leads elsewhere."""
    try:
        port = lines[0].ask("listen")
        whys = pool.map(lambda each: each.ask("connect", address=address, port=port, seconds=CONNECT_S), lines[1:])
        return [
            f"host {each.host.name}: can't connect to {lines[0].host.name} at {address}, port {port}: {why}; "
            "open the ports above 1024 between the hosts, or name another network with --interface"
            for each, why in zip(lines[1:], whys, strict=True)
            if why
        ]
    except Unreachable as error:
        return [f"host {lines[0].host.name}: {error}, while ports were tried"]


def _unreached(seen: Seen, ssh: Ssh) -> str:

    typed = shlex.join([*ssh.argv(), seen.host.name, "true"])
    return f"host {seen.host.name}: {seen.unreachable}; this must work without a question: {typed}"


def port_of(host: Host, ssh: Ssh) -> int:
    """A port that is free on a host now. Raises LaunchFailed where it does not answer."""
    try:
        with line.opened(host, ssh) as probe:
            return int(probe.ask("listen", limit_s=REACH_LIMIT_S))
    except Unreachable as error:
        raise LaunchFailed(f"host {host.name}: {error}") from error
