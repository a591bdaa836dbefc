"""Every schedule, any rank count, length, type, operation and segment, against NumPy; ranks are threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from backends.ring.compression import WIRE, compressed_allreduce
from backends.ring.pipeline import AHEAD, SEGMENT_BYTES, pipelined_allreduce, scratch_values
from backends.ring.reduction import GRAIN, MEAN, REDUCTIONS, SUM, Reduction
from backends.ring.schedules import halving_doubling, hierarchical, naive_allreduce, recursive_doubling
from backends.ring.shared import SharedMemory, space
from backends.ring.transport import ExchangeError, Links, QueueTransport
from backends.world import World
from bench.collectives import own

pytestmark = pytest.mark.usefixtures("one_thread")
ORACLES = {"sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max, "product": np.prod}
DTYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.bfloat16: np.float32,
}


def on_ranks(size: int, work: Callable[[QueueTransport], Any]) -> list[Any]:
    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(work, link) for link in QueueTransport.links(size)]]


def pipelined(buffer: torch.Tensor, links: Links, reduction: Reduction, *, segment_bytes: int) -> None:
    """With no more scratch than is promised to be enough, full of NaN so that its use before it is filled shows."""
    values = scratch_values(len(buffer), links.size, buffer.element_size(), segment_bytes)
    pipelined_allreduce(
        buffer, links, torch.full((values,), torch.nan, dtype=buffer.dtype), reduction, segment_bytes=segment_bytes
    )


def shared(buffer: torch.Tensor, links: QueueTransport, reduction: Reduction, *, segment_bytes: int) -> None:
    """The same values in memory that the neighbours read; around the ring, however few they are."""
    memory = SharedMemory(links, space(buffer.nbytes), 60, segment_bytes=segment_bytes, small=0)
    inside = memory.take(len(buffer), buffer.dtype)
    inside.copy_(buffer)
    memory.allreduce(inside, reduction)
    buffer.copy_(inside)


def at_once(buffer: torch.Tensor, links: QueueTransport, reduction: Reduction) -> None:
    """Laid out for all in one meeting; three times, so that both slots are used again."""
    memory = SharedMemory(links, 3 * space(buffer.nbytes), 60, small=10**6)
    for _ in range(3):
        inside = memory.take(len(buffer), buffer.dtype)
        inside.copy_(buffer)
        memory.allreduce(inside, reduction)
    buffer.copy_(inside)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, Reduction, int]:
    """Values of each rank (small integers: exact in every type and order), what to do, and how to cut."""
    size = draw(st.integers(1, 16))
    length = draw(st.one_of(st.integers(0, 40), st.integers(0, 700)))
    dtype = draw(st.sampled_from(list(DTYPES)))
    reduction = draw(st.sampled_from(list(REDUCTIONS.values())))
    low, high = (
        (1, 3) if reduction.name == "product" and size <= 4 else (-1, 2) if reduction.name == "product" else (-8, 9)
    )
    if dtype is torch.float16 and reduction.name == "product":
        low, high = -1, 2
    seed = draw(st.integers(0, 2**31))
    values = torch.randint(low, high, (size, length), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values, reduction, draw(st.sampled_from([1, 8, 64, 1000, 2**19]))


def run(values: torch.Tensor, reduction: Reduction, segment_bytes: int, name: str) -> list[torch.Tensor]:
    size = len(values)
    per_host = next(each for each in (3, 2, 1) if size % each == 0)
    schedule: dict[str, Callable[..., None]] = {
        "pipelined": partial(pipelined, segment_bytes=segment_bytes),
        "shared": partial(shared, segment_bytes=segment_bytes),
        "at once": at_once,
        "naive": naive_allreduce,
        "doubling": recursive_doubling,
        "halving": halving_doubling,
        "hierarchical": partial(hierarchical, per_host=per_host),
    }

    def work(link: QueueTransport) -> torch.Tensor:
        buffer = values[link.rank].clone()
        schedule[name](buffer, link, reduction)
        return buffer

    return on_ranks(size, work)


NAMES = ("pipelined", "shared", "at once", "naive", "doubling", "halving", "hierarchical")


@pytest.mark.parametrize("name", NAMES)  # not drawn: each must meet every operation often
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_any_schedule_gives_what_numpy_gives(name, case):
    values, reduction, segment_bytes = case
    exact = ORACLES[reduction.name](values.to(torch.float64).numpy(), axis=0)
    wanted = torch.from_numpy(np.asarray(exact)).to(values.dtype)
    for rank, result in enumerate(run(values, reduction, segment_bytes, name)):
        assert torch.equal(result, wanted), f"rank {rank}"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_all_ranks_and_all_runs_end_with_the_same_bits(name, case, seed):
    values, reduction, segment_bytes = case
    values = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        values.dtype
    )
    first = run(values, reduction, segment_bytes, name)
    for result in (*first[1:], *run(values, reduction, segment_bytes, name)):
        assert torch.equal(result.view(torch.uint8), first[0].view(torch.uint8))


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_segments_add_in_the_order_of_the_plain_ring(size):
    from backends.ring.algorithm import ring_allreduce

    values = torch.randn(size, 1000, generator=torch.Generator().manual_seed(size))

    def plain(link: QueueTransport) -> torch.Tensor:
        buffer = values[link.rank].clone()
        ring_allreduce(buffer, link, torch.empty(-(-1000 // size)), MEAN)
        return buffer

    for name in ("pipelined", "shared"):
        one, other = on_ranks(size, plain), run(values, MEAN, 256, name)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in ("naive", "doubling", "halving") for size in (2, 3, 4)]
)
def test_a_schedule_whose_scratch_is_kept_makes_no_new_memory(monkeypatch, name, size):
    """In the timed call page faults would count; over links that carry nothing, so that only its own memory is seen."""

    class Allocations(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.made += func.overloadpacket.__name__ in ("empty", "empty_like", "new_empty", "clone", "zeros")
            return func(*args, **(kwargs or {}))

    class Nowhere(Links):
        def _send(self, tensor, to):
            return lambda: None

        _receive = _send

    for rank in range(size):
        monkeypatch.setattr(own, "TorchTransport", partial(Nowhere, rank, size))
        library = own.MessageRing(World(rank, size, rank, size), 120, carrier="torch", schedule=name)
        call, _ = library.call("all_reduce", torch.ones(100), torch.ones(0))
        with Allocations() as seen:
            call()
        assert seen.made == 0


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_scratch_of_before_changes_no_bit(size):
    values = torch.randn(size, 37, generator=torch.Generator().manual_seed(size))
    for schedule in (naive_allreduce, recursive_doubling, halving_doubling):

        def work(link: QueueTransport, schedule: Callable[..., None] = schedule) -> bool:
            plain, kept = values[link.rank].clone(), values[link.rank].clone()
            schedule(plain, link, MEAN)
            schedule(kept, link, MEAN, scratch=torch.full((37 * size + 5,), torch.nan))
            return torch.equal(plain, kept)

        assert on_ranks(size, work) == [True] * size


@pytest.mark.parametrize("size", [2, 4, 8])
def test_bytes_sent_are_those_of_each_schedule(size):
    length, log = 64 * size, size.bit_length() - 1
    values = torch.ones(size, length)
    total = values[0].nbytes
    expected = {
        "pipelined": 2 * (size - 1) * total // size,
        "shared": 2 * (size - 1) * total // size,
        "halving": 2 * (size - 1) * total // size,
        "doubling": log * total,
        "naive": (size - 1) * total,
        "at once": 3 * (size - 1) * total,
    }
    per_rank: dict[str, Callable[..., None]] = {
        "pipelined": partial(pipelined, segment_bytes=100),
        "shared": partial(shared, segment_bytes=100),
        "halving": halving_doubling,
        "doubling": recursive_doubling,
        "naive": naive_allreduce,
        "at once": at_once,
    }
    for name, schedule in per_rank.items():

        def work(link: QueueTransport, schedule: Callable[..., None] = schedule) -> int:
            schedule(torch.ones(length), link, SUM)
            return link.sent_bytes

        assert on_ranks(size, work) == [expected[name]] * size, name


def test_only_leaders_talk_between_hosts():
    met: list[set[int]] = [set() for _ in range(6)]

    def work(link: QueueTransport) -> None:
        send = link._send
        link._send = lambda tensor, to: (met[link.rank].add(to), send(tensor, to))[1]  # type: ignore[method-assign]
        hierarchical(torch.ones(12), link, SUM, per_host=3)

    on_ranks(6, work)
    crossing = {(rank, to) for rank, there in enumerate(met) for to in there if rank // 3 != to // 3}
    assert crossing == {(0, 3), (3, 0)}
    assert met[1] == met[2] == {0}


def test_hosts_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="5 ranks are not 2 on each host"):
        hierarchical(torch.ones(1), QueueTransport.links(5)[0], per_host=2)


@pytest.mark.parametrize("name", WIRE)
@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 9), length=st.integers(0, 300), seed=st.integers(0, 2**31))
def test_values_that_travel_as_16_bits_are_rounded_once_a_hop_and_alike_on_all_ranks(name, size, length, seed):
    values = torch.randn(size, length, generator=torch.Generator().manual_seed(seed))

    def work(link: QueueTransport) -> tuple[torch.Tensor, int]:
        buffer = values[link.rank].clone()
        scratch = torch.full((2 * -(-length // size),), torch.nan, dtype=WIRE[name])
        compressed_allreduce(buffer, link, scratch, MEAN)
        return buffer, link.sent_bytes

    results = on_ranks(size, work)
    rounding = torch.finfo(WIRE[name]).eps / 2
    limit = values.abs().sum(0) * rounding * (1 if size > 1 else 0)  # a mean: N roundings of sums, over N
    for result, sent in results:
        assert torch.equal(result, results[0][0])
        assert ((result - values.mean(0)).abs() <= limit * 1.01 + 1e-6).all()
        assert sent <= 2 * 2 * (size - 1) * -(-length // size)
    if length % size == 0:
        assert results[0][1] == 2 * 2 * (size - 1) * length // size  # half of what fp32 takes


def test_scratch_is_bounded_by_segments_not_by_the_buffer():
    assert scratch_values(10**9, 2, 4) == AHEAD * SEGMENT_BYTES // 4
    assert scratch_values(10, 4, 4) == AHEAD * 3


def test_a_rank_that_sends_another_length_is_named():
    def work(link: QueueTransport) -> str:
        try:
            pipelined(torch.ones(8 if link.rank else 12), link, SUM, segment_bytes=2**19)
        except ExchangeError as error:
            return str(error)
        return "nothing said"

    said = on_ranks(2, work)
    assert said == ["rank 1 sent 4 values to rank 0, not 6", "rank 0 sent 6 values to rank 1, not 4"]


def test_large_pieces_are_added_without_a_team_of_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    pieces = []
    into, incoming = torch.ones(2 * GRAIN + 5), torch.ones(2 * GRAIN + 5)
    for reduction in REDUCTIONS.values():
        mine = into.clone()
        reduction.combine(mine, incoming)
        pieces.append(mine[0].item())
        assert (mine == mine[0]).all()
    assert pieces == [2, 2, 1, 1, 1]
