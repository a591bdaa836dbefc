"""What a run has trained, evaluated on test images: each rank takes a part, all on plain copies of the model."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backends.base import Backend
from bench.watch import Watch
from bench.workload import Workload
from model.evaluate import evaluate_modes
from model.tally import Tally


def evaluate_trained(
    backend: Backend, workload: Workload, state: Mapping[str, Tensor], watch: Watch
) -> dict[str, Any] | None:
    """Tables of both ways of looking, over all ranks' images; None where no evaluation was asked for. Collective.

    state: whole trained tensors by name. They go into a plain model, whatever engine trained them: the engine's own
    sharding and precision must not decide what the accuracy is measured with.
    """
    if not workload.config.measure.evaluate:
        return None
    watch.at(backend.steps, "evaluate")
    begin = time.monotonic()
    net = workload.build().to(backend.device)
    with torch.no_grad():
        own = dict(net.named_parameters())
        for name, value in state.items():
            own[name].copy_(value)
    dataset, items = workload.test_images()
    parts = evaluate_modes(
        net,
        dataset,
        items,
        rank=backend.world.rank,
        size=backend.world.size,
        tell=lambda done, whole: watch.at(backend.steps, "evaluate"),
    )
    everyone = backend.gather(parts)
    tables: dict[str, Any] = {
        mode: Tally.merge([part[mode] for part in everyone]).table(dataset.classes) for mode in parts
    }
    return {"seconds": time.monotonic() - begin} | tables
