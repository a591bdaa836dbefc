"""How far the numbers of an evaluation spread: over draws of reference images, and over test images."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.generate import reading
from model.metrics import auroc
from model.tally import METRICS, Tally

RESAMPLES, SEED = 1000, 0  # of the bootstrap
FEW = 5  # images of a class and kind; below, drawing them again says little


def over_draws(tables: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and deviation (n - 1) of each mean over classes; nothing for a single draw."""
    made = {}
    for metric in METRICS:
        values = [table["macro"][metric] for table in tables]
        if len(values) > 1 and None not in values and not metric.startswith("always"):
            made[metric] = {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
    return made


def over_images(tally: Tally, dependent: str | None = None) -> dict[str, list[float] | None]:
    """Bootstrap 95 % intervals of means over classes: images drawn again within their class and kind.

    None where the LLM was not asked, and where they would look too narrow: a class has fewer than FEW images of a kind, or
    the images are not independent (`dependent` says why).
    They know the spread between images, not between trainings.
    """
    rng = np.random.default_rng(SEED)
    drawn: dict[str, list[np.ndarray]] = {"image_auroc": [], "accuracy": [], "balanced_accuracy": []}
    if dependent:
        return dict.fromkeys(drawn)
    for class_id in sorted({row.class_id for row in tally.rows}):
        rows = [row for row in tally.rows if row.class_id == class_id]
        defective = np.array([row.defective for row in rows])
        kinds = [np.flatnonzero(defective == kind) for kind in (True, False)]
        if min(map(len, kinds)) < FEW:
            return dict.fromkeys(drawn)
        scores = np.array([row.score for row in rows])
        right = np.array([row.answer is not None and reading(row.answer) is row.defective for row in rows])
        asked = all(row.answer is not None for row in rows)
        chosen = [kind[rng.integers(len(kind), size=(RESAMPLES, len(kind)))] for kind in kinds]
        picks = np.concatenate(chosen, axis=1)
        drawn["image_auroc"].append(np.array([auroc(scores[pick], defective[pick]).value for pick in picks], float))
        if asked:
            recalls = [right[each].mean(1) for each in chosen]
            drawn["accuracy"].append(right[picks].mean(1))
            drawn["balanced_accuracy"].append(np.mean(recalls, axis=0))
    return {
        metric: [float(bound) for bound in np.quantile(np.mean(values, axis=0), (0.025, 0.975))] if values else None
        for metric, values in drawn.items()
    }
