"""A line to the probe of one host: questions, answers within a limit, and the reason where none comes."""

import contextlib
import json
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.hosts.description import Host, is_here
from bench.hosts.ssh import Ssh

PROBE = Path(__file__).with_name("probe.py")
LIMIT_S = 30.0  # one answer; the first waits for ssh and for Python on a cold network folder
LEAVES_S = 5.0


class Unreachable(Exception):
    """No answer; the message says what the host, or ssh, said instead."""


class Line:
    """One probe, started on one host. Not for threads to share."""

    def __init__(self, host: Host, child: "subprocess.Popen[bytes]", errors: Any) -> None:
        self.host, self._child, self._errors, self._came = host, child, errors, b""

    def ask(self, question: str, *, limit_s: float = LIMIT_S, **arguments: Any) -> Any:
        """The answer. Raises Unreachable."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"ask": question, **arguments}).encode() + b"\n")
            self._child.stdin.flush()
        except OSError:
            pass  # it has gone: what it said is read below
        deadline = time.monotonic() + limit_s
        while True:
            while b"\n" in self._came:
                line, _, self._came = self._came.partition(b"\n")
                with contextlib.suppress(ValueError):  # a greeting of the login
                    told = json.loads(line)
                    if isinstance(told, dict) and "answer" in told:
                        return told["answer"]
            self._came += self._read(deadline, limit_s)

    def _read(self, deadline: float, limit_s: float) -> bytes:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise Unreachable(f"no answer within {limit_s:.0f} s")
        if data := os.read(self._child.stdout.fileno(), 65536):
            return data
        raise Unreachable(self._why())

    def _why(self) -> str:
        """The last thing that was said on its way out."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(LEAVES_S)
        size = os.fstat(self._errors.fileno()).st_size
        lines = os.pread(self._errors.fileno(), 4096, max(0, size - 4096)).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else f"the connection ended with status {self._child.returncode}"


@contextlib.contextmanager
def opened(host: Host, ssh: Ssh) -> Iterator[Line]:
    """A line to a host, or to this machine where it is the host; closed, and its processes ended, on leaving."""
    probe = [sys.executable, str(PROBE)]
    argv = probe if is_here(host.name) else [*ssh.argv(), host.name, shlex.join(probe)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield Line(host, child, errors)
        finally:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # the probe's input ends, and with it the probe
            try:
                child.wait(LEAVES_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()
