"""Namespaces live as long as a process is in them: one that sleeps holds each host, and the switch between them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from bench.lab.rights import LabError, tool

LAB = "RINGZERO_LAB"  # variable with the path of the laboratory's state, in every process of its hosts
BEGIN_S, POLL_S = 10.0, 0.005
KILLS = 30  # a process stuck in the kernel does not die; it must not hold up the rest
SLEEPER = "sleep"
_STARTED: list[subprocess.Popen[bytes]] = []  # by this process; collected when they are ended


def hold(state: Path, *kinds: str) -> int:
    """Start a sleeping process in new namespaces (`--net`, ...); returns its id once it is in them. Raises LabError."""
    words = ["unshare", *kinds, *(["--propagation", "private"] if "--mount" in kinds else []), SLEEPER, "infinity"]
    started = subprocess.Popen(
        words,
        env={"PATH": os.environ.get("PATH", os.defpath), LAB: str(state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for the command, not for the hosts
        cwd="/",
    )
    end = time.monotonic() + BEGIN_S
    assert started.stderr is not None
    while time.monotonic() < end and started.poll() is None:
        if Path(f"/proc/{started.pid}/comm").read_text().strip() == SLEEPER:  # unshare has become it
            started.stderr.close()
            _STARTED.append(started)
            return started.pid
        time.sleep(POLL_S)
    started.kill()
    said = started.communicate()[1].decode().strip()
    raise LabError(f"{' '.join(words)} failed: {said or 'it did not begin'}")


def enter(pid: int, *kinds: str) -> list[str]:
    """The command that runs the words behind it in the namespaces that a process holds."""
    return ["nsenter", "--target", str(pid), *kinds]


def within(pid: int, *words: str, kinds: Iterable[str] = ("--net",)) -> str:
    """Run one of the tools in the namespaces of a process. Raises LabError."""
    return tool(*enter(pid, *kinds), *words)


def network_of(pid: int) -> int | None:
    """The network namespace of a process, as its number; None where it is gone, or a zombie."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def keep(started: "subprocess.Popen[bytes]") -> None:
    """A daemon of the laboratory's: collected when it is ended."""
    _STARTED.append(started)


def listens(pid: int, port: int, started: "subprocess.Popen[bytes]") -> bool:
    """Whether somebody listens on a port in the network of `pid`, within BEGIN_S while the process that shall do so lives."""
    end = time.monotonic() + BEGIN_S
    while time.monotonic() < end and started.poll() is None:
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:  # 0A: listening
                return True
        time.sleep(POLL_S)
    return False


def those(pids: Iterable[int]) -> list[psutil.Process]:
    """Processes by their ids, those that are gone left out."""
    wanted = set(pids)
    return _those(lambda pid: pid in wanted)


def inside(networks: Iterable[int]) -> list[psutil.Process]:
    """Every process in these network namespaces."""
    wanted = set(networks)
    return _those(lambda pid: network_of(pid) in wanted)


def of(state: Path) -> list[psutil.Process]:
    """Every process that was started in a host of the laboratory with that state, wherever it is now."""

    def belongs(pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"{LAB}={state}".encode() in words

    return _those(belongs)


def _those(wanted: Callable[[int], bool]) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids():
        try:
            if pid != os.getpid() and wanted(pid):
                found.append(psutil.Process(pid))
        except psutil.Error:  # gone meanwhile
            continue
    return found


def end(members: Callable[[], list[psutil.Process]], *, grace_s: float = 0.0) -> None:
    """Ask all that `members` finds to stop, wait `grace_s` seconds, then kill until it finds none."""
    if grace_s and (asked := members()):
        for each in asked:
            _send(each, signal.SIGTERM)
        psutil.wait_procs(asked, timeout=grace_s)
    for _ in range(KILLS):  # again and again: one may start another while it is asked to stop
        if not (left := [each for each in members() if _lives(each)]):
            break
        for each in left:
            _send(each, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    _STARTED[:] = [each for each in _STARTED if each.poll() is None]


def _lives(each: psutil.Process) -> bool:
    try:
        return bool(each.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _send(each: psutil.Process, number: signal.Signals) -> None:
    try:
        each.send_signal(number)
    except psutil.NoSuchProcess:
        pass
