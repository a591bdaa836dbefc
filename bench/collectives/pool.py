"""A pool of ranks under its own launcher, kept alive between turns, driven in lockstep, and stopped while others work."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench import processes
from bench.launchers import Command
from bench.processes import MARK

START_S = 180.0  # a rank loads torch, and DeepSpeed may compile
LEAVE_S = 10.0
POLL_S = 0.2
TAIL = 400  # characters of the log that a reason quotes
LINE = 64  # bytes of a rank's counter in the barrier's file


class PoolFailed(RuntimeError):
    """A pool did not start, or one of its ranks died, failed or fell silent; the message says which and why."""


class Pool:
    """`ranks` processes started by `command`; every one answers every message, or the pool has failed.

    Between messages its processes are stopped (SIGSTOP), so that no background thread of a library, such as Horovod's, takes
    time from others. What a rank prints goes to a log, whose end is part of the reason where the pool fails.
    """

    def __init__(self, name: str, command: Command, ranks: int, *, values: int, libraries: list[str], limit_s: float):
        """`values`: the longest buffer; `limit_s`: seconds that an answer may take. Raises PoolFailed, with nothing left alive."""
        self.name, self.ranks, self.limit_s = name, ranks, limit_s
        self.links: list[Connection] = []
        self.hellos: list[dict[str, Any]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="ringzero-"))  # short: a socket's path has 108 characters
        self.log = self.folder / "log"
        self.mark = uuid.uuid4().hex[:12]
        self.stack = ExitStack()
        try:
            self.stack.enter_context(processes.guarded(self.mark))
            barrier = self.folder / "barrier"
            barrier.write_bytes(bytes(ranks * LINE))
            door = self.stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(str(self.folder / "door"))
            door.listen(ranks)
            door.settimeout(POLL_S)
            words = [str(self.folder / "door"), str(barrier), name, str(values), ",".join(libraries)]
            with self.log.open("wb") as sink:
                self.child = subprocess.Popen(
                    [*command.argv, *words],
                    env={**os.environ, **command.env, MARK: self.mark},
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._let_in(door, time.monotonic() + START_S)
            self.threads = [reply["threads"] for reply in self._collect(START_S)]
            self._signal(signal.SIGSTOP)
        except BaseException as error:
            tail = self._tail()
            self.close()
            if isinstance(error, OSError):
                raise PoolFailed(f"its ranks can't be started: {error}{tail}") from error
            raise

    def ask(self, do: str, **what: Any) -> list[dict[str, Any]]:
        """Tell every rank the same; their answers in rank order. Raises PoolFailed; the pool must then be closed."""
        self._signal(signal.SIGCONT)
        for rank, link in enumerate(self.links):
            try:
                link.send({"do": do, **what})
            except OSError as error:
                raise PoolFailed(f"rank {rank} died{self._tail()}") from error
        answers = self._collect(self.limit_s)
        self._signal(signal.SIGSTOP)
        return answers

    def close(self) -> None:
        """Ask the ranks to leave, wait a little, end what is left. May be called twice."""
        if not self.folder.exists():
            return
        self._signal(signal.SIGCONT)
        for link in self.links:
            with suppress(OSError):
                link.send(None)
        if hasattr(self, "child"):
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(LEAVE_S if self.links and self._well() else 0)
            processes.end(self.mark)
            self.child.wait()
        for link in self.links:
            link.close()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _let_in(self, door: socket.socket, until: float) -> None:
        """Wait for every rank's connection, and put them in rank order."""
        found: dict[int, tuple[Connection, dict[str, Any]]] = {}
        while len(found) < self.ranks:
            try:
                came, _ = door.accept()
            except TimeoutError:
                if (code := self.child.poll()) is not None:
                    raise PoolFailed(f"its launcher ended with status {code}{self._tail()}") from None
                if time.monotonic() > until:
                    raise PoolFailed(
                        f"{self.ranks - len(found)} of its {self.ranks} ranks did not start within {START_S:.0f} s{self._tail()}"
                    ) from None
                continue
            came.setblocking(True)
            link = Connection(came.detach())
            self.links.append(link)
            try:
                hello = link.recv()
            except EOFError:
                raise PoolFailed(f"a rank died at its start{self._tail()}") from None
            found[hello["rank"]] = (link, hello)
        self.links = [found[rank][0] for rank in range(self.ranks)]
        self.hellos = [found[rank][1] for rank in range(self.ranks)]

    def _collect(self, limit_s: float) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        until = time.monotonic() + limit_s
        while len(answers) < self.ranks:
            silent = {rank: link for rank, link in enumerate(self.links) if rank not in answers}
            ready = wait(list(silent.values()), max(0.0, until - time.monotonic()))
            if not ready:
                raise PoolFailed(
                    f"no answer from rank {', '.join(map(str, silent))} within {limit_s:g} s{self._tail()}"
                )
            for rank in [rank for rank, link in silent.items() if link in ready]:
                try:
                    answer = silent[rank].recv()
                except (EOFError, OSError):
                    raise PoolFailed(f"rank {rank} died{self._tail()}") from None
                if "error" in answer:
                    raise PoolFailed(f"rank {rank}: {answer['error']}")
                answers[rank] = answer
        return [answers[rank] for rank in range(self.ranks)]

    def _signal(self, number: signal.Signals) -> None:
        for hello in self.hellos:
            with suppress(ProcessLookupError):  # it died: its socket tells
                os.kill(hello["pid"], number)

    def _well(self) -> bool:
        """Whether every rank still lives: one that waits for a dead one will not leave by itself."""
        return len(self.hellos) == self.ranks and all(not link.closed and not link.poll() for link in self.links)

    def _tail(self) -> str:
        try:
            text = " ".join(self.log.read_text(errors="replace").split())
        except OSError:
            return ""
        return f"; the end of its log: {text[-TAIL:]}" if text else ""
