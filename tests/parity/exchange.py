"""What each rank does for test_exchange.py: steps without exchange, and with a slow wire; rank 0 writes it, by label."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD

from backends.base import Backend, EngineConfig
from bench.loop import train
from bench.measure.clock import Clock
from bench.perturbed import perturbed
from tests.parity.cases import Quiet

WAIT = 0.4  # seconds that the last rank comes late
WIRE = 0.3  # seconds that a planted slow wire takes in each step
STEPS, ACCUMULATION = 4, 2
STAGES = {"deepspeed": {"zero-0": 0, "zero-1": 1, "zero-2": 2}, "deepspeed-3": {"zero-3": 3}}


class Losses(tuple[Tensor]):
    """What the loop asks of losses."""

    _fields = ("total",)

    @property
    def total(self) -> Tensor:
        return self[0]


class Net(nn.Module):
    """A ModuleList, so that FSDP2 has blocks to gather."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        x = batch["x"]
        for block in self.blocks:
            x = torch.tanh(block(x))
        return Losses((x.square().mean(),))


def batches(step: int, micro: int) -> dict[str, Tensor]:
    """The same for all ranks."""
    return {"x": torch.randn(4, 32, generator=torch.Generator().manual_seed(10 * step + micro))}


def real() -> bool:
    """Whether torch's default group is on the wire."""
    chosen = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    return bool(chosen is WIRES["gloo"])


WIRES: dict[str, Any] = {}


@contextmanager
def slow_wire(backend: Any) -> Iterator[None]:
    """The real exchange takes WIRE seconds more in each step."""
    if backend.name == "ring":
        allreduce = backend.allreduce

        def late(*given: Any) -> None:
            time.sleep(WIRE)  # one bucket: one call a step
            allreduce(*given)

        backend.allreduce = late
        yield
        backend.allreduce = allreduce
    elif backend.name == "horovod":
        from horovod.torch import optimizer as module

        hand_over = module.synchronize

        def slow(handle: Any) -> Any:
            time.sleep(WIRE / len(backend.parameters))
            return hand_over(handle)

        module.synchronize = slow
        yield
        module.synchronize = hand_over
    elif backend.name == "ddp":

        def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            if real():
                time.sleep(WIRE)  # one bucket
            return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda f: f.value()[0])

        backend.wrapped.register_comm_hook(None, hook)
        yield
    else:
        raise ValueError(backend.name)


def total(found: dict[str, Any], kind: str) -> list[float]:
    """Seconds of each step on its slowest rank."""
    ranks = [rank[kind]["step"] for rank in found["exposed"]["ranks"]]
    return [max(times) for times in zip(*ranks, strict=True)]


def measured(backend: Backend) -> dict[str, Any]:
    """`perturbed` as a run calls it, with a digest of the parameters before and after."""
    config: Any = SimpleNamespace(
        training=SimpleNamespace(accumulation=ACCUMULATION),
        workload=SimpleNamespace(seed=0),
        measure=SimpleNamespace(phase_steps=3, exposed_steps=STEPS),
    )
    workload: Any = SimpleNamespace(config=config, steps=3, batches=batches)
    before = backend.full_state()
    found = perturbed(backend, workload, config, Quiet())
    after = backend.full_state()
    found["unchanged"] = all(torch.equal(before[name], after[name]) for name in before)
    return found


def take(backend: Backend, make: Any) -> list[float]:
    """Seconds of two steps of this rank."""
    clock = Clock(backend.device)
    train(backend, make, steps=2, accumulation=ACCUMULATION, clock=clock, watch=Quiet(), lr=lambda step: 0.0)
    return clock.step_s


def lateness(backend: Backend) -> dict[str, Any]:
    """How long the first rank's step takes while the last rank comes late to it: with exchange, without, and with again."""

    def make(step: int, micro: int) -> dict[str, Tensor]:
        if micro == 0 and backend.world.rank == backend.world.size - 1:
            time.sleep(WAIT)
        return batches(step, micro)

    waited: dict[str, Any] = {}
    for turn in ("before", "inside", "after"):
        backend.gather(None)
        if turn == "inside":
            sent = backend.sent_bytes()
            with backend.without_exchange():
                waited[turn] = take(backend, make)
            waited["sent"] = None if sent is None else (backend.sent_bytes() or 0) - sent
        else:
            waited[turn] = take(backend, make)
    return waited


def tasks(backend: Backend, part: str, folder: Path) -> None:
    """All that is asked of a backend; it is left without a model."""
    if dist.is_initialized():
        WIRES["gloo"] = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    for label, stage in STAGES.get(part, {part: 2}).items():
        backend.release()
        backend.config = EngineConfig(
            accumulation=ACCUMULATION, micro_batch=4, clip_norm=0.1, timeout_s=60, zero_stage=stage
        )
        backend.setup(Net(), lambda params: SGD(params, lr=0.01))
        train(backend, batches, steps=3, accumulation=ACCUMULATION, clock=Clock(backend.device), watch=Quiet())
        found = {"plain": measured(backend), "late": lateness(backend)}
        found["gathered"] = backend.gather(backend.world.rank)
        if backend.name in ("ring", "ddp", "horovod"):
            with slow_wire(backend):
                found["slow"] = measured(backend)
        found["late"] = backend.gather(found["late"])[0]
        if backend.world.rank == 0:
            (folder / f"{label}.exchange.json").write_text(json.dumps(found))
    backend.release()
    WIRES.clear()  # a group that is still referred to ends its threads while the interpreter is already leaving
