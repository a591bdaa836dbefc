"""Flat gradient buckets, and the ring engine on two threads against one process on the whole batch."""

import itertools
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from backends.base import BackendError, BackendUnavailable, EngineConfig
from backends.ring.backend import Ring, join
from backends.ring.buckets import Bucket, plan
from backends.ring.transport import QueueTransport
from backends.single import Single
from backends.world import World
from tests.started import with_shared_memory

SMALL_MB = 40 * 4 / 2**20  # 40 values a bucket: several buckets even in a tiny model


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_covers_every_tensor_once_last_first_within_the_limit(seed):
    draw = random.Random(seed)
    sizes = [draw.randint(1, 60) for _ in range(draw.randint(0, 40))]
    buckets = plan(sizes, 50)
    assert [index for bucket in buckets for index in bucket] == list(reversed(range(len(sizes))))
    for bucket in buckets:
        assert sum(sizes[index] for index in bucket) <= 50 or len(bucket) == 1
    for one, following in itertools.pairwise(buckets):  # a bucket is closed only where the next does not fit
        assert sum(sizes[index] for index in one) + sizes[following[0]] > 50


def test_plans_by_hand():
    assert plan([], 10) == []
    assert plan([5, 5, 5, 5], 10) == [[3, 2], [1, 0]]
    assert plan([4, 100, 4], 10) == [[2], [1], [0]]
    assert plan([4, 100], 10) == [[1], [0]]


def test_a_bucket_holds_one_dtype():
    half, whole = torch.bfloat16, torch.float32
    assert plan([4, 4, 4, 4], 100, [whole, half, half, whole]) == [[3], [2, 1], [0]]


def test_gradients_are_views_of_one_buffer_and_stay_so():
    layer = nn.Linear(3, 2)
    bucket = Bucket(list(layer.parameters()))
    batch = torch.tensor([[1.0, 2.0, 3.0]])
    for times in (1, 2):
        layer(batch).sum().backward()
        bucket.fill()
        for p, view in zip(bucket.parameters, bucket.views, strict=True):
            assert p.grad is view
        assert bucket.flat.tolist() == [times * value for value in (1, 2, 3, 1, 2, 3, 1, 1)]


def test_after_clear_old_gradients_are_gone_and_the_first_ones_move_in():
    layer = nn.Linear(3, 2)
    bucket = Bucket(list(layer.parameters()))
    assert [bucket.mark_ready(), bucket.mark_ready()] == [False, True]
    bucket.launched = True
    bucket.flat.fill_(5)
    bucket.clear()
    assert (bucket.missing, bucket.launched) == (2, False)
    assert layer.weight.grad is None
    layer.bias.grad = torch.ones(2)
    bucket.place(1)
    assert layer.bias.grad is bucket.views[1]
    bucket.fill()
    assert layer.weight.grad is bucket.views[0]
    assert bucket.flat.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


class Tiny(nn.Module):
    """Three layers, and a parameter without part in the loss; `backwards` takes the layers in the other order."""

    def __init__(self, seed: int, *, backwards: bool = False) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.unused = nn.Parameter(torch.empty(5))
        self.frozen = nn.Parameter(torch.empty(4), requires_grad=False)
        self.backwards = backwards
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.5, generator=draw)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        for layer in reversed(self.layers) if self.backwards else self.layers:
            x = torch.tanh(layer(x))
        return ((x - batch["y"]) ** 2).mean()


class Recorded(Ring):
    """A ring that remembers in which order its buckets went round."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.order: list[int] = []

    def _reduce(self, bucket: Bucket) -> None:
        self.order.append(self.buckets.index(bucket))
        super()._reduce(bucket)


def config(**changed: Any) -> EngineConfig:
    return EngineConfig(**{"accumulation": 2, "micro_batch": 2, "bucket_mb": SMALL_MB, **changed})


def data(step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {name: torch.randn(8, 6, generator=draw) for name in "xy"}


def train(backend: Ring | Single, rank: int, size: int, steps: int = 3) -> list[float | None]:
    """SGD on this rank's part of the batch, cut into two micro-batches."""
    norms = []
    for step in range(steps):
        mine = {name: value.chunk(size)[rank].chunk(2) for name, value in data(step).items()}
        for micro in range(2):
            loss = backend.forward({name: value[micro] for name, value in mine.items()}, sync=micro == 1)
            backend.backward(loss / 2)
        norms.append(backend.step().grad_norm)
    return norms


