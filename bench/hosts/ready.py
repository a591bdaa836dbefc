"""From the flags that name hosts to hosts that were looked at, and to the way in which runs are started on them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import launchers
from bench.hosts import lost, preflight, start
from bench.hosts.asked import Where
from bench.hosts.description import Host, evenly, is_here
from bench.hosts.lost import Build, Place
from bench.restarts import Restarts


@dataclass(frozen=True)
class Ready:
    """Hosts, and what was found out about them."""

    hosts: tuple[Host, ...]
    where: Where
    master: str = ""
    interface: str = ""

    def build(self, restarts: Restarts | None = None) -> Build:
        """For `launch.run`: ranks fill the first host, then the next, as the launchers themselves do it."""
        return self._build(self.hosts, restarts)

    def build_evenly(self) -> Build:
        """The same with the ranks of each run shared by all hosts, as far as they go."""
        return lambda config, ranks: self._build(evenly(self.hosts, ranks))(config, ranks)

    def place(self, restarts: Restarts) -> Place:
        """`build` for those hosts that still answer. Slurm's srun needs no ssh to them, so nobody is asked."""
        if self.where.srun:
            return Place(self.build())
        return lost.place(self.hosts, self.where.reach(), partial(self._build, restarts=restarts))

    def _build(self, hosts: tuple[Host, ...], restarts: Restarts | None = None) -> Build:
        first, ssh = hosts[0], self.where.reach()
        return start.builder(
            hosts,
            ssh,
            master=self.master if first == self.hosts[0] else "",
            interface=self.interface,
            port=launchers.free_port if is_here(first.name) else partial(preflight.port_of, first, ssh),
            pdsh=self.where.pdsh,
            srun=self.where.srun,
            restarts=restarts,
        )


def ready(where: Where, results: Path, tell: Callable[[str], None]) -> Ready | None:
    """Look at the hosts that flags ask for; None where they ask for none.

    `tell` gets what may make a number wrong. Raises HostsError, and LaunchFailed where a host is not ready.
    """
    hosts = where.find()
    if hosts is None:
        return None
    if where.no_preflight:
        return Ready(hosts, where, interface=where.interface)
    found = preflight.look(hosts, where.reach(), results, interface=where.interface)
    for note in found.notes:
        tell(note)
    found.raise_problems()
    return Ready(hosts, where, found.master, found.interface)
