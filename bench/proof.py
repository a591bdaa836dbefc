"""What proves that it was the same training: losses and parameters in few numbers, and steps under plain SGD."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backends.base import Backend
from bench.config import RunConfig
from bench.loop import Step, train
from bench.measure.clock import Clock
from bench.watch import Watch
from bench.workload import Workload, optimizer_factory

PROOF_LR = 0.01
PROOF_CLIP = 0.1  # small enough to bind: a limit that never acts proves nothing about clipping


class SkippedStep(RuntimeError):
    """The engine left out an update: its seconds would be those of another training."""


def prove(backend: Backend, workload: Workload, config: RunConfig, watch: Watch) -> list[dict[str, Any]]:
    """Train anew under SGD, clipping off and then on. AdamW forgives every error of scale, SGD none."""
    told = backend.config
    legs = []
    for clip_norm in (0.0, PROOF_CLIP) if config.measure.proof_steps else ():
        watch.at(0, "setup")
        backend.release()
        backend.config = replace(told, clip_norm=clip_norm)
        backend.setup(workload.build(), optimizer_factory("sgd", lr=PROOF_LR, weight_decay=0.0, device=backend.device))
        steps = train(
            backend,
            workload.batches,
            steps=config.measure.proof_steps,
            accumulation=config.training.accumulation,
            clock=Clock(backend.device),
            watch=watch,
        )
        refuse_skipped(steps)
        watch.at(backend.steps, "gather")
        legs.append(
            {
                "optimizer": "sgd",
                "lr": PROOF_LR,
                "clip_norm": clip_norm,
                "losses": mean_losses(backend, steps),
                "grad_norms": [step.grad_norm for step in steps],
                "parameters": summary(backend.full_state()),
            }
        )
    backend.config = told
    return legs


def refuse_skipped(steps: Sequence[Step]) -> None:
    """Raise SkippedStep if an update was left out."""
    skipped = [step.number for step in steps if step.info.skipped]
    if skipped:
        raise SkippedStep(
            f"the engine skipped the update of step {', '.join(map(str, skipped))}: its gradients were not finite"
        )


def mean_losses(backend: Backend, steps: Sequence[Step]) -> list[dict[str, float]]:
    """Losses of the global batch, one entry a step: the mean over ranks, whose shares are equal."""
    own = [step.losses for step in steps]
    return over_ranks(backend.gather(own))


def over_ranks(everyone: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """One entry a step: the mean of what the ranks have."""
    return [
        {name: sum(rank[i][name] for rank in everyone) / len(everyone) for name in own}
        for i, own in enumerate(everyone[0])
    ]


def summary(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Trained parameters in few numbers: `sha256` of all values, per tensor its L2 `norm` and a `projection` on fixed signs.

    The projection, a sum with random signs drawn from the tensor's place, changes with any direction of change, and by about
    the L2 norm of that change.
    """
    digest = hashlib.sha256()
    tensors = {}
    for index, (name, value) in enumerate(sorted(state.items())):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
        flat = value.double().flatten()
        signs = torch.randint(0, 2, flat.shape, generator=torch.Generator().manual_seed(index)).double() * 2 - 1
        tensors[name] = {"norm": flat.norm().item(), "projection": (flat * signs).sum().item()}
    return {"sha256": digest.hexdigest(), "tensors": tensors}
