"""Simulated comparisons: made-up records whose step times have the noise of a machine, and planted differences."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tests import made


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms: 0.01 is one per cent."""

    step: float  # of a step within its run, half of it carried over from the step before
    run: float  # of a run as a whole: where its pages lie, what else ran
    drift: float  # of the machine, from the first run to the last, as a random walk
    memory: float = 0.005  # of a run's peak
    hiccups: float = 0.02  # share of steps that last a third longer on average


QUIET = Noise(step=0.02, run=0.008, drift=0.01)  # medians of runs of ten steps then differ by 1.2 %
BUSY = Noise(step=0.08, run=0.04, drift=0.10)  # by 7 %


def comparison(
    seconds: Mapping[str, float],
    *,
    repeats: int,
    noise: Noise,
    seed: int,
    ranks: int = 2,
    memory_mb: float = 300.0,
    day: int = 2,
) -> list[dict[str, Any]]:
    """Records of an interleaved comparison, each round shuffled; `seconds`: of a step, by engine label."""
    draw, order = np.random.default_rng(seed), random.Random(seed)
    records: list[dict[str, Any]] = []
    drift = 0.0
    for _ in range(repeats):
        for label in order.sample(list(seconds), len(seconds)):
            drift += draw.normal(0, noise.drift / np.sqrt(repeats * len(seconds)))
            level = np.log(seconds[label]) + drift + draw.normal(0, noise.run)
            peak = memory_mb * 1e6 * np.exp(draw.normal(0, noise.memory))
            kind, at = _template(label, 1 if label == "single" else ranks), len(records)
            count = len(kind["losses"])
            measured = [
                {
                    **rank,
                    "step_s": np.exp(level + steps(draw, noise, count)).tolist(),
                    "memory": {"peak_bytes": int(peak)},
                }
                for rank in kind["ranks"]
            ]
            records.append(
                {
                    **kind,
                    "ranks": measured,
                    "started": f"2026-01-{day:02d}T{at // 60:02d}:{at % 60:02d}:00+00:00",
                    "run_id": f"202601{day:02d}T{at // 60:02d}{at % 60:02d}00Z_{label}_np{kind['world']['size']}_abc1234",
                }
            )
    return records


def steps(draw: np.random.Generator, noise: Noise, count: int) -> np.ndarray:
    """Logarithms of step times about their run's level: each remembers half of the one before; some are late."""
    made_up, before = [], 0.0
    for fresh in draw.normal(0, noise.step * np.sqrt(0.75), count):
        before = 0.5 * before + fresh
        made_up.append(before)
    late = draw.random(count) < noise.hiccups
    return np.array(made_up) + late * draw.exponential(0.3, count)


@cache
def _template(label: str, ranks: int) -> dict[str, Any]:
    return made.record(label, ranks)
