"""A laboratory as an object: hosts on one switch, the file that remembers it, and what may be done to it.

All of it hangs on processes in namespaces of their own, the switch too: nothing is added to this machine's network, and
once they are killed nothing is left but a folder under ROOT.
"""

import contextlib
import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.lab import door, holder, sshd
from bench.lab.host import Host
from bench.lab.link import Link
from bench.lab.rights import LabError

ROOT = Path("/run/ringzero/lab")
STATE = "state.json"
GRACE_S = 2.0


@dataclass
class Lab:
    """`owner`: process that removes it when it leaves, with the second it began; None: it stands until `down`.

    `daemons`: the sshd of each host, none where `door` says that hosts are entered otherwise.
    """

    number: int
    link: str
    mtu: int
    owner: tuple[int, float] | None
    switch: int = 0
    hosts: list[Host] = field(default_factory=list)
    daemons: dict[str, int] = field(default_factory=dict)
    door: str = door.NSENTER

    @property
    def state(self) -> Path:
        """The file that remembers it."""
        return ROOT / str(self.number) / STATE

    @property
    def shared_cores(self) -> bool:
        """Hosts take turns on this machine's cores: times are no measure of scaling."""
        return len({core for each in self.hosts for core in each.cores}) < len(self.hosts)

    def write(self) -> None:
        """Whole or not at all."""
        partial = self.state.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        partial.replace(self.state)

    def named(self, name: str) -> Host:
        """The host of that name. Raises LabError."""
        for each in self.hosts:
            if each.name == name:
                return each
        raise LabError(f"no host {name!r}; there are: {', '.join(each.name for each in self.hosts)}")

    def reshape(self, link: Link, *, only: Host | None = None) -> None:
        """Give all cables, or that of one host, another bandwidth; what runs goes on."""
        for each in [only] if only else self.hosts:
            each.shape(self.switch, link)
        if only is None:
            self.link = str(link)
            self.write()

    def end_runs(self) -> None:
        """End every process of the hosts; the hosts stand."""
        holder.end(self.running, grace_s=GRACE_S)

    def running(self) -> list[psutil.Process]:
        """Every process of the hosts, but those that hold them and let others in."""
        kept = {self.switch, *(each.pid for each in self.hosts), *self.daemons.values()}
        return [each for each in self._members() if each.pid not in kept]

    def shut(self, host: Host, *, closed: bool) -> None:
        """Let a host refuse connections, or take them again."""
        if self.door == door.NSENTER:
            door.shut(self.state, host, closed=closed)
        elif closed:
            sshd.stop(self.daemons.pop(host.name))
        else:
            self.daemons[host.name] = sshd.start(self.state, host)
        self.write()

    def down(self) -> None:
        """Remove all of it. Nothing that ran in a host is alive afterwards."""
        self.end_runs()
        holder.end(self._members)
        shutil.rmtree(self.state.parent, ignore_errors=True)
        for folder in (ROOT, ROOT.parent):
            with contextlib.suppress(OSError):  # not empty: another one stands
                folder.rmdir()

    def _members(self) -> list[psutil.Process]:
        networks = {each.network for each in self.hosts if each.alive()}
        found = {each.pid: each for each in [*holder.inside(networks), *holder.of(self.state)]}
        return list(found.values())
