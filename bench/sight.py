"""How the ranks of a run see one another: each tells in small files of a shared folder where it is, and reads the others'.

From the files of all, and from the processes of its own host, a rank tells the first cause of a failure.
"""

import contextlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.failure import Cause, Failure, departed, memory_kills, parting
from bench.measure.interface import NAMED, plugged

BEAT_BYTES = 96  # fixed, written in place: a full disk does not silence a heartbeat
ORDER = ("join", "build", "setup", "data", "forward", "backward", "checkpoint", "update", "gather", "evaluate", "write",
         "close")  # fmt: skip
# Fetching and converting pretrained towers, once in a machine's life; building a model and giving it to an engine; a disk.
SLOW_PHASES = {"build": 1800.0, "setup": 600.0, "evaluate": 600.0, "checkpoint": 600.0}
BEATS_S = 5.0  # between two readings of all heartbeats while this rank gets on
# A process that shows no sign of life at all, this long or for three times the limit; after less it may be importing.
SILENT_S = 60.0
# What ends the others once one has failed, the surer first: never before another cause.
FOLLOWS = ("launcher", "interrupted")
# In gloo's words, MPI's, the system's.
CLOSED = re.compile(r"connection (closed|reset) by peer|broken pipe", re.IGNORECASE)
UNPLUGGED = "unplugged"  # begins the end of a beat where the host's interface has no link: since when


def follows(cause: Cause) -> int:
    """0 for what may be a first cause; else the less sure, the more."""
    return FOLLOWS.index(cause) + 1 if cause in FOLLOWS else 0


