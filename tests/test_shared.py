"""Memory that ranks of one host share: its collectives with ranks as threads, and its faults with ranks as processes."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.base import BackendError, BackendUnavailable, EngineConfig
from backends.ring.backend import Ring
from backends.ring.reduction import SUM
from backends.ring.shared import SMALL, SharedMemory, space, unshareable
from backends.ring.transport import ExchangeError, QueueTransport
from backends.ring.wave import wave
from backends.world import World
from bench.launchers import free_port
from tests.shared import LIMIT_S
from tests.started import with_shared_memory
from tests.test_allreduce import on_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("shared.py")


def memory(link: QueueTransport, values: torch.Tensor, segment_bytes: int = 40) -> tuple[SharedMemory, torch.Tensor]:
    """Shared memory that holds this rank's values."""
    made = SharedMemory(link, space(values[0].nbytes), 60, segment_bytes=segment_bytes)
    buffer = made.take(values.shape[1], values.dtype)
    buffer.copy_(values[link.rank])
    return made, buffer


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 7, 100])
def test_parts_of_an_allreduce_alone(size, length):
    values = torch.arange(size * length, dtype=torch.float32).view(size, length)
    total = values.sum(0)

    def work(link: QueueTransport) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shared, buffer = memory(link, values)
        shared.reduce_scatter(buffer)
        part = torch.tensor_split(buffer, size)[link.rank].clone()
        shared.all_gather(buffer)
        whole = buffer.clone()
        buffer.copy_(values[link.rank])
        shared.broadcast(buffer)
        return part, whole, buffer.clone()

    for rank, (part, whole, first) in enumerate(on_ranks(size, work)):
        assert torch.equal(part, torch.tensor_split(total, size)[rank])
        assert torch.equal(whole, total)
        assert torch.equal(first, values[0])


def test_bytes_that_a_neighbour_reads_are_counted():
    values = torch.ones(4, 80)

    def work(link: QueueTransport) -> list[int]:
        shared, buffer = memory(link, values)
        seen = [link.sent_bytes]
        for collective in (shared.reduce_scatter, shared.all_gather, shared.broadcast):
            collective(buffer)
            seen.append(link.sent_bytes)
        return [after - before for before, after in itertools.pairwise(seen)]

    whole = values[0].nbytes
    counted = on_ranks(4, work)
    assert [each[:2] for each in counted] == [[3 * whole // 4] * 2] * 4
    assert [each[2] for each in counted] == [whole, whole, whole, 0]  # nobody reads the last one


@pytest.mark.parametrize(
    ("segments", "steps"), [(1, range(2)), (5, range(2)), (3, range(6)), (7, range(3, 6)), (0, range(2))]
)
def test_a_wave_does_each_step_once_and_after_what_it_needs(segments, steps):
    order = wave(segments, steps)
    assert sorted(order) == [(segment, step) for segment in range(segments) for step in steps]
    places = {place: number for number, place in enumerate(order)}
    for (segment, step), number in places.items():
        assert step == steps.start or places[segment, step - 1] < number
    if segments > 1:
        assert places[0, steps.start + 1] < places[segments - 1, steps.start]  # it does not wait for the whole chunk


def test_a_buffer_from_elsewhere_is_refused():
    def work(link: QueueTransport) -> str:
        shared, _ = memory(link, torch.ones(2, 8))
        with pytest.raises(ValueError, match="make it with take") as caught:
            shared.allreduce(torch.ones(SMALL))
        return str(caught.value)

    assert len(on_ranks(2, work)) == 2


def test_who_can_share(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert on_ranks(3, unshareable) == [None] * 3

    def elsewhere(rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            return [value, ("far", *value[1:])]

        return SimpleNamespace(rank=rank, gather=gather)

    said = unshareable(elsewhere(0))
    assert said is not None
    assert said.startswith("rank 1 (far) is not on the host of rank 0 (")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "x86-64" in str(unshareable(SimpleNamespace(gather=lambda value: [value] * 2)))  # type: ignore[arg-type]


def test_shared_memory_that_was_asked_for_and_can_not_be_had_is_an_error(monkeypatch):
    monkeypatch.setattr("backends.ring.backend.unshareable", lambda links: "rank 1 (far) is not on the host of rank 0")
    config = EngineConfig(accumulation=1, micro_batch=1, transport="shared")

    def work(link: QueueTransport) -> str:
        ring = Ring(World(link.rank, 2, link.rank, 2, "mpirun"), config, link)
        with pytest.raises(BackendUnavailable, match="type: --transport auto") as caught:
            ring.setup(torch.nn.Linear(2, 2), lambda params: torch.optim.SGD(params, lr=0.1))
        return str(caught.value)

    assert all("rank 1 (far)" in each for each in on_ranks(2, work))


@with_shared_memory
def test_memory_is_let_go_with_the_model():
    """It would be held beside that of the next model."""
    config = EngineConfig(accumulation=1, micro_batch=1, transport="shared")

    def work(link: QueueTransport) -> bool:
        ring = Ring(World(link.rank, 2, link.rank, 2, "mpirun"), config, link)
        ring.setup(torch.nn.Linear(2, 2), lambda params: torch.optim.SGD(params, lr=0.1))
        memory = weakref.ref(ring.memory)
        ring.release()
        gc.collect()
        with pytest.raises(BackendError, match="call setup first"):
            ring.allreduce(torch.ones(1), SUM)
        return memory() is None

    assert on_ranks(2, work) == [True, True]


def test_memory_that_may_not_be_opened_is_said_by_every_rank(monkeypatch):
    def work(link: QueueTransport) -> str:
        gather = link.gather
        link.gather = lambda value: [(0, 0), (0, 0)] if isinstance(value, tuple) else gather(value)  # type: ignore[method-assign]
        with pytest.raises(ExchangeError) as caught:
            SharedMemory(link, 64, 60)
        return str(caught.value)

    assert all(each.startswith("rank 0 may not open the memory of rank") for each in on_ranks(2, work))


@pytest.fixture
def started() -> Iterator[Any]:
    """started(task): two processes of tests/shared.py; none is left behind."""
    begun: list[subprocess.Popen[str]] = []

    def start(task: str) -> list[subprocess.Popen[str]]:
        port = str(free_port())
        for rank in "01":
            env = {**os.environ, "RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            begun.append(subprocess.Popen([sys.executable, SCRIPT, task], env=env, stdout=subprocess.PIPE, text=True))
        return begun

    yield start
    for process in begun:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("dies", "rank 1 (process {}) died during an exchange"),
        ("freezes", f"rank 1 did not come to an exchange within {LIMIT_S:g} s"),
    ],
)
def test_a_neighbour_that_is_gone_is_named_within_the_limit(started, task, said):
    first, last = started(task)
    assert first.stdout.readline() == "[0.5]\n"
    began = time.monotonic()
    line = first.stdout.readline()
    assert line == said.format(last.pid) + "\n"
    assert time.monotonic() - began < (1 if task == "dies" else LIMIT_S + 1)


def test_a_thousand_exchanges_take_no_more_memory_than_one(started):
    processes = started("many")
    for process in processes:
        assert process.stdout.readline() == "[0.5]\n"
        grown, plans = map(int, process.stdout.readline().split())
        assert grown < 512  # KiB: a thousandth of what a copy each time would leave
        assert plans == 1
        assert process.wait(20) == 0
