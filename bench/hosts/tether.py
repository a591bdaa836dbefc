"""The far end of a connection: runs one command on this host and ends all of it once the connection is gone.

Killing an ssh client leaves what it started running, and a cable that is pulled tells nobody. Run as a file; the first line of
standard input is a `Spec` as JSON; the end of that input is the end of the run, and so is its silence, where beats were promised.
"""

import sys
from pathlib import Path

if not __package__:  # started as a file: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

import psutil

from bench.failure import killed, memory_kills
from bench.processes import end, family, guarded

MARK = "RINGZERO_TETHER"  # carried by all that it starts; not the launch's own, which may stand for several hosts
FAR = "RINGZERO_FAR"  # the same, of connections to other hosts that a launcher's agents made: they end by themselves
SCRATCH = "RINGZERO_SCRATCH"  # the folder of a Spec, for tethers that a launcher starts by itself
SILENT = "RINGZERO_SILENT_S"  # its silent_s, for those
BEAT, BEAT_S = b"\n", 1.0  # what the near end writes, and how often
VERDICT = "bench.hosts.tether: "  # begins the line of standard error that tells how the command ended, as JSON
POLL_S = 0.1
GRACE_S = 3.0
FAR_S = 5.0  # for the other hosts to end their part
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXIT_LOST, EXIT_UNSTARTED = 143, 127


@dataclass(frozen=True)
class Spec:
    """One command. `files` (path: text) are written before; `scratch` is removed afterwards where it was not there before. `silent_s`:
    after so many seconds without a beat the connection is taken for lost."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    scratch: str | None = None
    mark: str | None = None
    silent_s: float | None = None


def beat(connection: IO[bytes]) -> None:
    """Tell the tether at the far end that this end is there; one that is gone needs to hear nothing."""
    with contextlib.suppress(BrokenPipeError):
        connection.write(BEAT)
        connection.flush()


class Lost(Exception):
    """The connection, or this process by a signal."""


def main() -> int:
    """Returns the command's exit status as a shell would tell it, 143 where the connection went first."""
    for number in SIGNALS:
        signal.signal(number, _lost)
    try:
        spec = Spec(**json.loads(_line()))
    except Lost:
        return EXIT_LOST
    mark = spec.mark or uuid.uuid4().hex
    new = spec.scratch is not None and not Path(spec.scratch).exists()
    try:
        with guarded(mark, MARK):
            return _run(spec, mark)
    except Lost:
        return EXIT_LOST
    finally:
        if new and spec.scratch:
            shutil.rmtree(spec.scratch, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: another run uses it
                Path(spec.scratch).parent.rmdir()


def _run(spec: Spec, mark: str) -> int:
    kills = memory_kills()
    try:
        for name, text in spec.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        env = {**os.environ, **spec.env, MARK: mark}
        child = subprocess.Popen(spec.argv, cwd=spec.cwd, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        return _tell(EXIT_UNSTARTED, "launcher", f"could not start {spec.argv[0]}: {error}")
    name, heard, lost = Path(spec.argv[0]).name, time.monotonic(), True
    try:
        while child.poll() is None:
            if select.select([0], [], [], POLL_S)[0]:
                if not os.read(0, 4096):
                    raise Lost
                heard = time.monotonic()
            elif spec.silent_s is not None and time.monotonic() - heard > spec.silent_s:
                raise Lost
        lost = False
    finally:
        end(mark, grace_s=GRACE_S, name=MARK)
        psutil.wait_procs(family(mark, FAR), timeout=FAR_S)
        end(mark, grace_s=0.0, name=FAR)
        child.wait()
        now = memory_kills()
        starved = kills is not None and now is not None and now > kills
        if lost and starved:  # Open MPI ends a run before the agent of the host with the killed rank has noticed
            _tell(EXIT_LOST, "does not fit", f"{name} was ended; the kernel ran out of memory", starved)
    if child.returncode < 0:
        cause, how = killed(-child.returncode, kills, now)
        return _tell(128 - child.returncode, cause, f"{name} {how}", starved)
    return _tell(child.returncode, "launcher", f"{name} ended with status {child.returncode}", starved)


def _tell(code: int, cause: str, message: str, starved: bool = False) -> int:
    """`starved`: meanwhile the kernel of this host has killed a process for memory."""
    if code:
        line = json.dumps({"cause": cause, "message": message, "starved": starved})
        print(f"\n{VERDICT}{line}", file=sys.stderr, flush=True)
    return code


def _line() -> bytes:
    """The first line, byte by byte: nothing after it may be taken."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise Lost
        line += byte
    return bytes(line)


def _lost(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the ending short
    raise Lost


if __name__ == "__main__":
    status = main()
    os._exit(status)  # no finaliser may write to a connection that is gone
