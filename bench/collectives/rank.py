"""One rank of a pool, started by a launcher: waits at a socket without spinning, does what the parent says, reports its clock.

`python -m bench.collectives.rank ADDRESS BARRIER POOL VALUES LIBRARIES`.
"""

import gc
import mmap
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.world import World
from bench.cores import THREAD_VARIABLES, settle

if TYPE_CHECKING:
    from torch import Tensor

    from bench.collectives.libraries import Library

LINE = 64  # bytes: no two counters share a cache line
YIELD_AFTER = 100  # looks at the others' counters before the core is offered to them
WARMUPS = 2


class Barrier:
    """Ranks of one host meet in a shared file of counters, within a microsecond or two where each has a core."""

    def __init__(self, path: Path, rank: int, size: int) -> None:
        with open(path, "r+b") as file:
            self.counters = memoryview(mmap.mmap(file.fileno(), size * LINE)).cast("q")
        self.mine, self.all = rank * LINE // 8, range(0, size * LINE // 8, LINE // 8)

    def wait(self) -> None:
        """Return once every rank has come as often as this one."""
        counters = self.counters
        counters[self.mine] = count = counters[self.mine] + 1
        for place in self.all:
            looks = 0
            while counters[place] < count:
                looks += 1
                if looks > YIELD_AFTER:
                    os.sched_yield()


class Rank:
    """What a rank can be told to do; each method answers one message."""

    def __init__(self, world: World, barrier: Barrier, pool: str, values: int, wanted: list[str]) -> None:
        import torch

        from bench.collectives import groups

        torch.set_num_threads(1)
        self.world, self.barrier, self.pool, self.values = world, barrier, pool, values
        groups.join(pool, wanted)
        self.whole, self.part = torch.zeros(values), torch.zeros(-(-values // world.size))
        self.libraries: dict[str, Library] = {}

    def have(self, library: str) -> dict[str, Any]:
        """Make a library ready: its settings, or the reason why it can't be had."""
        from bench.collectives.groups import MAKERS
        from bench.collectives.libraries import Missing

        try:
            self.libraries[library] = MAKERS[library](self.world, self.values)
        except Missing as missing:
            return {"reason": str(missing)}
        gc.freeze()  # what is there stays: the collection before each turn would take longer than the turn
        return {"reason": None, "settings": self.libraries[library].settings}

    def turn(self, library: str, operation: str, values: int, iterations: int, checks: int) -> dict[str, Any]:
        """`iterations` timed collectives, in nanoseconds, and wrong values: of a checked one before, and one after."""
        at = self.libraries[library]
        whole = at.memory(values, self.whole)
        part = self.part[: values // self.world.size]
        call, place = at.call(operation, whole, part)
        wrong = checked = 0
        if checks:
            wrong, checked = self._checked(call, place, operation, whole, part), 1
        whole.zero_()  # sums of sums would soon be infinite
        part.zero_()
        for _ in range(WARMUPS if iterations > 1 else 0):
            self.barrier.wait()
            call()
        times = self._timed(call, iterations)
        if checks > 1:
            wrong, checked = wrong + self._checked(call, place, operation, whole, part), 2
        return {"ns": times, "wrong": wrong, "checked": checked}

    def copy(self, size: int, iterations: int) -> dict[str, Any]:
        """Nanoseconds of copies of `size` bytes between two buffers, by two ways, all ranks at the same time."""
        import ctypes

        import torch

        source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
        to, of = target.data_ptr(), source.data_ptr()
        ways: dict[str, Callable[[], object]] = {
            "memmove": lambda: ctypes.memmove(to, of, size),
            "torch": lambda: target.copy_(source),
        }
        for way in ways.values():
            way()
        return {name: self._timed(way, iterations) for name, way in ways.items()}

    def _timed(self, call: Callable[[], object], iterations: int) -> list[int]:
        barrier, clock, times = self.barrier, time.perf_counter_ns, []
        gc.collect()
        gc.disable()
        try:
            for _ in range(iterations):
                barrier.wait()
                begin = clock()
                call()
                times.append(clock() - begin)
        finally:
            gc.enable()
        return times

    def _checked(
        self, call: Callable[[], Any], place: "Tensor | None", operation: str, whole: "Tensor", part: "Tensor"
    ) -> int:
        """Put this rank's values in, run once, and count the values that came out wrong."""
        from bench.collectives import pattern

        rank, each = self.world.rank, len(whole) // self.world.size
        mine = pattern.tile(rank)
        pattern.fill(whole, mine)
        pattern.fill(part, mine, rank * each)
        self.barrier.wait()  # nobody's values are read before they are there
        returned = call()
        result = returned if place is None else place
        self.barrier.wait()  # nor changed while others read
        bad = 0
        for cut, values in pattern.expected(operation, len(whole), rank, self.world.size):
            seen = result if operation == "reduce_scatter" else result[cut]
            if len(seen) != cut.stop - cut.start:
                bad += cut.stop - cut.start
            else:
                bad += pattern.wrong(seen, values, cut.start)
        self.barrier.wait()
        return bad


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when told to leave or where the parent is gone; 1 after an error, which the parent was told."""
    address, barrier, pool, values, wanted = list(sys.argv[1:] if argv is None else argv)
    world = World.from_env()
    cores = settle(world, bind=True)
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    door = socket.socket(socket.AF_UNIX)
    door.connect(address)
    with Connection(door.detach()) as link:
        link.send({"rank": world.rank, "pid": os.getpid(), "cores": list(cores.seen), "host_cores": len(cores.host)})
        try:
            meet = Barrier(Path(barrier), world.rank, world.size)
            rank = Rank(world, meet, pool, int(values), wanted.split(","))
            link.send({"threads": _threads()})
            while (message := link.recv()) is not None:
                link.send(getattr(rank, message.pop("do"))(**message))
        except EOFError:  # the parent is gone
            return 0
        except Exception as error:  # noqa: BLE001 - whatever it was: the parent decides what it means
            traceback.print_exc()
            link.send({"error": f"{type(error).__name__}: {error}"})
            return 1
        from bench.collectives import groups

        groups.leave(pool)
    return 0


def _threads() -> int:
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    sys.exit(main())
