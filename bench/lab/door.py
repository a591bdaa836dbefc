"""How a host is entered by name, as launchers do, where it has no sshd: an `ssh` of the laboratory's that enters it directly."""

from collections.abc import Sequence
from pathlib import Path

from bench.lab.holder import LAB
from bench.lab.host import INTERFACE, KINDS, Host

NSENTER = "nsenter"  # what a laboratory says of such a door
CLOSED = "closed"  # a file of that name and the host's, beside `ssh`: its door is shut

# ssh's options that take a value; horovodrun, mpirun and pdsh give -o, -p, -i, -l.
DOOR = """#!/bin/sh
# ssh of one laboratory: enters the named host. The environment comes along, which the real one leaves behind.
while [ $# -gt 0 ]; do
  case "$1" in
    -[bcDEeFIiJLlmOopQRSWw]) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
host="${{1#*@}}"
[ $# -gt 0 ] && shift
case "$host" in
{cases}
  *) echo "ssh: Could not resolve hostname $host: no host of this laboratory" >&2; exit 255 ;;
esac
if [ -e "{folder}/{closed}.$name" ]; then
  echo "ssh: connect to host $host port 22: Connection refused" >&2
  exit 255
fi
# Without its cable no host can be reached, not even from outside.
case "$(nsenter --target "$pid" --net ip -o link show dev {interface} 2>&1)" in
  *NO-CARRIER*) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;;
esac
export {lab}="{state}"
[ $# -gt 0 ] || set -- "exec ${{SHELL:-sh}}"
exec nsenter --target "$pid" {kinds} env --chdir="${{HOME:-/}}" taskset --cpu-list "$cores" sh -c "$*"
"""


def build(state: Path, hosts: Sequence[Host]) -> Path:
    """Write `bin/ssh` beside the state; returns its folder."""
    folder = state.parent / "bin"
    folder.mkdir(exist_ok=True)
    cases = "\n".join(
        f"  {host.name}|{host.address}) name={host.name} pid={host.pid} cores={','.join(map(str, host.cores))} ;;"
        for host in hosts
    )
    ssh = folder / "ssh"
    written = DOOR.format(
        cases=cases, folder=folder, closed=CLOSED, lab=LAB, state=state, interface=INTERFACE, kinds=" ".join(KINDS)
    )
    ssh.write_text(written)
    ssh.chmod(0o755)
    return folder


def shut(state: Path, host: Host, *, closed: bool) -> None:
    """Refuse, or take again, connections to a host."""
    mark = state.parent / "bin" / f"{CLOSED}.{host.name}"
    if closed:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