def on_rings(size: int, work: Callable[[Recorded], Any], *, backwards: bool = False, **changed: Any) -> list[Any]:
    """What `work` gives on each rank, after a set-up that starts from unequal models."""
    links = QueueTransport.links(size)
    models = [Tiny(seed=rank, backwards=backwards) for rank in range(size)]

    def rank_main(rank: int) -> Any:
        ring = Recorded(World(rank, size, rank, size, "torchrun"), config(**changed), links[rank])
        ring.setup(models[rank], lambda params: SGD(params, lr=0.1))
        try:
            return work(ring)
        finally:
            ring.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank_main, range(size)))


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
@pytest.mark.parametrize("size", [2, 4])
def test_the_ring_trains_as_one_process_on_the_whole_batch(size, clip_norm):
    single = Single(World(), config(clip_norm=clip_norm))
    single.setup(Tiny(seed=0), lambda params: SGD(params, lr=0.1))
    norms = train(single, 0, 1)
    begin, end = Tiny(seed=0).state_dict(), single.full_state()

    found = on_rings(size, lambda ring: (train(ring, ring.world.rank, size), ring.full_state()), clip_norm=clip_norm)
    assert not torch.equal(end["layers.0.weight"], begin["layers.0.weight"])
    for ring_norms, state in found:
        assert set(state) == set(end)
        for name, value in end.items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-7)
            assert torch.equal(state[name], found[0][1][name]), "ranks must hold the same bits"
        assert torch.equal(state["unused"], begin["unused"])
        assert ring_norms == (pytest.approx(norms, rel=1e-5) if clip_norm else [None] * 3)


@pytest.mark.parametrize("backwards", [False, True])
def test_buckets_go_round_in_plan_order_whenever_their_gradients_come(backwards):
    def work(ring: Recorded) -> tuple[int, list[int]]:
        train(ring, ring.world.rank, 2, steps=2)
        return len(ring.buckets), ring.order

    for count, order in on_rings(2, work, backwards=backwards):
        assert count > 3
        assert order == [*range(count)] * 2


def test_full_buckets_leave_during_backward_but_only_of_the_last_micro_batch():
    def work(ring: Recorded) -> list[int]:
        batch = data(ring.world.rank)
        started = []
        for sync in (False, True):
            ring.backward(ring.forward(batch, sync=sync) / 2)
            started.append(len(ring.pending))
        ring.step()
        return [*started, len(ring.pending), len(ring.buckets)]

    for unsynced, synced, after, count in on_rings(2, work):
        assert unsynced == 0
        assert synced == count - 1  # the unused parameter's bucket waits for step
        assert after == 0


def test_bytes_sent_are_counted():
    def work(ring: Recorded) -> int | None:
        before = ring.sent_bytes()
        train(ring, ring.world.rank, 2, steps=1)
        return None if before is None else ring.sent_bytes() - before

    values = sum(p.numel() for p in Tiny(0).parameters() if p.requires_grad)
    assert sum(on_rings(2, work)) == 2 * values * 4


def test_release_takes_the_hooks_away():
    def work(ring: Recorded) -> tuple[bool, bool]:
        model, buckets = ring.model, ring.buckets
        missing = [bucket.missing for bucket in buckets]
        ring.sync = True
        ring.release()
        model(data(0)).backward()
        hooked = any(p._post_accumulate_grad_hooks for p in model.parameters())
        return [bucket.missing for bucket in buckets] == missing, hooked

    assert on_rings(2, work) == [(True, False)] * 2


def test_a_second_set_up_is_not_disturbed_by_the_first():
    models = [Tiny(seed=9) for _ in range(2)]

    def work(ring: Recorded) -> dict[str, Tensor]:
        train(ring, ring.world.rank, 2, steps=1)
        ring.release()
        ring.setup(models[ring.world.rank], lambda params: SGD(params, lr=0.1))
        train(ring, ring.world.rank, 2)
        return ring.full_state()

    single = Single(World(), config())
    single.setup(Tiny(seed=9), lambda params: SGD(params, lr=0.1))
    train(single, 0, 1)
    for state in on_rings(2, work):
        for name, value in single.full_state().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-7)


