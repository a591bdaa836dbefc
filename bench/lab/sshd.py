"""An sshd on every host, with keys and files of the laboratory's own; where that can't be, `unavailable` says why."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.lab import holder
from bench.lab.holder import LAB, within
from bench.lab.host import Host
from bench.lab.rights import LabError, tool

DAEMON = """ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
SetEnv {lab}={state} PATH={path}
"""
CLIENT = """{hosts}Host *
  User root
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  LogLevel ERROR
"""
# From outside, a connection begins in the first host's network: this machine has no way into the laboratory.
DOOR = """#!/bin/sh
# ssh of one laboratory: its own keys, its own configuration, nothing of the user's.
if [ -z "${lab}" ]; then
  exec nsenter --target {first} --net {ssh} -F "{folder}/config" "$@"
fi
exec {ssh} -F "{folder}/config" "$@"
"""


def unavailable(path: str | None = None) -> str | None:
    """Why hosts can't have an sshd here; None where they can. `path`: where to look for programs."""
    for program in ("ssh", "sshd", "ssh-keygen"):
        if _found(program, path) is None:
            return f"{program} is not installed"
    return None


def _found(program: str, path: str | None = None) -> str | None:
    """sshd is seldom on a PATH."""
    where = (
        path
        if path is not None
        else os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    )
    return shutil.which(program, path=where)


def build(state: Path, hosts: Sequence[Host]) -> None:
    """Keys, configurations, and `bin/ssh` beside the state. Raises LabError, also where sshd itself refuses to work here."""
    folder = state.parent / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("key", "host_key"):
        tool(str(_found("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-C", "ringzero-lab", "-f", str(folder / name))
    public = (folder / "host_key.pub").read_text().split()[:2]
    known = "".join(f"{host.name},{host.address} {' '.join(public)}\n" for host in hosts)
    (folder / "known_hosts").write_text(known)
    named = "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in hosts)
    (folder / "config").write_text(CLIENT.format(hosts=named, folder=folder))
    path = os.pathsep.join([str(state.parent / "bin"), os.environ.get("PATH", os.defpath)])
    for host in hosts:
        written = DAEMON.format(address=host.address, folder=folder, lab=LAB, state=state, path=path)
        (folder / f"sshd.{host.name}").write_text(written)
    within(hosts[0].pid, str(_found("sshd")), "-t", "-f", str(folder / f"sshd.{hosts[0].name}"))
    door = state.parent / "bin" / "ssh"
    door.parent.mkdir(exist_ok=True)
    real = str(_found("ssh"))
    door.write_text(DOOR.format(lab=LAB, first=hosts[0].pid, ssh=real, folder=folder))
    door.chmod(0o755)


def start(state: Path, host: Host) -> int:
    """The daemon of a host; its process id, once it listens. Raises LabError."""
    config = state.parent / "ssh" / f"sshd.{host.name}"
    started = subprocess.Popen(
        [*host.enter(state, Path("/")), str(_found("sshd")), "-D", "-f", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    holder.keep(started)
    if not holder.listens(host.pid, 22, started):
        started.kill()
        raise LabError(f"sshd of {host.name} does not listen")
    return started.pid


def stop(pid: int) -> None:
    """End the daemon of a host: it refuses connections from then on."""
    holder.end(lambda: holder.those([pid]), grace_s=0.0)
