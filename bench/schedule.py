"""The learning rate of each optimizer step, as pure functions of its number."""

from math import log

from model.variants import warmup_steps

KINDS = ("constant", "warmup_decay", "published")


def lr_at(step: int, total: int, *, peak: float, warmup: float = 0.1, kind: str = "constant") -> float:
    """Learning rate of optimizer step `step`, counted from 0, of `total`; `warmup` is a share of them.

    constant: `peak`. warmup_decay: up in equal parts, from peak / W to peak over W steps, then down to 0 at `total`.
    published: DeepSpeed's WarmupDecayLR as it ran. Raises ValueError for another kind, or numbers that make no sense.
    """
    if step < 0 or total < 1:
        raise ValueError(f"step {step} of {total}: steps are counted from 0, and there must be at least one")
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is {warmup}; take a share of the steps, from 0 to 1")
    if kind == "constant":
        return peak
    if kind == "warmup_decay":
        rising = max(1, int(total * warmup))
        return peak * max(0.0, min((step + 1) / rising, (total - step) / max(1, total - rising)))
    if kind == "published":
        return peak * _published(step, total, warmup_steps(total, warmup))
    raise ValueError(f"unknown schedule {kind!r}; there are: {', '.join(KINDS)}")


def _published(step: int, total: int, rising: int) -> float:
    """WarmupDecayLR's share of the peak: logarithmic up, linear down.

    The scheduler moves after each step and was not asked before the first: step 0 runs at the optimizer's own rate,
    which is the peak, and step 1 at the scheduler's first value, log(1) = 0.
    """
    if step == 0:
        return 1.0
    moved = step - 1
    if moved < rising:
        return log(moved + 1) / log(rising)
    return max(0.0, (total - moved) / max(1, total - rising))
