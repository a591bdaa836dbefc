"""AUROC while training goes on: the clock stands still, a plain copy of the model is evaluated, training goes on as before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import model.data
from backends.base import Backend
from backends.saving import rng_state, set_rng_state
from bench import stats
from bench.watch import Watch
from bench.workload import Workload
from model.anomalygpt import AnomalyGPT
from model.evaluate import evaluate_modes
from model.tally import Tally

METRICS = ("pixel_auroc", "image_auroc")


class Curve:
    """What the model detects after 0 steps, every K, and the last; nothing where `--evaluate-every` is 0.

    The copy is built once and waits on the CPU. What each evaluation leaves behind in training is nothing but caches: random
    states are put back, the engine is only asked for its whole parameters.
    """

    def __init__(self, backend: Backend, workload: Workload, watch: Watch) -> None:
        self.backend, self.workload, self.watch = backend, workload, watch
        self.every = workload.config.measure.evaluate_every
        self.first = backend.steps
        self.points: list[dict[str, Any]] = []
        self._net: AnomalyGPT | None = None

    def windows(self, left: int) -> Iterator[int]:
        """Steps of each stretch of the `left` ones between two evaluations; all in one where there are none."""
        if self.every:
            self._point()
        while left:
            count = min(self.every or left, left)
            yield count
            left -= count
            if self.every:
                self._point()

    def _point(self) -> None:
        """Collective; afterwards all ranks start together."""
        before = rng_state()
        with torch.no_grad():
            self.watch.at(self.backend.steps, "evaluate")
            tally = self._evaluate(self.backend.full_state())
        set_rng_state(before)
        macro = tally.table(self._classes)["macro"]
        told = {key: macro.get(key) for name in METRICS for key in (name, f"{name}_reason") if key in macro}
        self.points.append({"step": self.backend.steps - self.first, "images": len(tally.rows), **told})
        self.backend.gather(None)

    def _evaluate(self, state: Mapping[str, Tensor]) -> Tally:
        asked = self.workload.config
        if self._net is None:
            self._net = self.workload.build()
        net = self._net.to(self.backend.device)
        own = dict(net.named_parameters())
        for name, value in state.items():
            own[name].copy_(value)
        dataset = model.data.load(
            asked.workload.data,
            image_size=self.workload.model_config.image_size,
            seed=asked.workload.seed,
            split="test",
            folder=asked.workload.images,
        )
        self._classes = dataset.classes
        part = evaluate_modes(
            net,
            dataset,
            dataset.test_items(asked.measure.evaluate),
            modes=("text",),
            answers=False,
            rank=self.backend.world.rank,
            size=self.backend.world.size,
            tell=lambda done, whole: self.watch.at(self.backend.steps, "evaluate"),
        )["text"]
        net.to("cpu")  # its room on the device belongs to the training
        return Tally.merge(self.backend.gather(part))

    def record(self, ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The record's `curve`; `ranks` with every rank's `step_s`. None where nothing was asked for."""
        asked = self.workload.config.measure
        if not self.every:
            return None
        self._net = None
        points = timed(self.points, ranks)
        return {"every": self.every, "metric": asked.target_metric, "target": asked.target_auroc, "points": points,
                **time_to_target(points, asked.target_metric, asked.target_auroc)}  # fmt: skip


def timed(points: Sequence[Mapping[str, Any]], ranks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points with `seconds`: training so far, each step as long as on its slowest rank, evaluations left out."""
    steps = stats.slowest(ranks)
    return [{**point, "seconds": float(steps[: point["step"]].sum())} for point in points]


def time_to_target(points: Sequence[Mapping[str, Any]], metric: str, target: float | None) -> dict[str, Any]:
    """`time_to_target_s` and `steps_to_target` of the first point at or above the target, or null with the reason.

    The model may have been there up to one interval sooner: it was not looked at in between.
    """
    reason = None
    known = [point[metric] for point in points if point[metric] is not None]
    if target is None:
        reason = "no target was given; type: --target-auroc 0.9"
    elif not known:
        reason = f"{metric} could not be measured: {points[-1].get(f'{metric}_reason')}" if points else "no point"
    elif max(known) < target:
        reason = f"{metric} {target:g} was not reached: the best was {max(known):.4f}"
    else:
        first = next(point for point in points if point[metric] is not None and point[metric] >= target)
        return {"time_to_target_s": first["seconds"], "steps_to_target": first["step"]}
    return {"time_to_target_s": None, "time_to_target_s_reason": reason, "steps_to_target": None}
