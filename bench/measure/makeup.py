"""What a process's resident memory is made of at its peak, by the kernel's mappings and the C allocator's own count.

Engines' tensors explain a part only. The rest is blocks that somebody has allocated (results of operators, sample caches,
the engine's own), blocks that were freed and not returned, files that were touched, and what Python's and the threads' own
mappings hold. Each is read, none is a difference to the peak: what the readings leave is told.
"""

import ctypes
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import NamedTuple

import torch

ARENA = 64 * 2**20  # glibc aligns the heaps of its arenas to this (HEAP_MAX_SIZE)
GROWTH = 0.01  # a look is taken where what is resident above the base has grown by this share since the last,
LEAST = 2**20  # and by at least so many bytes
PERIOD_S = 0.001  # between two looks of the thread
PAGE = os.sysconf("SC_PAGE_SIZE")
MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *([^\n]*)\n(?:[A-Z].*\n)*?Pss: +(\d+)", re.MULTILINE)
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


class _Mapping(NamedTuple):
    begin: int
    end: int
    rights: bytes
    path: bytes  # empty where there is none
    size: int  # resident bytes, those shared with other processes by their share (Pss)


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
    with open("/proc/self/smaps", "rb") as smaps:
        mappings = [_Mapping(int(low, 16), int(high, 16), rights, path.strip(), int(pss) * 1024)
                    for low, high, rights, path, pss in MAPPING.findall(smaps.read())]  # fmt: skip
    for mapping, following in zip(mappings, [*mappings[1:], None], strict=True):
        if mapping.path.startswith(b"/"):
            files[mapping.path] = files.get(mapping.path, 0) + mapping.size
            if b"x" in mapping.rights:
                executed.add(mapping.path)
        else:
            found[_kind(mapping, following)] += mapping.size
    for path, size in files.items():
        found["libraries" if path in executed else "mapped"] += size
    return found


def _kind(mapping: _Mapping, following: _Mapping | None) -> str:
    """Which memory without a file this is. A heap of an arena fills it, with what is reserved behind it; large blocks too may
    begin where one would."""
    if mapping.path.startswith((b"anon_inode:", b"[v")):
        return "mapped"
    if mapping.path == b"[heap]":
        return "heap"
    rest = following is not None and following.rights == b"---p" and following.begin == mapping.end
    end = following.end if following is not None and rest else mapping.end
    filled = mapping.begin % ARENA == 0 and ARENA in (mapping.end - mapping.begin, end - mapping.begin)
    return "heap" if filled else "anonymous"


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
