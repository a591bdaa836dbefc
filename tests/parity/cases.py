"""One small AnomalyGPT on real images, trained a few steps: the same for every engine, and what is compared of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import model
import model.data
from backends.base import Backend, EngineConfig
from backends.world import World
from bench.loop import train
from bench.measure.clock import Clock
from bench.workload import optimizer_factory
from model.data.collate import Collator
from model.tokenizer import tokenizer

GLOBAL_BATCH, ACCUMULATION, STEPS = 8, 2, 5
KEPT_AT = 3  # steps after which a state is kept, to go on from
CLIP = 0.2  # binds in every step: the norms of this model lie far above


@dataclass(frozen=True)
class Case:
    """How to train: update rule, clipping, precision; at 2 ranks every rank takes ACCUMULATION micro-batches of 2 samples."""

    optimizer: str = "sgd"
    lr: float = 0.005
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    precision: str = "fp32"
    decay: float = 1.0  # of the learning rate from step to step

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.lr * self.decay**step


CASES = {
    "sgd": Case(),
    "sgd, clipped": Case(clip_norm=CLIP, decay=0.7),
    "adamw": Case(optimizer="adamw", lr=1e-3, weight_decay=0.1, clip_norm=CLIP),
    "amp_bf16": Case(precision="amp_bf16"),
}


class Quiet:
    """A watcher that does not look."""

    def at(self, step: int, phase: str) -> None: ...


@lru_cache(1)
def sources() -> tuple[Any, Any, Any]:
    """Model sizes, images, collator: textures at 112 pixels, an 8 x 8 grid of patches.

    A quarter of the blocks of `tiny`: ZeRO-3 gathers each parameter apart, and time goes with their number.
    """
    config = replace(model.preset("tiny"), image_size=112, vision_blocks=2, taps=(1, 2), llm_layers=1)
    dataset = model.data.load("textures", image_size=112, seed=0)
    return config, dataset, Collator(tokenizer(config), dataset)


@lru_cache(None)
def built(precision: str, seed: int) -> nn.Module:
    """A model that nobody may touch: each case trains a copy."""
    config, dataset, _ = sources()
    made = model.build(config, precision=precision, seed=seed)
    made.prepare(dataset)
    return made.train()


def build(case: Case, seed: int = 0) -> nn.Module:
    """The model that every rank starts from."""
    return copy.deepcopy(built(case.precision, seed))


def batches(world: World, accumulation: int) -> Callable[[int, int], dict[str, Tensor]]:
    """This rank's micro-batches: slices of a global batch that is the same for any number of ranks."""
    _, dataset, collate = sources()
    share = GLOBAL_BATCH // world.size
    size = share // accumulation

    def make(step: int, micro: int) -> dict[str, Tensor]:
        begin = step * GLOBAL_BATCH + world.rank * share + micro * size
        return collate([dataset[i] for i in range(begin, begin + size)])

    return make


def engine_config(world: World, case: Case, accumulation: int, **settings: Any) -> EngineConfig:
    """Small buckets, so that there are several."""
    return EngineConfig(
        accumulation=accumulation,
        micro_batch=GLOBAL_BATCH // world.size // accumulation,
        clip_norm=case.clip_norm,
        bucket_mb=0.5,
        timeout_s=60,
        **settings,
    )


def setup(backend: Backend, case: Case, seed: int = 0) -> None:
    """Hand model and optimizer to the engine."""
    backend.setup(
        build(case, seed),
        optimizer_factory(case.optimizer, lr=case.lr, weight_decay=case.weight_decay, device=backend.device),
    )


def run(
    backend: Backend,
    steps: int = STEPS,
    make: Callable[[int, int], dict[str, Tensor]] | None = None,
    lr: Callable[[int], float] | None = None,
) -> list[float]:
    """Total losses of the global batch, one a step."""
    accumulation = backend.config.accumulation
    taken = train(
        backend,
        make or batches(backend.world, accumulation),
        steps=steps,
        accumulation=accumulation,
        clock=Clock(backend.device),
        watch=Quiet(),
        lr=lr,
    )
    everyone = backend.gather([step.losses["total"] for step in taken])
    return [sum(rank[i] for rank in everyone) / len(everyone) for i in range(steps)]


def result(backend: Backend, case: Case, seed: int = 0, kept: Path | None = None) -> dict[str, Any]:
    """Train a case from the start: its losses and all parameters afterwards, the frozen ones too; `kept`: as `keep`, on the way."""
    setup(backend, case, seed)
    losses = run(backend, KEPT_AT, lr=case.rate)
    if kept:
        keep(backend, kept)
    losses += run(backend, STEPS - KEPT_AT, lr=case.rate)
    return {"losses": losses, "state": backend.full_state(frozen=True)}


def keep(backend: Backend, path: Path) -> None:
    """Each rank writes its part of the state."""
    torch.save(backend.snapshot(), path.with_suffix(f".{backend.world.rank}"))
    backend.gather(None)


def parts(path: Path) -> list[dict[str, Any]]:
    """What the ranks of `keep` wrote, in rank order."""
    ranks = range(len(list(path.parent.glob(f"{path.stem}.[0-9]"))))
    return [torch.load(path.with_suffix(f".{rank}"), weights_only=True) for rank in ranks]


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """(largest relative difference of a loss, largest absolute difference of a parameter). Fails on empty or unequal sets."""
    assert len(ours["losses"]) == len(theirs["losses"]) > 0
    assert set(ours["state"]) == set(theirs["state"])
    assert ours["state"]
    losses = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    parameters = [
        (ours["state"][name].double() - value.double()).abs().max().item() for name, value in theirs["state"].items()
    ]
    worst = max(losses), max(parameters)
    return worst if all(map(torch.isfinite, map(torch.tensor, worst))) else (float("inf"), float("inf"))


def write(path: Path, content: Any, backend: Backend) -> None:
    """Rank 0 keeps the results."""
    if backend.world.rank == 0:
        torch.save(content, path)
