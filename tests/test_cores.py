"""Cores and threads: equal shares, read back from the kernel."""

import os
from collections.abc import Iterator

import pytest
import torch

from backends.world import World
from bench import cores
from bench.cores import THREAD_VARIABLES, Cores, apply_threads, settle, share


@pytest.mark.parametrize(
    ("budget", "size", "shares"),
    [
        ({0, 1, 2, 3}, 1, [(0, 1, 2, 3)]),
        ({0, 1, 2, 3}, 2, [(0, 1), (2, 3)]),
        ({3, 2, 1, 0}, 4, [(0,), (1,), (2,), (3,)]),
        ({0, 1, 2, 3, 4}, 2, [(0, 1), (2, 3)]),  # the fifth stays idle: shares are equal
        ({8, 9, 30, 31}, 2, [(8, 9), (30, 31)]),
        ({4, 5}, 3, [(4, 5)] * 3),
    ],
)
def test_shares_are_equal_and_next_to_each_other(budget, size, shares):
    assert [share(budget, rank, size) for rank in range(size)] == shares


class Kernel:
    """Affinities by process, as the kernel keeps them."""

    def __init__(self, mine: set[int], parents: set[int]) -> None:
        self.masks = {0: mine, os.getppid(): parents}

    def get(self, pid: int) -> set[int]:
        return self.masks[pid]

    def set(self, pid: int, mask: tuple[int, ...]) -> None:
        self.masks[pid] = set(mask)


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    """What `settle` writes goes away with the test."""
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "99")


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    made = Kernel({0, 1, 2, 3}, {4, 5, 6, 7})
    monkeypatch.setattr(cores.os, "sched_getaffinity", made.get)
    monkeypatch.setattr(cores.os, "sched_setaffinity", made.set)
    return made


def threads() -> set[str]:
    return {os.environ[name] for name in THREAD_VARIABLES}


def test_a_rank_gets_its_part_and_as_many_threads(kernel):
    got = settle(World(1, 2, 1, 2, "torchrun"), bind=True)
    assert got == Cores(seen=(2, 3), host=(0, 1, 2, 3), threads=2, bound=True, oversubscribed=False)
    assert kernel.masks[0] == {2, 3}
    assert threads() == {"2"}
    assert {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} <= set(THREAD_VARIABLES)


def test_under_mpirun_the_budget_is_its_parents(kernel):
    """mpirun binds each rank to one core before it starts, so the rank's own mask says nothing of the budget."""
    kernel.masks[0] = {4}
    got = settle(World(1, 2, 1, 2, "mpirun"), bind=True)
    assert (got.seen, got.host, got.threads) == ((6, 7), (4, 5, 6, 7), 2)


def test_without_binding_all_cores_are_seen_and_threads_still_shared(kernel):
    kernel.masks[0] = {4}
    got = settle(World(1, 2, 1, 2, "mpirun"), bind=False)
    assert got == Cores(seen=(4, 5, 6, 7), host=(4, 5, 6, 7), threads=2, bound=False, oversubscribed=False)
    assert threads() == {"2"}


@pytest.mark.parametrize(("ranks", "over"), [(4, False), (5, True)])
def test_more_ranks_than_cores_is_told(kernel, ranks, over):
    got = settle(World(1, ranks, 1, ranks, "torchrun"), bind=True)
    assert got.oversubscribed == over
    assert got.bound == (not over)
    assert got.seen == ((0, 1, 2, 3) if over else (1,))
    assert got.threads == 1


def test_what_the_kernel_gave_is_told_not_what_was_asked(kernel, monkeypatch):
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda pid, mask: None)
    assert settle(World(1, 2, 1, 2, "torchrun"), bind=True).seen == (0, 1, 2, 3)


@pytest.fixture
def restored() -> Iterator[set[int]]:
    before, count = os.sched_getaffinity(0), torch.get_num_threads()
    yield before
    os.sched_setaffinity(0, before)
    torch.set_num_threads(count)


def test_the_real_kernel_binds(restored):
    got = settle(World(0, len(restored), 0, len(restored), "torchrun"), bind=True)
    assert got.seen == (min(restored),)
    assert os.sched_getaffinity(0) == {min(restored)}
    assert threads() == {"1"}


@pytest.mark.parametrize("count", [1, 2])
def test_libraries_are_told_their_threads(restored, count):
    import cv2

    before = cv2.getNumThreads()
    try:
        assert apply_threads(Cores((0,), (0,), count, True, False)) == count
        assert torch.get_num_threads() == count
        assert cv2.getNumThreads() == count
    finally:
        cv2.setNumThreads(before)
