"""How another host is reached: the ssh command and what stands behind it on every call."""

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.hosts.description import HostsError

VARIABLE = "RINGZERO_SSH"  # the whole command, for the agent that launchers call as `ssh`
BIN = Path(__file__).resolve().parent / "bin"  # holds that agent
SAYS = "bench.hosts: host "  # begins a line of the log that names a host and what became of it
CONNECTION_FAILED = 255  # how ssh tells that it, not the command, failed
CONNECT_S = 10
# Nobody is there to type a password, and a host that has gone quiet is given up after 30 s.
ALWAYS = ("BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=10", "ServerAliveCountMax=3")


@dataclass(frozen=True)
class Ssh:
    """`command` may hold arguments of its own: `ssh -i key`."""

    command: str = "ssh"
    port: int | None = None
    config: Path | None = None

    def argv(self) -> list[str]:
        """What stands before the name of a host. Raises HostsError where there is no such program or file."""
        words = shlex.split(self.command)
        program = real(words[0]) if words else None
        if program is None:
            raise HostsError(
                f"--ssh {self.command!r}: no such program; install an ssh client, or name yours with --ssh"
            )
        if self.config is not None and not self.config.is_file():
            raise HostsError(f"--ssh-config {self.config}: no such file")
        made = [program, *words[1:]]
        for option in ALWAYS:
            made += ["-o", option]
        made += ["-F", str(self.config.absolute())] if self.config else []
        return made + (["-p", str(self.port)] if self.port else [])


def real(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """A program of the PATH, the agent that stands in for ssh left out."""
    folders = [folder for folder in env.get("PATH", os.defpath).split(os.pathsep) if folder and Path(folder) != BIN]
    return shutil.which(name, path=os.pathsep.join(folders))
