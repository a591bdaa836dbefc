"""The ring against the naive all-reduce and against torch's own sum, with ranks as threads; its traffic against the formula."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from backends.ring.algorithm import ring_allreduce
from backends.ring.reduction import GRAIN, MEAN, SUM
from backends.ring.reduction import alone as alone_on_its_thread
from backends.ring.schedules import naive_allreduce
from backends.ring.transport import MPITransport, QueueTransport, TorchTransport, Transport

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


def lengths(size: int) -> list[int]:
    return sorted({0, 1, 3, 7, size - 1, size, 1000})


def on_ranks(size: int, work: Callable[[QueueTransport], Any]) -> list[Any]:
    """What `work` gives on each of `size` ranks, one thread each."""
    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(work, link) for link in QueueTransport.links(size)]]


def parts(size: int, length: int, dtype: torch.dtype, *, whole: bool = False) -> torch.Tensor:
    """One row a rank. `whole`: small integers, whose sums are exact in every order."""
    draw = torch.Generator().manual_seed(1000 * size + length)
    if whole:
        return torch.randint(-8, 9, (size, length), generator=draw).to(dtype)
    return torch.randn(size, length, generator=draw, dtype=torch.float64).to(dtype)


def ring(given: torch.Tensor, *, mean: bool = False) -> list[torch.Tensor]:
    """Each rank's buffer after the ring, with no more scratch than is promised to be enough."""
    size, length = given.shape

    def work(link: QueueTransport) -> torch.Tensor:
        buffer = given[link.rank].clone()
        ring_allreduce(buffer, link, torch.empty(-(-length // size), dtype=given.dtype), MEAN if mean else SUM)
        return buffer

    return on_ranks(size, work)


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_that_have_no_rounding_are_exact(size, dtype):
    for length in lengths(size):
        given = parts(size, length, dtype, whole=True)
        for rank, result in enumerate(ring(given)):
            assert torch.equal(result, given.sum(0)), f"rank {rank}, length {length}"


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ring_agrees_with_naive_and_with_torch(size, dtype):
    for length in lengths(size):
        given = parts(size, length, dtype)

        def naive(link: QueueTransport, given: torch.Tensor = given) -> torch.Tensor:
            buffer = given[link.rank].clone()
            naive_allreduce(buffer, link)
            return buffer

        results, plain = ring(given), on_ranks(size, naive)
        exact = given.double().sum(0)
        # each of size-1 additions rounds by at most half an eps of a partial sum
        bound = size * torch.finfo(dtype).eps * given.double().abs().sum(0)
        for got in (*results, *plain):
            assert ((got.double() - exact).abs() <= bound).all()
        for got in results[1:]:
            assert torch.equal(got, results[0]), "ranks must end with the same bits"
        assert all(torch.equal(got, plain[0]) for got in plain[1:])


@pytest.mark.parametrize("size", RANKS)
def test_the_mean_is_the_sum_divided_once(size):
    for length in lengths(size):
        given = parts(size, length, torch.float32, whole=True)
        for result in ring(given, mean=True):
            assert torch.equal(result, given.sum(0) / size)


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_sent_are_those_of_the_formula(size, dtype):
    for length in (*lengths(size), 10 * size):
        given = parts(size, length, dtype)
        total = given[0].nbytes

        def work(link: QueueTransport, given: torch.Tensor = given) -> int:
            ring_allreduce(given[link.rank].clone(), link, torch.empty_like(given[0]))
            return link.sent_bytes

        sent = on_ranks(size, work)
        assert sum(sent) == 2 * (size - 1) * total
        if length % size == 0:
            assert sent == [2 * (size - 1) * total // size] * size


def test_naive_sends_the_whole_buffer_to_everybody():
    def work(link: QueueTransport) -> int:
        naive_allreduce(torch.ones(6), link)
        return link.sent_bytes

    assert on_ranks(4, work) == [3 * 6 * 4] * 4


@pytest.mark.parametrize("size", [2, 3, 8])
def test_scratch_is_not_written_beyond_a_chunk(size):
    length = 1001

    def work(link: QueueTransport) -> torch.Tensor:
        scratch = torch.full((length,), 7.0)
        ring_allreduce(torch.zeros(length), link, scratch)
        return scratch

    for scratch in on_ranks(size, work):
        assert (scratch[-(-length // size) :] == 7).all()


def test_a_slow_rank_changes_nothing():
    size, given = 4, parts(4, 1000, torch.float32)
    gate = threading.Event()

    def work(link: QueueTransport) -> torch.Tensor:
        if link.rank == 2:
            gate.wait(0.1)  # the others run ahead as far as they can
        buffer = given[link.rank].clone()
        ring_allreduce(buffer, link, torch.empty(250))
        return buffer

    late = on_ranks(size, work)
    assert all(torch.equal(one, other) for one, other in zip(late, ring(given), strict=True))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads_gather_and_broadcast(size):
    def work(link: QueueTransport) -> tuple[list[Any], float]:
        tensor = torch.tensor([float(link.rank + 3)])
        link.broadcast(tensor)
        return link.gather({"rank": link.rank}), tensor.item()

    assert on_ranks(size, work) == [([{"rank": rank} for rank in range(size)], 3.0)] * size


def alone(transport: Transport) -> None:
    """What any transport must do with nobody else there."""
    assert (transport.rank, transport.size, transport.left, transport.right) == (0, 1, 0, 0)
    buffer = torch.tensor([1.0, 2.0, 3.0])
    ring_allreduce(buffer, transport, torch.empty(3), MEAN)
    transport.broadcast(buffer)
    assert buffer.tolist() == [1.0, 2.0, 3.0]
    assert transport.gather({"a": 1}) == [{"a": 1}]
    assert transport.sent_bytes == 0


def test_torch_point_to_point_alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    transport = TorchTransport()
    try:
        alone(transport)
        transport.exchange(torch.empty(0), torch.empty(0))  # nothing to send is not sent
        assert transport.sent_bytes == 0
    finally:
        transport.close()
    assert not dist.is_initialized()
    transport.close()  # a second time is no error


@pytest.mark.parametrize(
    ("kind", "pipelined"),
    [("gloo", True), ("nccl", False), ("cpu:gloo,cuda:nccl", False), ("cpu:gloo,cuda:gloo", True)],
)
def test_where_nccl_carries_the_ring_both_ways_are_one_operation(monkeypatch, kind, pipelined):
    """A group of two kinds goes by the names of both; here without a GPU only its name is made up."""
    for name, value in (("get_rank", 0), ("get_world_size", 2), ("get_backend", dist.Backend(kind))):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    assert TorchTransport().pipelined is pipelined


def test_only_on_a_cpu_an_addition_is_cut_into_pieces(monkeypatch):
    lengths: dict[str, list[int]] = {"cpu": [], "meta": []}
    add = alone_on_its_thread(lambda into, incoming: lengths[into.device.type].append(len(into)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for device in lengths:
        values = torch.empty(2 * GRAIN + 1, device=device)
        add(values, values)
    assert lengths == {"cpu": [GRAIN, GRAIN, 1], "meta": [2 * GRAIN + 1]}


def test_mpi_alone_and_to_itself():
    pytest.importorskip("mpi4py")
    transport = MPITransport(60)
    alone(transport)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        sent, received = parts(1, 9, dtype)[0], torch.zeros(9, dtype=dtype)
        before = transport.sent_bytes
        transport.exchange(sent, received)
        assert torch.equal(sent, received)
        assert transport.sent_bytes - before == sent.nbytes
    transport.exchange(torch.empty(0), torch.empty(0))
    turned = torch.arange(6.0).view(2, 3).t()  # not contiguous, as a parameter may be
    transport.broadcast(turned)
    assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
    transport.comm = SimpleNamespace(Bcast=lambda memory, root: memory.fill(0))  # rank 0's values are zeros
    transport.broadcast(turned)
    assert not turned.any()
