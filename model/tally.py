"""What an evaluation holds while it runs, and its table: each class's metrics and their means over classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from model.data.sample import TestItem
from model.generate import Answer, published_right, reading
from model.metrics import Histogram, Number, auroc

METRICS = (
    "image_auroc",
    "pixel_auroc",
    "pro",
    "accuracy",
    "balanced_accuracy",
    "always_yes_accuracy",
    "always_yes_balanced_accuracy",
    "accuracy_published_reading",
    "lm_auroc",
)


class Row(NamedTuple):
    """One image. `score` is the largest of its map, `lm_score` Yes minus No; it and `answer` are None if not asked."""

    number: int  # in the items
    name: str
    class_id: int
    defective: bool
    score: float
    answer: str | None
    lm_score: float | None


class Bad(NamedTuple):
    """An image that could not be used, and why."""

    number: int
    reason: str


@dataclass
class Tally:
    """What was counted so far: a few words an image (`rows`), and of its pixels a histogram a class, of bounded size."""

    mode: str
    rows: list[Row] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    pixels: dict[int, Histogram] = field(default_factory=dict)

    def add(self, number: int, item: TestItem, anomaly_map: np.ndarray, answer: Answer | None = None) -> None:
        """Count one image with its map (H, W). A map that is not finite makes it a bad one."""
        if not np.isfinite(anomaly_map).all():
            self.bad.append(Bad(number, f"{item.name}: its anomaly map is not finite; the weights have diverged"))
            return
        if item.mask is not None:
            self.pixels.setdefault(item.class_id, Histogram()).add(anomaly_map, item.mask)
        said = (None, None) if answer is None else (answer.text, answer.score)
        self.rows.append(Row(number, item.name, item.class_id, bool(item.defective), float(anomaly_map.max()), *said))

    @staticmethod
    def merge(parts: Sequence["Tally"]) -> "Tally":
        """What one process would hold after all the images. Raises ValueError: none, or of different modes."""
        modes = {part.mode for part in parts}
        if len(modes) != 1:
            raise ValueError(f"tallies of modes {sorted(modes)} can't be merged; give at least one, all of one mode")
        whole = Tally(modes.pop())
        whole.rows = sorted((row for part in parts for row in part.rows), key=lambda row: row.number)
        whole.bad = sorted(bad for part in parts for bad in part.bad)
        for class_id in sorted({class_id for part in parts for class_id in part.pixels}):
            whole.pixels[class_id] = Histogram.merge(part.pixels[class_id] for part in parts if class_id in part.pixels)
        return whole

    def table(self, classes: Sequence[str]) -> dict[str, Any]:
        """JSON values: `mode`, `classes` (name: metrics), `macro` (means over classes), `bad`, `images`.

        Fractions of 1. A metric that is None has its reason beside it, under its name with `_reason` behind; one that
        was counted in bins has the largest error that this can have made, `_error`.
        """
        found = {name: self._metrics(class_id) for class_id, name in enumerate(classes)}
        return {
            "mode": self.mode,
            "images": len(self.rows),
            "classes": {
                name: {**self._counts(class_id), **_json(found[name])} for class_id, name in enumerate(classes)
            },
            "macro": macro(list(found.values())),
            "bad": [bad._asdict() for bad in self.bad],
        }

    def _counts(self, class_id: int) -> dict[str, int]:
        rows, pixels = self._of(class_id), self.pixels.get(class_id, Histogram())
        return {
            "images": len(rows),
            "defective": sum(row.defective for row in rows),
            "masks": pixels.images,
            "regions": pixels.regions,
            "answers_without_yes_or_no": sum(row.answer is not None and reading(row.answer) is None for row in rows),
        }

    def _of(self, class_id: int) -> list[Row]:
        return sorted((row for row in self.rows if row.class_id == class_id), key=lambda row: row.number)

    def _metrics(self, class_id: int) -> dict[str, Number]:
        rows = self._of(class_id)
        if not rows:
            return dict.fromkeys(METRICS, Number(None, "no test image"))
        defective = np.array([row.defective for row in rows])
        pixels = self.pixels.get(class_id)
        found = {
            "image_auroc": auroc([row.score for row in rows], defective),
            "pixel_auroc": Number(None, "no masks") if pixels is None else pixels.auroc(),
            "pro": Number(None, "no masks") if pixels is None else pixels.pro(),
            "always_yes_accuracy": accuracy(defective),
            "always_yes_balanced_accuracy": balanced(defective, defective),
        }
        said = [(row.answer, row.lm_score, row.defective) for row in rows]
        asked = [(text, score, defect) for text, score, defect in said if text is not None and score is not None]
        if len(asked) < len(rows):
            return {name: found.get(name, Number(None, "the LLM was not asked")) for name in METRICS}
        right = np.array([reading(text) is defect for text, _, defect in asked])
        found |= {
            "accuracy": accuracy(right),
            "balanced_accuracy": balanced(right, defective),
            "accuracy_published_reading": accuracy(np.array([published_right(text, d) for text, _, d in asked])),
            "lm_auroc": auroc([score for _, score, _ in asked], defective),
        }
        return {name: found[name] for name in METRICS}


def accuracy(right: np.ndarray) -> Number:
    """Share of answers that are right; the report calls it precision."""
    return Number(int(right.sum()) / len(right))


def balanced(right: np.ndarray, defective: np.ndarray) -> Number:
    """Mean of the two recalls: 0.5 for any constant answer, whatever the share of defects."""
    if defective.all() or not defective.any():
        return Number(None, f"no {'normal' if defective.all() else 'defective'} image")
    return Number(float(right[defective].mean() + right[~defective].mean()) / 2)


def macro(classes: Sequence[dict[str, Number]]) -> dict[str, Any]:
    """Unweighted means over the classes that have the metric; `_classes` says how many these are."""
    means: dict[str, Any] = {}
    for name in METRICS:
        values = [found[name] for found in classes if found[name].value is not None]
        if values:
            mean = sum(each.value or 0.0 for each in values) / len(values)
            means |= _json({name: Number(mean, None, max(each.error for each in values))})
        else:
            reasons = dict.fromkeys(found[name].reason for found in classes)
            means |= _json({name: Number(None, "; ".join(reason for reason in reasons if reason) or "no class")})
        means[f"{name}_classes"] = len(values)
    return means


def _json(numbers: dict[str, Number]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, number in numbers.items():
        made[name] = number.value
        if number.value is None:
            made[f"{name}_reason"] = number.reason
        elif name in ("pixel_auroc", "pro"):
            made[f"{name}_error"] = number.error
    return made
