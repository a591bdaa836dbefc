"""Which engine, why, and where the order changes: words and numbers from predictions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.config import ConfigError
from bench.plan.time.prediction import Prediction

HOUR = 3600.0
# Fewer moving parts first: where two can't be told apart, the first is taken.
SIMPLEST = ("ddp", "zero-0", "horovod", "ring", "fsdp", "zero-1", "zero-2", "zero-3")
SAME = 0.03  # relative difference of step times below which no order is claimed


@dataclass(frozen=True)
class Option:
    """One engine at one number of ranks. `memory`: bytes a rank at the peak; `free`: bytes that its device has for it."""

    time: Prediction
    memory: float
    free: float

    @property
    def fits(self) -> bool:
        return self.memory <= self.free


@dataclass(frozen=True)
class Crossing:
    """Up to `below` ranks `before` is faster, from `above` on `after`."""

    before: str
    after: str
    below: int
    above: int

    def __str__(self) -> str:
        return f"{self.before} is faster up to {self.below} ranks, {self.after} from {self.above} on"


def cost(of: Prediction, price_per_hour: float) -> float:
    """Of a million samples, at a price of one device and hour."""
    return of.ranks * price_per_hour * of.step_s / HOUR / of.samples * 1e6


def energy(of: Prediction, watts: float) -> float:
    """Joules a sample at `watts` of one device, the whole step long: its limit is an upper bound, hosts and switches left out."""
    return of.ranks * watts * of.step_s / of.samples


def crossings(curves: Mapping[str, Sequence[Prediction]]) -> list[Crossing]:
    """Where the order of two engines' throughput turns, between neighbouring numbers of ranks that both have.

    Differences below SAME are no order: a pair that only touches does not cross.
    """
    names, found = list(curves), []
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            one, two = ({each.ranks: each for each in curves[name]} for name in (first, second))
            last: tuple[int, int] | None = None  # (ranks, which is faster)
            for ranks in sorted(set(one) & set(two)):
                ratio = math.log(one[ranks].samples_per_s / two[ranks].samples_per_s)
                if abs(ratio) < SAME:
                    continue
                sign = 1 if ratio > 0 else -1
                if last is not None and sign != last[1]:
                    before, after = (first, second) if last[1] > 0 else (second, first)
                    found.append(Crossing(before, after, last[0], ranks))
                last = (ranks, sign)
    return found


def best(options: Sequence[Option]) -> Option | None:
    """The fastest that fits; of those that can't be told from it, the simplest. None: nothing fits."""
    fitting = [option for option in options if option.fits]
    if not fitting:
        return None
    fastest = max(fitting, key=lambda option: option.time.samples_per_s)
    near = [o for o in fitting if o.time.samples_per_s >= fastest.time.samples_per_s * (1 - SAME)]
    return min(near, key=lambda option: (option.time.ranks, simplicity(option.time.engine)))


def sentence(options: Sequence[Option]) -> str:
    """The engine to take, with the reason. `options`: engines at one number of ranks. Raises ConfigError for none."""
    if not options:
        raise ConfigError("no engine to choose from; name some with --engines")
    chosen, ranks = best(options), options[0].time.ranks
    if chosen is None:
        least = min(options, key=lambda option: option.memory / option.free)
        return (
            f"on {ranks} ranks nothing fits: {least.time.engine} comes nearest with {least.memory / 2**30:.1f} of "
            f"{least.free / 2**30:.1f} GiB; take more ranks, a smaller micro-batch, or recompute activations"
        )
    name, others = chosen.time.engine, [option for option in options if option is not chosen]
    text = f"on {ranks} ranks take {name}: {chosen.time.why}"
    rivals = [option for option in others if option.fits]
    if not rivals:
        text += f"; nothing else fits {chosen.free / 2**30:.0f} GiB" if others else ""
    else:
        second = max(rivals, key=lambda option: option.time.samples_per_s)
        ratio = chosen.time.samples_per_s / second.time.samples_per_s
        if abs(math.log(ratio)) < SAME:
            text += f"; {second.time.engine} is within {SAME:.0%} of it, and has more parts"
        else:
            sure = chosen.time.high < second.time.low
            text += f"; {ratio:.2f} times the throughput of {second.time.engine}, {'surely' if sure else 'within the interval'}"
    simpler = [o for o in others if not o.fits and simplicity(o.time.engine) < simplicity(name)]
    if simpler:
        text += f"; {', '.join(option.time.engine for option in simpler)} would not fit"
    return text + (f" (beyond what was calibrated: {'; '.join(chosen.time.beyond)})" if chosen.time.beyond else "")


def simplicity(engine: str) -> int:
    """0 for the engine with the fewest moving parts."""
    return SIMPLEST.index(engine) if engine in SIMPLEST else len(SIMPLEST)
