"""A launcher and everything that it starts: run under a time limit, ended completely."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Inherited by every descendant. Process groups don't reach them all: torchrun, mpirun and horovodrun each start
# sessions or groups of their own, and a rank whose launcher was killed belongs to nobody.
MARK = "RINGZERO_LAUNCH"
GUARD = Path(__file__).with_name("guard.py")
DONE = b"done"  # what the guard is told where nothing is left to end
POLL_S = 0.1
KILLS = 30  # a process stuck in the kernel does not die; it must not hold up the rest


@dataclass(frozen=True)
class Ended:
    """How it went: the launcher's exit status, and whether we ended it for time."""

    code: int
    limit: bool


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    *,
    limit_s: float,
    mark: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> Ended:
    """Start `argv` in its own session, write its outputs to `log` (and to `echo` as they come), wait for all of it.

    Nothing that it started is alive afterwards: not on a normal end, not past `limit_s` seconds, not on Ctrl-C (which
    is raised again), and not where this process is killed: a guard then ends them. `mark` names them all.
    """
    mark = mark or uuid.uuid4().hex
    with guarded(mark):  # before the launcher, so that there is no moment without it
        return _run(argv, env, log, limit_s, mark, echo)


def _run(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    limit_s: float,
    mark: str,
    echo: Callable[[str], None] | None,
) -> Ended:
    begun = time.monotonic()
    with log.open("wb") as sink:
        child = subprocess.Popen(
            argv,
            env={**os.environ, **env, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # the terminal's Ctrl-C reaches us alone; we end the others in order
    limit = False
    try:
        with log.open(errors="replace") as text:
            while child.poll() is None:
                time.sleep(POLL_S)
                if echo:
                    echo(text.read())
                if time.monotonic() - begun > limit_s:
                    limit = True
                    break
            if not limit:
                child.wait()
            if echo:
                echo(text.read())
    finally:
        end(mark)
        child.wait()
    return Ended(child.returncode, limit)


@contextlib.contextmanager
def guarded(mark: str, name: str = MARK) -> Iterator[None]:
    """A process beside this one that ends all that carry `mark` in a variable once this one is gone, whatever killed it.

    It sleeps in a read until then. Not the kernel's parent-death signal: that reaches the launcher alone, and a launcher
    that dies leaves ranks, or daemons of its own, behind.
    """
    guard = subprocess.Popen(
        [sys.executable, str(GUARD), mark, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: nothing is left for it to do
            guard.stdin.write(DONE)
            guard.stdin.flush()
    finally:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.close()
        guard.wait()


def family(mark: str, name: str = MARK) -> list[psutil.Process]:
    """Every live process that carries `mark` in its variable `name`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == mark:
                found.append(process)
        except psutil.Error:  # somebody else's, or gone meanwhile
            continue
    return found


def end(mark: str, *, grace_s: float = 5.0, name: str = MARK) -> None:
    """Ask all that carry `mark` to stop, wait `grace_s` seconds, then kill until none is left."""
    members = family(mark, name)
    for process in members:
        _send(process, signal.SIGTERM)
    psutil.wait_procs(members, timeout=grace_s)
    for _ in range(KILLS):  # again and again: a launcher may start one more while it is asked to stop
        if not (stubborn := family(mark, name)):
            break
        for process in stubborn:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(stubborn, timeout=1)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
