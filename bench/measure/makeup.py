"""What a process's resident memory is made of at its peak, by the kernel's mappings and the C allocator's own count.

Engines' tensors explain a part only. The rest is blocks that somebody has allocated (results of operators, sample caches,
the engine's own), blocks that were freed and not returned, files that were touched, and what Python's and the threads' own
mappings hold. Each is read, none is a difference to the peak: what the readings leave is told.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import torch

ARENA = 64 * 2**20  # glibc aligns the heaps of its arenas to this (HEAP_MAX_SIZE)
GROWTH = 0.01  # a look is taken where what is resident above the base has grown by this share since the last,
LEAST = 2**20  # and by at least so many bytes
PERIOD_S = 0.001  # between two looks of the thread
PAGE = os.sysconf("SC_PAGE_SIZE")
SLACK = 4 * 2**20  # the kernel's count of resident pages lags by its per-core batches


@dataclass(frozen=True)
class Makeup:
    """Bytes. Resident (proportional set size) by kind of mapping, and what malloc says is in use of two of them."""

    heap: int  # malloc's heaps: [heap] and its arenas
    anonymous: int  # all other memory without a file: malloc's large blocks, Python's object arenas, stacks
    mapped: int  # files and shared memory
    libraries: (
        int  # files of which something is mapped to be executed: how much of them is resident is the page cache's doing
    )
    heap_used: int  # blocks of the heaps that were allocated and not freed
    large_used: int  # blocks that malloc mapped one by one

    def whole(self, resident: int) -> bool:
        """Whether this was read in one piece: of mappings that change while they are read, some are listed twice."""
        return self.heap + self.anonymous + self.mapped + self.libraries <= resident + SLACK

    def __sub__(self, other: "Makeup") -> "Makeup":
        return Makeup(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def makeup() -> Makeup | None:
    """This process now; None without Linux and glibc 2.33 or later."""
    try:
        mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
        mallinfo.restype = _Mallinfo
        malloc = mallinfo()
        found = sizes()
    except (OSError, AttributeError):
        return None
    return Makeup(**found, heap_used=malloc.uordblks, large_used=malloc.hblkhd)


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE


def sizes() -> dict[str, int]:
    """Proportional set size of this process in bytes, by kind of mapping: the first four fields of `Makeup`."""
    found = {"heap": 0, "anonymous": 0, "mapped": 0, "libraries": 0}
    files: dict[bytes, int] = {}
    executed: set[bytes] = set()
    kind, path, size, begin, end = "mapped", b"", 0, 0, 0

    def count() -> None:
        if path:
            files[path] = files.get(path, 0) + size
        else:
            found[kind] += size

    with open("/proc/self/smaps", "rb") as smaps:
        for line in smaps:
            if line.startswith(b"Pss:"):
                size += int(line.split()[1]) * 1024
            elif line[:1] in b"0123456789abcdef":  # a mapping begins; field names begin with a capital
                (low, high) = (int(part, 16) for part in line.split(None, 1)[0].split(b"-"))
                if kind == "anonymous" and begin % ARENA == 0 and _fills(begin, end, low, high, line):
                    kind = "heap"
                count()
                kind, path = _kind(line)
                if path and b"x" in line.split(None, 2)[1]:
                    executed.add(path)
                size, begin, end = 0, low, high
    count()
    for path, size in files.items():
        found["libraries" if path in executed else "mapped"] += size
    return found


def _fills(begin: int, end: int, low: int, high: int, following: bytes) -> bool:
    """Whether a mapping, with what is reserved behind it, is one heap of an arena: large blocks too may begin where one would."""
    return end - begin == ARENA or (low == end and high == begin + ARENA and b" ---p " in following)


def _kind(line: bytes) -> tuple[str, bytes]:
    """(kind, file) of a mapping by its first line; empty where it has no file."""
    words = line.split(None, 5)
    path = words[5].strip() if len(words) > 5 else b""
    if path.startswith((b"anon_inode:", b"[v")):
        return "mapped", b""
    if path.startswith(b"/"):
        return "mapped", path
    return "heap" if path == b"[heap]" else "anonymous", b""


class AtPeak:
    """`look()` often; `parts()` says what had come since `base` at the look that saw the largest resident set.

    Looks come from where autograd keeps a tensor or takes it back, on the thread that computes, where nothing moves
    meanwhile; `with` adds a thread that looks while operators and collectives work, whose own buffers live only there.
    `named` gives the bytes of tensors that have a category of their own, at that moment.
    """

    def __init__(self, device: torch.device) -> None:
        self.base = makeup() if device.type == "cpu" else None
        self._busy = threading.Lock()
        self.begin(dict)

    def begin(self, named: Callable[[], Mapping[str, int]], shared: int = 0) -> None:
        """Forget what was seen. `shared`: bytes of what is named that lie in memory shared with other processes."""
        self.named, self.shared = named, shared
        self._last = dict(named()) if self.base is not None else {}
        self._most: tuple[Makeup, Mapping[str, int]] | None = None
        self._largest, self._floor = 0.0, _resident() if self.base is not None else 0

    def look(self, *, aside: bool = False) -> None:
        """Read the resident set (microseconds), and all else where it has grown (milliseconds).

        `aside`: from another thread than computes. Engines change their tensors there without Python's lock, and reading them
        meanwhile can end the process; so what is named is then as the computing thread last saw it.
        """
        if self.base is None or not self._busy.acquire(blocking=False):
            return
        try:
            resident = _resident()
            more = max(LEAST, GROWTH * (self._largest - self._floor))
            if resident > self._largest + more and (now := makeup()) and now.whole(max(resident, _resident())):
                if not aside:
                    self._last = dict(self.named())
                if not aside or self._named_bytes(self._last) <= self._used(now - self.base):
                    self._most = (now, self._last)  # else what is named was freed since: its bytes would count twice
                    self._largest = resident
        except RuntimeError:
            pass  # what is looked at changed meanwhile: the next look sees it
        finally:
            self._busy.release()

    def __enter__(self) -> "AtPeak":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        if self.base is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.base is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            self.look(aside=True)

    def parts(self) -> dict[str, int] | None:
        """Bytes above the base by category; None where it can't be read. Beside those named:

        workspace: in use by malloc's count, and not named. allocator: in its heaps, freed, still resident. mapped: files and
        shared memory, but for libraries. runtime: other mappings (Python's objects, stacks).
        """
        if self.base is None or self._most is None:
            return None
        since, named = self._most[0] - self.base, self._most[1]
        return {
            **named,
            "workspace": max(0, self._used(since) - self._named_bytes(named)),
            "allocator": max(0, since.heap - since.heap_used),
            "mapped": max(0, since.mapped - self.shared),
            "runtime": max(0, since.anonymous - since.large_used),
        }

    def _named_bytes(self, named: Mapping[str, int]) -> int:
        """Of what is named, what malloc holds."""
        return sum(named.values()) - self.shared

    @staticmethod
    def _used(since: Makeup) -> int:
        """Blocks in use that are resident: what was allocated and never written is not."""
        untouched = min(0, since.heap - since.heap_used) + min(0, since.anonymous - since.large_used)
        return since.heap_used + since.large_used + untouched
