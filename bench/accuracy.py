"""Did training give a worse model than before? Runs of one experiment start from one seed: what differs is not chance."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bench.verify import MEASURED

Effect = Literal["worse", "better", "none shown"]
METRICS = ("image_auroc", "pixel_auroc", "pro", "accuracy", "balanced_accuracy", "lm_auroc")  # more is better
MODES = ("text", "bank")
Record = Mapping[str, Any]


class Shift(NamedTuple):
    """One number, medians over the runs of both sides. `allowed`: the largest difference that is not one."""

    name: str
    old: float
    new: float
    allowed: float
    effect: Effect


def final_loss(old: Sequence[Record], new: Sequence[Record]) -> Shift | None:
    """Total loss of the last step; relative difference against what rounding explains (verify.MEASURED).

    None where a side has no losses.
    """
    sides = [[record["losses"][-1]["total"] for record in side if record["losses"]] for side in (old, new)]
    if not all(sides):
        return None
    allowed = MEASURED[old[0]["config"]["workload"]["precision"]]
    limit = allowed.loss * allowed.growth(len(old[0]["losses"])) * abs(statistics.median(sides[0]))
    return _shift("final loss", sides[0], sides[1], limit, less_is_better=True)


def evaluations(old: Sequence[Record], new: Sequence[Record]) -> tuple[list[Shift], str | None]:
    """Every metric that both sides have, and why there is none.

    A difference is one where it exceeds 2 / images: what one test image does to a class that has as many normal as
    defective ones, when rounding carries it past all others.
    """
    sides = [[found for record in side if (found := record.get("evaluation"))] for side in (old, new)]
    if not all(sides):
        return [], "evaluated on one side only" if any(sides) else None
    images = {each["text"]["images"] for side in sides for each in side}
    if len(images) != 1:
        return [], f"evaluated on {' and '.join(map(str, sorted(images)))} images: not compared"
    made = []
    for mode in MODES:
        for metric in METRICS:
            values = [[each[mode]["macro"].get(metric) for each in side] for side in sides]
            if all(None not in side for side in values):
                made.append(_shift(f"{mode} {metric}", values[0], values[1], 2 / max(*images, 1), less_is_better=False))
    return made, None


def _shift(name: str, old: list[float], new: list[float], limit: float, *, less_is_better: bool) -> Shift:
    """Beyond the limit, and beyond what the runs of each side differ by among themselves: their ranges don't touch."""
    before, after = statistics.median(old), statistics.median(new)
    apart = min(new) > max(old) or max(new) < min(old)
    effect: Effect = "none shown"
    if apart and abs(after - before) > limit:
        effect = "worse" if (after > before) == less_is_better else "better"
    return Shift(name, before, after, limit, effect)
