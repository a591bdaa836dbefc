"""What each rank does for test_tuned.py: two steps under each setting. `tuned.py PART FOLDER` is that alone.

Alone for Horovod, which reads its environment once a process.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataclasses import replace

import torch
import torch.distributed as dist

import backends
from backends.base import Backend, trained
from backends.ring.transport import Links
from backends.tuning import Tuning
from backends.world import World
from bench.workload import optimizer_factory
from tests.parity import cases
from tests.parity.cases import CASES, Case

STEPS = 2
SGD, ADAMW = CASES["sgd"], CASES["adamw"]
Settings = dict[str, Any]
FUSED: tuple[Case, Settings] = (ADAMW, {"fused_optimizer": True})
HALF: tuple[Case, Settings] = (SGD, {"compression": "fp16"})
# Horovod reads its environment once a process, so these hold in all of its cases.
FIXED: dict[str, Settings] = {
    "horovod": {"own_bucket_mb": 0.1, "cycle_ms": 0.2},
    "horovod-autotune": {"autotune": True},
}
TRIED: dict[str, dict[str, tuple[Case, Settings]]] = {
    "single": {"sgd": (SGD, {}), "adamw": (ADAMW, {})},
    "ddp": {
        "bucket": (SGD, {"own_bucket_mb": 0.1}),
        "no views": (SGD, {"gradient_as_bucket_view": False}),
        "static graph": (SGD, {"static_graph": True, "accumulation": 1}),
        "fused": FUSED,
        "fp16": HALF,
    },
    "fsdp": {
        "no reshard": (SGD, {"reshard": False}),
        "one unit": (SGD, {"one_unit": True}),
        "fused": FUSED,
        "fp16": (SGD, {"compression": "fp16", "accumulation": 1}),
    },
    "horovod": {"bucket and cycle": (SGD, {}), "fused": FUSED, "fp16": HALF},
    "horovod-autotune": {"autotune": (SGD, {})},
    "ring": {
        "bucket": (SGD, {"own_bucket_mb": 0.1}),
        "fused": FUSED,
        "fp16": HALF,
        "bf16": (SGD, {"compression": "bf16"}),
    },
    "deepspeed": {
        "zero-2 bucket": (SGD, {"zero_stage": 2, "own_bucket_mb": 0.1}),
        "zero-2 no overlap": (SGD, {"zero_stage": 2, "overlap_comm": False}),
        "zero-2 reduce to owners": (SGD, {"zero_stage": 2, "multi_rank_allreduce": False}),
        "zero-1 fused": (ADAMW, {"zero_stage": 1, "fused_optimizer": True}),
        "zero-1 fp16": (SGD, {"zero_stage": 1, "compression": "fp16"}),
        "zero-0 fp16": (SGD, {"zero_stage": 0, "compression": "fp16"}),
    },
    "deepspeed-3": {"zero-3 no reshard": (SGD, {"zero_stage": 3, "reshard": False})},
}


class Wire:
    """Bytes of 16-bit values that this rank hands to collectives."""

    def __init__(self) -> None:
        self.half_bytes = 0

    def count(self, owner: Any, name: str, place: int = 0) -> None:
        """Wrap a function; its argument at `place` is what travels."""
        real = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            tensor = arguments[place] if len(arguments) > place else named.get("input", named.get("tensor"))
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float16, torch.bfloat16):
                self.half_bytes += tensor.nbytes
            return real(*arguments, **named)

        setattr(owner, name, counted)


def watch(name: str) -> Wire:
    """Count what an engine's gradients go through."""
    wire = Wire()
    wire.count(dist, "all_reduce")
    wire.count(dist, "reduce_scatter_single", 1)  # what FSDP2 calls
    if name == "ring":
        wire.count(Links, "send", 1)  # half of each buffer in each phase, on two ranks
    if name == "horovod":
        import horovod.torch.optimizer as hooks

        wire.count(hooks, "allreduce_async_")
    return wire


def one(backend: Backend, wire: Wire, fixed: Settings, case: Case, settings: Settings) -> dict[str, Any]:
    """Losses, parameters, and 16-bit bytes of each step, under one setting."""
    told = {name: value for name, value in settings.items() if name not in ("zero_stage", "accumulation")}
    accumulation = settings.get("accumulation", 1 if backend.world.size == 1 else cases.ACCUMULATION)
    config = cases.engine_config(backend.world, case, accumulation, zero_stage=settings.get("zero_stage", 2))
    backend.release()
    backend.config = replace(config, tuning=Tuning(**fixed, **told))
    make = optimizer_factory(
        case.optimizer,
        lr=case.lr,
        weight_decay=case.weight_decay,
        device=backend.device,
        fused=told.get("fused_optimizer", False),
    )
    backend.setup(cases.build(case), make)
    before = wire.half_bytes
    values = sum(value.numel() for value in backend.full_state().values())
    losses = cases.run(backend, STEPS)
    return {
        "losses": losses,
        "state": backend.full_state(frozen=True),
        "half_bytes": (wire.half_bytes - before) / STEPS,
        "values": values,
        "trained": len(trained(backend.model)),
    }


def tasks(backend: Backend, part: str, folder: Path) -> None:
    """All that is asked of a backend; it is left without a model."""
    wire, fixed = watch(backend.name), FIXED.get(part, {})
    found = {name: one(backend, wire, fixed, case, settings) for name, (case, settings) in TRIED.get(part, {}).items()}
    cases.write(folder / f"{part}.tuned.pt", found, backend)
    backend.release()


def main() -> None:
    """One rank."""
    torch.set_num_threads(1)
    part, folder = sys.argv[1], Path(sys.argv[2])
    world = World.from_env()
    config = replace(cases.engine_config(world, SGD, cases.ACCUMULATION), tuning=Tuning(**FIXED[part]))
    backend = backends.load(part.partition("-")[0])(world, config)
    tasks(backend, part, folder)
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()
