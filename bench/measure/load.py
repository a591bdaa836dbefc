"""Who else worked on this rank's cores while it was timed: the kernel's busy time of these cores less this process's own."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

SHORT_S = 0.5  # the kernel counts in hundredths of a second: in less, an hundredth is too much
OTHERS, STOLEN = 0.10, 0.02  # of the cores' time, from which it is told


class Load:
    """`with load:` around each window. Seconds: `wall`, `own` (this process), `busy` and `stolen` (sum over its cores)."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("wall", "own", "busy", "stolen"), 0.0)

    def __enter__(self) -> "Load":
        self._begin = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, end, begin in zip(self.seconds, self._read(), self._begin, strict=True):
            self.seconds[name] += end - begin

    @staticmethod
    def _read(stat: Path = Path("/proc/stat")) -> tuple[float, float, float, float]:
        """user, nice and system are busy (proc(5)); interrupts are nobody's, guests are inside user."""
        tick, mine = os.sysconf("SC_CLK_TCK"), {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = [line.split() for line in stat.read_text().splitlines() if line.split()[0] in mine]
        busy = sum(int(word) for line in lines for word in line[1:4]) / tick
        stolen = sum(int(line[8]) for line in lines) / tick
        return time.perf_counter(), time.process_time(), busy, stolen


def warnings(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """From each rank's `host`, `cores` and `load`. Cores that ranks share count once, with what all of them did there."""
    said = []
    for host in dict.fromkeys(rank["host"] for rank in ranks):
        here = [rank for rank in ranks if rank["host"] == host]
        cores: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
        for rank in here:
            cores.setdefault(tuple(rank["cores"]), []).append(rank)
        room = sum(rank["load"]["wall"] * len(each) for each, (rank, *_) in cores.items())
        if min(rank["load"]["wall"] for rank in here) < SHORT_S:
            continue
        busy, stolen = (sum(rank["load"][name] for rank, *_ in cores.values()) for name in ("busy", "stolen"))
        others = busy - sum(rank["load"]["own"] for rank in here)
        where = f" on {host}" if len({rank["host"] for rank in ranks}) > 1 else ""
        if others > OTHERS * room:
            said.append(f"other processes took {others / room:.0%} of the ranks' cores{where} while they were timed")
        if stolen > STOLEN * room:
            said.append(f"the hypervisor withheld {stolen / room:.0%} of the ranks' cores{where} while they were timed")
    return said
