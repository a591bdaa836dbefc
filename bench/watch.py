"""Rank failures: each rank tells how it is in a small file, a thread in each looks at the others, and the first cause is kept.

A dead, frozen or failed rank leaves its peers inside a collective, where no Python runs on their main thread; so a thread
watches, and ends the process itself. The lowest living rank closes the record and says the one message.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.failure import Cause, Failure, cause_of, departed, memory_kills, parting
from bench.measure.interface import NAMED, plugged

TICK_S = 0.5  # a tick is a millisecond of a core whose caches hold something else
LULL_S = 0.25  # before looking again for a first cause; a launcher that ends its ranks gives them a second in all
GRACE_S = 3.0  # how long the others wait for the record to be closed before they leave, and for a late first cause
BEAT_BYTES = 96  # fixed, written in place: a full disk does not silence a heartbeat
ORDER = ("join", "build", "setup", "data", "forward", "backward", "checkpoint", "update", "gather", "evaluate", "write",
         "close")  # fmt: skip
# Fetching and converting pretrained towers, once in a machine's life; building a model and giving it to an engine; a disk.
SLOW_PHASES = {"build": 1800.0, "setup": 600.0, "evaluate": 600.0, "checkpoint": 600.0}
BEATS_S = 5.0  # between two readings of all heartbeats while this rank gets on
SILENT_S = 60.0  # a process that shows no sign of life at all; less may be one that imports

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FOLLOWS = ("interrupted", "launcher")  # what ends the others once one has failed: never the first cause
UNPLUGGED = "unplugged"  # the last word of a beat, where the host's interface has no link
GONE = "its launcher is gone"
EXIT_FAILED = 1


CloseRecord = Callable[[Failure, Mapping[int, Any]], None]


def _ending(taken: signal.struct_siginfo | None) -> str:
    """Why this process is to end: the signal that it took, or else its launcher."""
    return GONE if taken is None else f"ended by {signal.Signals(taken.si_signo).name}"


class Watch:
    """One rank's eyes. `at` is called by the training loop; everything else happens on the thread.

    `close_record` writes the failure into the record and says the message; it is called on one rank only. `launched`: a
    launcher is this process's parent, and its end is the run's.
    """

    def __init__(self, rank: int, size: int, limit_s: float, *, launched: bool) -> None:
        self.rank, self.size, self.limit_s = rank, size, limit_s
        self.parent = os.getppid() if launched else None
        self.measured: dict[str, Any] = {}  # what this rank has so far; kept when the run fails
        self.joined = False
        self.pid = os.getpid()
        self.kills = memory_kills()
        self.interface = os.environ.get(NAMED)  # of a run over several hosts
        self._place: tuple[float, int, str] = (time.time(), 0, "join")
        self._peers: dict[int, dict[str, Any]] = {}  # `alive` files never change: each is read once
        self._beats_due = 0.0
        self._leaving = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to take signals. Call before any library starts threads: they inherit what is blocked here.

        The watching thread takes them, since the main one may be inside a collective and would never see them.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._thread.start()

    def join(self, folder: Path, close_record: CloseRecord) -> None:
        """Show this rank to the others and begin to look at them, once all have agreed on the folder."""
        self.folder, self.close_record = folder, close_record
        folder.mkdir(parents=True, exist_ok=True)
        self._beat = os.open(self._file("beat", self.rank), os.O_RDWR | os.O_CREAT)
        os.pwrite(self._beat, b" " * BEAT_BYTES, 0)
        self._write("alive", {"pid": self.pid, "host": socket.gethostname()})
        self.at(0, "build")
        self.joined = True

    @property
    def thread_id(self) -> int:
        """Of the watching thread, for whoever wants to know what it costs."""
        assert self._thread.ident is not None
        return self._thread.ident

    def at(self, step: int, phase: str) -> None:
        """The main thread has come to this place."""
        self._place = (time.time(), step, phase)

    def finish(self) -> None:
        """The run is complete: from here on a peer that leaves has done so rightly."""
        self._stop.set()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self.joined:
            os.close(self._beat)

    def failed(self, error: BaseException) -> None:
        """End this process for an error of its own main thread; does not return."""
        _, step, phase = self._place
        cause, said = cause_of(error), str(error) or type(error).__name__
        if cause == "error":
            said = f"{type(error).__name__}: {said}"
            if self._orphaned():  # what is asked of a launcher that is gone fails before the thread looks
                cause, said = "launcher", f"{GONE}; {said}"
        text = "".join(tracebacks.format_exception(error))
        self._leave(Failure(self.rank, step, phase, cause, said, text, time.time()))

    # ---- on the thread -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            taken = signal.sigtimedwait(SIGNALS, TICK_S)
            if not self.joined:
                if taken is not None or self._orphaned():
                    why = _ending(taken)
                    with contextlib.suppress(OSError):
                        os.write(2, f"rank {self.rank}: {why} before the run began\n".encode())
                    os._exit(EXIT_FAILED)  # nothing has begun, so there is nothing to close
                continue
            self._write_beat()
            failure = self._look()
            if failure is None and (taken is not None or self._orphaned()):
                time.sleep(LULL_S)  # a launcher that ends us has usually seen a rank die: look again for the cause
                cause: Cause = "launcher" if taken is None else "interrupted"
                why = _ending(taken)
                _, step, phase = self._place
                failure = self._look() or Failure(self.rank, step, phase, cause, why, None, time.time())
            if failure is not None and not self._stop.is_set():
                self._leave(failure)

    def _orphaned(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    def _write_beat(self) -> None:
        when, step, phase = self._place
        cable = "" if self.interface is None or plugged(self.interface) else UNPLUGGED
        text = f"{time.time():.3f} {when:.3f} {step} {phase} {cable}".ljust(BEAT_BYTES)
        try:
            os.pwrite(self._beat, text.encode(), 0)
        except OSError:
            pass  # a filesystem that refuses an overwrite hides us from the others; their limit, not ours, decides then

    def _look(self) -> Failure | None:
        """The first cause of failure that can be seen from here, if any."""
        if dead := self._dead():  # whatever the living then met follows from it
            return dead
        if told := self._told():
            return self._cut_off(min(told, key=lambda failure: (failure.cause in FOLLOWS, failure.time)))
        return self._stuck()

    def _cut_off(self, told: Failure) -> Failure:
        """An engine's own error, where the cable of a host is out: it is the peers there that were lost."""
        cut = [rank for rank in range(self.size) if self._alive(rank) and self._unplugged(rank)]
        if told.cause != "error" or not cut:
            return told
        return replace(told, rank=cut[0], cause="peer lost", message=f"{self._no_link()}; {told.message}")

    def _no_link(self) -> str:
        return f"{self.interface} of its host has no link: the cable is out, or the switch is gone"

    def _told(self) -> list[Failure]:
        """What ranks wrote before they left; one listing of the folder, however many ranks there are."""
        names = [name for name in os.listdir(self.folder) if name.endswith(".failed")]
        return [Failure(**json.loads((self.folder / name).read_text())) for name in names]

    def _alive(self, rank: int) -> dict[str, Any] | None:
        """Host and process of a rank that has joined."""
        if rank not in self._peers and (told := self._read("alive", rank)):
            self._peers[rank] = told
        return self._peers.get(rank)

    def _dead(self) -> Failure | None:
        here = socket.gethostname()
        for rank in range(self.size):
            alive = self._alive(rank)
            if rank == self.rank or alive is None or alive["host"] != here:
                continue
            status = departed(alive["pid"])
            if status is not None and self._read("failed", rank) is None:
                _, _, step, phase = self._seen(rank)
                cause, how = parting(status, self.kills)
                return Failure(rank, step, phase, cause, f"process {alive['pid']} {how}", None, time.time())
        return None

    def _stuck(self) -> Failure | None:
        now = time.time()
        if now - self._place[0] < self.limit_s / 2 and now < self._beats_due:
            return None  # this rank gets on, so nobody is waited for
        self._beats_due = now + BEATS_S
        places = {rank: self._seen(rank) for rank in range(self.size) if self._alive(rank)}
        limit = max([self.limit_s, *(SLOW_PHASES.get(place[3], 0.0) for place in places.values())])
        silent = any(now - place[0] > max(self.limit_s, SILENT_S) for place in places.values())
        if not silent and any(now - place[1] <= limit for place in places.values()):
            return None
        frozen = {rank: place for rank, place in places.items() if now - place[0] > self.limit_s / 2}
        cut = {rank: place for rank, place in places.items() if self._unplugged(rank)}
        late = cut or frozen or places
        rank = min(late, key=lambda rank: (late[rank][2], ORDER.index(late[rank][3]), rank))
        _, _, step, phase = late[rank]
        host = (self._alive(rank) or {}).get("host")
        state = "its process does not run" if frozen else "the others wait for it" if self.size > 1 else "it is stuck"
        if cut:
            state = self._no_link()
        state += f"; it is on {host}" if len({(self._alive(each) or {}).get("host") for each in places}) > 1 else ""
        return Failure(
            rank, step, phase, "time limit", f"no progress for {self.limit_s:g} s; {state} (--limit-s)", None, now
        )

    def _seen(self, rank: int) -> tuple[float, float, int, str]:
        """(time of the last beat, time of the last progress, step, phase)."""
        if rank == self.rank:
            when, step, phase = self._place
            return time.time(), when, step, phase
        words = self._file("beat", rank).read_text().split()
        if len(words) < 4:
            return time.time(), time.time(), 0, "build"
        return float(words[0]), float(words[1]), int(words[2]), words[3]

    def _unplugged(self, rank: int) -> bool:
        """The interface of its host told so at its last beat."""
        if rank == self.rank:
            return self.interface is not None and not plugged(self.interface)
        return UNPLUGGED in self._file("beat", rank).read_text().split()

    # ---- leaving -------------------------------------------------------------------------------------------------

    def _leave(self, failure: Failure) -> None:
        """Tell the others, have the record closed once, and end this process, whatever its main thread is doing."""
        if not self._leaving.acquire(blocking=False):
            time.sleep(2 * GRACE_S)  # the other thread of this rank is about to end the process
            return
        try:
            self._write("measured", self.measured)
            self._write("failed", asdict(failure))  # of whichever rank: what this one takes for the first cause
            if (
                failure.cause != "peer lost"
            ):  # nothing comes before a death, and its launcher ends the rest within a second
                time.sleep(LULL_S)  # a peer's error can arrive before its reason: look again
            first = self._look() or failure
            if self._closes() and not self._closed():
                ranks = {rank: self._read("measured", rank) for rank in range(self.size)}
                self.close_record(first, ranks)
                self._write("closed", {})
            else:
                deadline = time.time() + GRACE_S
                while time.time() < deadline and not self._closed():
                    time.sleep(0.05)
        finally:
            os._exit(EXIT_FAILED)  # collectives, hooks and finalisers would wait for peers that are gone

    def _closes(self) -> bool:
        """This rank is the lowest that still lives."""
        for rank in range(self.rank):
            alive = self._alive(rank)
            here = alive is not None and alive["host"] == socket.gethostname()
            frozen = time.time() - self._seen(rank)[0] > self.limit_s / 2
            if alive is not None and not frozen and not (here and departed(alive["pid"]) is not None):
                return False
        return True

    def _closed(self) -> bool:
        return any(self._file("closed", rank).exists() for rank in range(self.size))

    def _file(self, kind: str, rank: int) -> Path:
        return self.folder / f"rank_{rank}.{kind}"

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        path = self._file(kind, self.rank)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(content))
            partial.replace(path)
        except OSError:
            pass  # a disk without room must not keep this rank from leaving; the record has room of its own

    def _read(self, kind: str, rank: int) -> Any:
        try:
            return json.loads(self._file(kind, rank).read_text())
        except FileNotFoundError:
            return None
