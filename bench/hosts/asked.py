"""The flags that say which hosts, and how they are reached; the same for every command."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.hosts import allocation as scheduler
from bench.hosts.description import Host, HostsError, parse, read
from bench.hosts.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which hosts; none of the first three: this one alone."""

    hosts: str | None = None
    """Hosts and how many ranks each takes: a:4,b:4. Rank 0, and with it the record, is on the first."""
    hostfile: Path | None = None
    """The same from a file, a line each: `a slots=4`, or `a:4`."""
    allocation: bool = False
    """The same from the job of Slurm, PBS or LSF that this is started in."""
    interface: str = ""
    """Network interface of every host that the run uses; the one that holds the first host's address where it is not given."""
    ssh: str = "ssh"
    """The ssh command, with arguments of its own if it needs any."""
    ssh_port: int | None = None
    """Port of sshd on the hosts."""
    ssh_config: Path | None = None
    """ssh's configuration file, instead of the user's."""
    pdsh: bool = False
    """deepspeed: let it reach the hosts by pdsh, as it does by itself, instead of one command for each."""
    srun: bool = False
    """Let Slurm's srun start the ranks, instead of each engine's own launcher."""
    no_preflight: bool = False
    """Start without a look at the hosts."""

    def find(self, env: Mapping[str, str] = os.environ) -> tuple[Host, ...] | None:
        """The hosts; None where none are asked for. Raises HostsError, also where they are asked for twice."""
        ways = {
            "--hosts": self.hosts is not None,
            "--hostfile": self.hostfile is not None,
            "--allocation": self.allocation,
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise HostsError(f"{' and '.join(given)} both name hosts; leave one of them out")
        if self.hosts is not None:
            return parse(self.hosts)
        if self.hostfile is not None:
            return read(self.hostfile)
        if self.allocation:
            return scheduler.read(env)
        rest = {"interface": self.interface, "pdsh": self.pdsh, "srun": self.srun, "ssh_port": self.ssh_port}
        if lost := [
            f"--{name.replace('_', '-')}" for name, value in (rest | {"ssh_config": self.ssh_config}).items() if value
        ]:
            raise HostsError(f"{', '.join(lost)} without hosts; add, say, --hosts a:4,b:4")
        return None

    def reach(self) -> Ssh:
        """How they are reached."""
        return Ssh(self.ssh, self.ssh_port, self.ssh_config)
