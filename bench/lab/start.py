"""Engines on the hosts of a laboratory: their own launchers, told of hosts as they would be of real ones."""

from bench.hosts import description, lost, start
from bench.hosts.lost import Build, Place
from bench.hosts.ssh import Ssh
from bench.lab.host import INTERFACE
from bench.lab.lab import Lab
from bench.lab.rights import LabError
from bench.restarts import Restarts


def named(lab: Lab, count: int | None = None, slots: int = 1) -> tuple[description.Host, ...]:
    """The first `count` hosts (all where it is None), each taking `slots` ranks. Raises LabError."""
    if count is not None and not 1 <= count <= len(lab.hosts):
        raise LabError(f"{count} hosts of {len(lab.hosts)}: make a larger laboratory, or use fewer")
    if slots < 1:
        raise LabError(f"--slots is {slots}; a host takes at least 1 rank")
    return tuple(description.Host(each.name, slots) for each in lab.hosts[:count])


def door(lab: Lab) -> Ssh:
    """How its hosts are reached."""
    return Ssh(str(lab.state.parent / "bin" / "ssh"))


def builder(lab: Lab, hosts: tuple[description.Host, ...], restarts: Restarts | None = None) -> Build:
    """A `build` for `launch.run`: the launcher's commands, started on the hosts through the laboratory's own door."""
    return start.builder(hosts, door(lab), interface=INTERFACE, restarts=restarts)


def place(lab: Lab, hosts: tuple[description.Host, ...], restarts: Restarts) -> Place:
    """The same for those of the hosts that still answer."""
    return lost.place(hosts, door(lab), lambda left: builder(lab, left, restarts))
