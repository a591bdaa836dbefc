"""What each rank holds when all gradients exist: `torchrun ... held.py FILE ENGINE...` writes [engine, rule, rank, held, derived]."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

import backends
from backends.base import Backend, EngineConfig
from backends.world import World
from bench.loop import train
from bench.measure.clock import Clock
from bench.measure.memory import bytes_held
from bench.memory_model import Shapes, derived
from bench.workload import optimizer_factory

ACCUMULATION = 2


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


def main() -> None:
    torch.set_num_threads(1)
    world, file, found = World.from_env(), Path(sys.argv[1]), []
    backend: Backend | None = None
    for label in sys.argv[2:]:
        name, _, stage = label.replace("zero", "deepspeed").partition("-")
        config = EngineConfig(
            accumulation=ACCUMULATION, micro_batch=2, bucket_mb=0.01, zero_stage=int(stage or 2), timeout_s=60
        )
        backend = backend or backends.load(name)(world, config)
        backend.config = config
        for rule in ("sgd", "adamw"):
            for rank, (held, model) in enumerate(backend.gather(one(backend, label, rule))):
                found.append([label, rule, rank, held, model])
            backend.release()
    assert backend is not None
    if world.rank == 0:
        file.write_text(json.dumps(found))
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()