def test_an_optimizer_that_replaces_gradients_is_noticed():
    def work(ring: Recorded) -> list[bool]:
        seen = [ring.applied()["gradients_are_views"]]
        ring.parameters[0].grad = torch.zeros_like(ring.parameters[0])
        return [*seen, ring.applied()["gradients_are_views"]]

    assert on_rings(2, work) == [[True, False]] * 2


class Mixed(nn.Module):
    """Trained values of every width, the last not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.turned = nn.Parameter(torch.ones(6, 4).t())
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
            values = torch.randint(-3, 4, (4, 6), generator=draw).to(dtype)
            self.register_parameter(f"of_{str(dtype)[6:]}", nn.Parameter(values))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"][:4].round()
        return sum((x * p.float()).sum() for p in self.parameters())  # type: ignore[return-value]


@pytest.mark.parametrize("transport", ["auto", pytest.param("shared", marks=with_shared_memory)])
def test_gradients_of_any_dtype_go_round(transport):
    """Small integers, so that every width is exact."""

    def work(ring: Ring) -> list[Tensor]:
        ring.release()
        ring.setup(Mixed(), lambda params: SGD(params, lr=0.0))
        ring.backward(ring.forward(data(ring.world.rank), sync=True))
        ring._finish_exchange()
        return [p.grad.clone() for p in ring.parameters if p.grad is not None]

    mean = torch.stack([data(rank)["x"].round() for rank in range(2)])[:, :4].mean(0)
    for gradients in on_rings(2, work, transport=transport):
        assert len(gradients) == 5
        for gradient in gradients:
            assert torch.equal(gradient.float(), mean)


def test_held_gradients_are_the_buckets():
    def work(ring: Recorded) -> tuple[int, int]:
        held = ring.holdings()
        return sum(t.numel() for t in held["gradients"]), sum(t.nbytes for t in held["buffers"])

    values = sum(p.numel() for p in Tiny(0).parameters() if p.requires_grad)
    for gradients, scratch in on_rings(2, work):
        assert gradients == values
        assert 0 < scratch <= 4 * (values + 2)  # two segments, each no larger than a chunk, for all buckets together


@pytest.mark.parametrize(
    ("launcher", "asked", "device", "said"),
    [
        ("torchrun", "mpi", "cpu", "mpirun -np 2 python -m bench.run --backend ring"),
        ("mpirun", "torch", "cpu", "torchrun --nproc-per-node 2 -m bench.run --backend ring"),
    ],
)
def test_a_transport_that_the_launcher_can_not_give_is_refused(launcher, asked, device, said):
    with pytest.raises(BackendUnavailable) as caught:
        join(World(0, 2, 0, 2, launcher), config(transport=asked, device=device))
    assert said in str(caught.value)


def test_unequal_starts_are_refused():
    class Unequal(Ring):
        def _start_equal(self) -> None:
            pass

    links, models = QueueTransport.links(2), [Tiny(seed=rank) for rank in range(2)]

    def work(rank: int) -> str:
        ring = Unequal(World(rank, 2, rank, 2, "torchrun"), config(), links[rank])
        with pytest.raises(BackendError) as caught:
            ring.setup(models[rank], lambda params: SGD(params, lr=0.1))
        ring.close()
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        assert all("equal weights" in text for text in pool.map(work, range(2)))


def test_other_buckets_on_another_rank_are_found_at_setup():
    links = QueueTransport.links(2)

    def work(rank: int) -> str:
        ring = Ring(World(rank, 2, rank, 2, "torchrun"), config(bucket_mb=1e-4 if rank else 1.0), links[rank])
        with pytest.raises(BackendError) as caught:
            ring.setup(Tiny(seed=0), lambda params: SGD(params, lr=0.1))
        ring.close()
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        assert all("the buckets of rank 1 are not those of rank 0" in text for text in pool.map(work, range(2)))