class Sight:
    """Of one rank. `place`: when this rank came where it is, and the step and phase that is."""

    def __init__(self, rank: int, size: int, limit_s: float) -> None:
        self.rank, self.size, self.limit_s = rank, size, limit_s
        self.place: tuple[float, int, str] = (time.time(), 0, "join")
        self.kills = memory_kills()
        self.interface = os.environ.get(NAMED)  # of a run over several hosts
        self._peers: dict[int, dict[str, Any]] = {}  # `alive` files never change: each is read once
        self._ends, self._handles = select.poll(), list[int]()  # of the peers' processes on this host
        self._beats_due = 0.0
        self._out_since: float | None = None

    def open(self, folder: Path) -> None:
        """Show this rank to the others, in the folder that all have agreed on."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._beat = os.open(self._file("beat", self.rank), os.O_RDWR | os.O_CREAT)
        os.pwrite(self._beat, b" " * BEAT_BYTES, 0)
        self.write("alive", {"pid": os.getpid(), "host": socket.gethostname()})

    def close(self) -> None:
        """Show nothing more, and see nothing."""
        for handle in [self._beat, *self._handles]:
            os.close(handle)

    def ended(self) -> bool:
        """Whether the process of a peer on this host has ended: one call of the kernel, where `look` is a millisecond's work."""
        return bool(self._ends.poll(0))

    def beat(self) -> None:
        """Say that this rank lives, where it is, and whether its host's cable is in."""
        when, step, phase = self.place
        if self.interface is None or plugged(self.interface):
            self._out_since = None
        elif self._out_since is None:
            self._out_since = time.time()
        cable = "" if self._out_since is None else f"{UNPLUGGED} {self._out_since:.3f}"
        text = f"{time.time():.3f} {when:.3f} {step} {phase} {cable}".ljust(BEAT_BYTES)
        try:
            os.pwrite(self._beat, text.encode(), 0)
        except OSError:
            pass  # a filesystem that refuses an overwrite hides us from the others; their limit, not ours, decides then

    def look(self) -> Failure | None:
        """The first cause of failure that can be seen from here, if any."""
        if dead := self._dead():  # whatever the living then met follows from it
            return dead
        if told := self._told():
            return self._behind(min(told, key=lambda failure: (follows(failure.cause), failure.time)))
        return self._stuck()

    def lowest(self) -> bool:
        """Whether no rank below this one still lives."""
        for rank in range(self.rank):
            alive = self._alive(rank)
            if alive is None:
                continue  # a rank of a host that keeps a folder of its own: it has no file here either
            here = alive["host"] == socket.gethostname()
            frozen = time.time() - self._seen(rank)[0] > self.limit_s / 2
            if not frozen and not (here and departed(alive["pid"]) is not None):
                return False
        return True

    def any_wrote(self, kind: str) -> bool:
        """Whether a rank has left a file of that kind."""
        return any(self._file(kind, rank).exists() for rank in range(self.size))

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Leave a file of this rank, whole or not at all."""
        path = self._file(kind, self.rank)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(content))
            partial.replace(path)
        except OSError:
            pass  # a disk without room must not keep this rank from leaving; the record has room of its own

    def read(self, kind: str, rank: int) -> Any:
        """What a rank left; None where it did not."""
        try:
            return json.loads(self._file(kind, rank).read_text())
        except FileNotFoundError:
            return None

    # ---- the first cause -----------------------------------------------------------------------------------------

    def _dead(self) -> Failure | None:
        here = socket.gethostname()
        for rank in range(self.size):
            alive = self._alive(rank)
            if rank == self.rank or alive is None or alive["host"] != here:
                continue
            status = departed(alive["pid"])
            if status is not None and self.read("failed", rank) is None:
                _, _, step, phase = self._seen(rank)
                cause, how = parting(status, self.kills)
                return Failure(rank, step, phase, cause, f"process {alive['pid']} {how}", None, time.time())
        return None

    def _told(self) -> list[Failure]:
        """What ranks wrote before they left; one listing of the folder, however many ranks there are."""
        names = [name for name in os.listdir(self.folder) if name.endswith(".failed")]
        return [Failure(**json.loads((self.folder / name).read_text())) for name in names]

    def _behind(self, told: Failure) -> Failure:
        """What is behind an engine's own error: a host's cable that is out, or a process that does not run. Engines give up by
        themselves where the run's limit is long, in the set-up."""
        if told.cause != "error":
            return told
        others = [rank for rank in range(self.size) if self._alive(rank) and self.read("failed", rank) is None]
        if cut := [rank for rank in range(self.size) if self._alive(rank) and self._unplugged(rank) is not None]:
            return replace(told, rank=cut[0], cause="peer lost", message=f"{self._no_link()}; {told.message}")
        if CLOSED.search(told.message):
            return told  # what does not run closes nothing: that process is gone, of which its launcher knows more
        if frozen := [rank for rank in others if time.time() - self._seen(rank)[0] > self.limit_s / 2]:
            host = (self._alive(frozen[0]) or {}).get("host")
            message = f"the process of rank {frozen[0]} on {host} does not run; {told.message}"
            return replace(told, rank=frozen[0], cause="time limit", message=message)
        return told

    def _stuck(self) -> Failure | None:
        now = time.time()
        if now - self.place[0] < self.limit_s / 2 and now < self._beats_due:
            return None  # this rank gets on, so nobody is waited for
        self._beats_due = now + BEATS_S
        places = {rank: self._seen(rank) for rank in range(self.size) if self._alive(rank)}
        out = {rank: since for rank in places if (since := self._unplugged(rank)) is not None}
        limit = max([self.limit_s, *(SLOW_PHASES.get(place[3], 0.0) for place in places.values())])
        if any(now - since > self.limit_s for since in out.values()):
            limit = self.limit_s  # whatever is slow there, nothing is without a network
        silent = any(now - place[0] > max(self.limit_s, min(SILENT_S, 3 * self.limit_s)) for place in places.values())
        if not silent and any(now - place[1] <= limit for place in places.values()):
            return None
        frozen = {rank: place for rank, place in places.items() if now - place[0] > self.limit_s / 2}
        cut = {rank: places[rank] for rank in out}
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

    # ---- the others' files ---------------------------------------------------------------------------------------

    def _alive(self, rank: int) -> dict[str, Any] | None:
        """Host and process of a rank that has joined."""
        if rank not in self._peers and (told := self.read("alive", rank)):
            self._peers[rank] = told
            self._follow(told)
        return self._peers.get(rank)

    def _follow(self, alive: Mapping[str, Any]) -> None:
        if alive["pid"] == os.getpid() or alive["host"] != socket.gethostname():
            return
        with contextlib.suppress(OSError):  # gone already, or a kernel without such handles: `look` goes by /proc
            self._handles.append(os.pidfd_open(alive["pid"]))
            self._ends.register(self._handles[-1], select.POLLIN)

    def _seen(self, rank: int) -> tuple[float, float, int, str]:
        """(time of the last beat, time of the last progress, step, phase)."""
        if rank == self.rank:
            when, step, phase = self.place
            return time.time(), when, step, phase
        words = self._file("beat", rank).read_text().split()
        if len(words) < 4:
            return time.time(), time.time(), 0, "build"
        return float(words[0]), float(words[1]), int(words[2]), words[3]

    def _unplugged(self, rank: int) -> float | None:
        """Since when the interface of its host has no link, as it told at its last beat; None where it has one."""
        if rank == self.rank:
            return self._out_since
        words = self._file("beat", rank).read_text().split()
        return float(words[-1]) if UNPLUGGED in words else None

    def _no_link(self) -> str:
        return f"{self.interface} of its host has no link: the cable is out, or the switch is gone"

    def _file(self, kind: str, rank: int) -> Path:
        return self.folder / f"rank_{rank}.{kind}"
