"""Hosts that are lost: all are asked whether they still answer, and the next start does without those that don't."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.config import RunConfig
from bench.hosts import line
from bench.hosts.description import Host, slots
from bench.hosts.line import Unreachable
from bench.hosts.ssh import Ssh
from bench.launchers import Command

ANSWER_S = 20.0  # ssh itself gives up after half of it

Build = Callable[[RunConfig, int], Command]


@dataclass(frozen=True)
class Place:
    """Where ranks can be started now. `most`: how many of them; None: nobody counts. `lost`: names of hosts that don't answer."""

    build: Build
    most: int | None = None
    lost: tuple[str, ...] = ()


def place(hosts: Sequence[Host], ssh: Ssh, build: Callable[[tuple[Host, ...]], Build]) -> Place:
    """Those of `hosts` that answer; `build` makes of hosts what starts a run on them. Raises HostsError without an ssh."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        there = list(pool.map(lambda host: answers(host, ssh), hosts))
    left = tuple(host for host, here in zip(hosts, there, strict=True) if here)
    lost = tuple(host.name for host, here in zip(hosts, there, strict=True) if not here)
    return Place(build(left or tuple(hosts)), slots(left), lost)


def answers(host: Host, ssh: Ssh) -> bool:
    """Whether Python starts there and says something."""
    with line.opened(host, ssh) as probe:
        try:
            probe.ask("clock", limit_s=ANSWER_S)
        except Unreachable:
            return False
    return True
