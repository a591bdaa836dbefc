"""What each rank does for test_held.py: what it holds when all gradients exist; rank 0 writes [rule, rank, held, derived]."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backends.base import Backend, EngineConfig
from bench.loop import train
from bench.measure.clock import Clock
from bench.measure.memory import bytes_held
from bench.memory_model import Shapes, derived
from bench.workload import optimizer_factory

ACCUMULATION = 2
LABELS = {
    "ddp": {"ddp": 2},
    "fsdp": {"fsdp": 2},
    "deepspeed": {"zero-1": 1, "zero-2": 2},
    "deepspeed-3": {"zero-3": 3},
}  # part -> label -> ZeRO stage


class Out(NamedTuple):
    total: Tensor


class Net(nn.Module):
    """Odd sizes, so that nothing divides: frozen and trained, several blocks, a single value, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(33, 57).requires_grad_(False)
        self.blocks = nn.ModuleList([nn.Linear(57, 57), nn.Linear(57, 57, bias=False), nn.Linear(57, 3)])
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, batch: dict[str, Tensor]) -> Out:
        x = self.base(batch["x"])
        for block in self.blocks:
            x = torch.tanh(block(x))
        return Out((x * self.scale).pow(2).mean())


class Quiet:
    def at(self, step: int, phase: str) -> None: ...


def one(backend: Backend, label: str, rule: str) -> tuple[dict[str, int], dict[str, int] | None]:
    """Two steps: under AdamW the first still has no state."""
    net = Net()
    shapes = Shapes.of(net)
    backend.setup(net, optimizer_factory(rule, lr=0.01, weight_decay=0.0, device=backend.device))
    looks: list[dict[str, int]] = []
    train(
        backend,
        lambda step, micro: {"x": torch.randn(2, 33)},
        steps=2,
        accumulation=ACCUMULATION,
        clock=Clock(backend.device),
        watch=Quiet(),
        before_update=lambda: looks.append(bytes_held(backend.holdings())),
    )
    world = backend.world
    looks[-1]["tensors"] = sum(len(list(tensors)) for tensors in backend.holdings().values())
    return looks[-1], derived(label, shapes, optimizer=rule, rank=world.rank, ranks=world.size)


def tasks(backend: Backend, part: str, folder: Path) -> None:
    """All that is asked of a backend; it is left without a model."""
    for label, stage in LABELS.get(part, {}).items():
        found = []
        for rule in ("sgd", "adamw"):
            backend.release()
            backend.config = EngineConfig(
                accumulation=ACCUMULATION, micro_batch=2, bucket_mb=0.01, zero_stage=stage, timeout_s=60
            )
            for rank, (held, model) in enumerate(backend.gather(one(backend, label, rule))):
                found.append([rule, rank, held, model])
        if backend.world.rank == 0:
            (folder / f"{label}.held.json").write_text(json.dumps(found))
    backend.release()
