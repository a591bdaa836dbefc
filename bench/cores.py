"""Cores and threads of this rank, settled by the run itself before torch loads: launchers differ, so none of them decides.

torchrun sets one thread, horovodrun none, mpirun none but binds each rank to a core: unfair by itself.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from backends.world import World

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Cores:
    """What this rank got. `seen`: the affinity read back from the kernel; `host`: cores that this host's ranks share."""

    seen: tuple[int, ...]
    host: tuple[int, ...]
    threads: int
    bound: bool
    oversubscribed: bool


def share(budget: Iterable[int], local_rank: int, local_size: int) -> tuple[int, ...]:
    """This rank's part of the cores: equal, next to each other; all of them where ranks outnumber cores."""
    cores = sorted(budget)
    each = len(cores) // local_size
    return tuple(cores[local_rank * each : (local_rank + 1) * each]) if each else tuple(cores)


def settle(world: World, *, bind: bool) -> Cores:
    """Bind this process and set the thread variables. Call before numpy or torch is imported, and `apply_threads` after."""
    # mpirun has bound this process already; what the user allowed is what mpirun itself may use.
    budget = os.sched_getaffinity(os.getppid() if world.launcher == "mpirun" else 0)
    mine = share(budget, world.local_rank, world.local_size) if bind else tuple(sorted(budget))
    os.sched_setaffinity(0, mine)
    oversubscribed = world.local_size > len(budget)
    threads = max(1, len(budget) // world.local_size)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    seen = tuple(sorted(os.sched_getaffinity(0)))
    return Cores(seen, tuple(sorted(budget)), threads, bind and not oversubscribed, oversubscribed)


def apply_threads(cores: Cores) -> int:
    """Tell torch and OpenCV, and return what torch then reports."""
    import cv2
    import torch

    torch.set_num_threads(cores.threads)
    cv2.setNumThreads(cores.threads)
    return torch.get_num_threads()
