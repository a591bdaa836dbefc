"""What a laboratory needs of this machine, and which of it is refused: told before anything is made."""

import os
import shutil
import subprocess
from collections.abc import Sequence

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "ip": "iproute2", "tc": "iproute2"}
KINDS = {"--net": "CLONE_NEWNET", "--uts": "CLONE_NEWUTS", "--mount": "CLONE_NEWNS"}
STEPS = (  # what is made inside them: as a user sees it, as it is tried
    ("a veth pair (ip link add type veth)", "ip link add rz0 type veth peer name rz1"),
    ("a bridge (ip link add type bridge)", "ip link add rz2 type bridge"),
    ("a token bucket (tc qdisc add ... tbf)", "tc qdisc add dev rz0 root tbf rate 1gbit burst 128kb limit 1mb"),
    ("a private mount (mount -t tmpfs)", "mount -t tmpfs tmpfs /dev/shm"),
)


class LabError(RuntimeError):
    """A laboratory can't be made or used so; the message says what to type or to change."""


def refused() -> str | None:
    """Why this process may not make a laboratory on this machine; None where it may. Takes some milliseconds.

    Everything is tried in namespaces of its own, which are gone when this returns.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed; type: apt-get install {package}"
    if os.geteuid() != 0:
        return "it needs root, for its own network and mount namespaces; type: sudo -E $(command -v ringzero) lab ..."
    for flag, call in KINDS.items():
        if said := _fails(["unshare", flag, "true"]):
            return (
                f"unshare({call}) was refused: {said}; in a container, start that with --privileged, "
                "or with --cap-add SYS_ADMIN --cap-add NET_ADMIN and no seccomp profile"
            )
    done = ""
    for what, words in STEPS:
        done += f"{words} && "
        if said := _fails(["unshare", *KINDS, "sh", "-c", done + "true"]):
            return f"{what} was refused: {said}; this kernel, or this container, does not have it"
    return None


def check() -> None:
    """Raise LabError with what `refused` says."""
    if why := refused():
        raise LabError(f"no laboratory can be made here: {why}")


def _fails(words: Sequence[str]) -> str | None:
    """The last line that a failing command says; None where it works."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def tool(*words: str) -> str:
    """Run one of TOOLS and return what it prints. Raises LabError with the command and what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)} failed: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
