"""Published throughputs predicted with constants that were fitted to other sources only: rows, families, the order of engines.

Every source is left out once: its rows are predicted by constants fitted to all the others (three a generation of devices, one an
engine; bench/plan/validation/time_fit.py), so that no row has a say in its
own prediction. Rows set apart are predicted and shown, not counted.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.plan.calibration import channel_fit
from bench.plan.time.constants import Constants
from bench.plan.time.prediction import Z95
from bench.plan.validation import time_fit
from bench.plan.validation.cases import Case, all_cases
from bench.plan.validation.published import chosen

NOISE = 0.05  # relative difference below which two published or predicted throughputs have no order (Aach et al.: 5 % between runs)
TARGET = 0.15  # median error
ORDER = 0.9  # share of comparisons


@dataclass(frozen=True)
class Held:
    """A case and its step as predicted without its source. Seconds."""

    case: Case
    predicted: float

    @property
    def error(self) -> float:
        """Of the throughput: 0.1 is predicted a tenth too fast."""
        return self.case.seconds / self.predicted - 1

    @property
    def rate(self) -> float:
        """Samples a second, predicted."""
        return self.case.ranks * self.case.work.samples / self.predicted

    @property
    def published(self) -> float:
        """The same, as published."""
        return self.case.ranks * self.case.work.samples / self.case.seconds


@dataclass(frozen=True)
class Pair:
    """Two engines on the same work and ranks. Ratios of throughput, first over second."""

    first: Held
    second: Held

    @property
    def published(self) -> float:
        return self.first.published / self.second.published

    @property
    def predicted(self) -> float:
        return self.first.rate / self.second.rate

    @property
    def right(self) -> bool:
        """The predicted order, however close, is the published one."""
        return (self.published > 1) == (self.predicted > 1)

    @property
    def claimed(self) -> bool:
        """The prediction sees a difference of its own."""
        return abs(math.log(self.predicted)) >= NOISE


@dataclass(frozen=True)
class Outcome:
    """Predictions of every case, those set apart among them; fits: without each source, and of all."""

    held: tuple[Held, ...]
    fits: Mapping[str, time_fit.Fit]
    whole: time_fit.Fit

    @property
    def counted(self) -> list[Held]:
        return [each for each in self.held if each.case.apart is None]

    @property
    def median(self) -> float:
        return statistics.median(abs(each.error) for each in self.counted)


def judge(cases: Sequence[Case] | None = None) -> Outcome:
    """Leave every source out once. A few seconds."""
    known = list(all_cases() if cases is None else cases)
    whole = time_fit.fit(known)
    fits = {
        source: time_fit.fit([case for case in known if case.source != source], whole.values)
        for source in sorted({case.source for case in known})
    }
    return Outcome(tuple(Held(case, fits[case.source].predict(case)) for case in known), fits, whole)


def pairs(held: Sequence[Held]) -> list[Pair]:
    """Different engines of one source on the same work and ranks that differ by more than NOISE as published; rows that count."""
    able = [each for each in held if each.case.apart is None and each.case.like]
    found = []
    for one, two in itertools.combinations(able, 2):
        a, b = one.case, two.case
        if (a.source, a.ranks, a.like) == (b.source, b.ranks, b.like) and a.engine != b.engine:
            pair = Pair(one, two)
            if abs(math.log(pair.published)) >= NOISE:
                found.append(pair)
    return found


def said(found: Outcome) -> list[str]:
    """What is reached of what was aimed at, misses by name."""
    counted, compared = found.counted, pairs(found.held)
    worst = max(counted, key=lambda each: abs(each.error))
    scaled = [abs(each.error) for each in counted if each.case.anchor is not None]
    alone = [abs(each.error) for each in counted if each.case.anchor is None]
    sources = sorted({each.case.source for each in counted})
    each_source = [statistics.median(abs(h.error) for h in counted if h.case.source == source) for source in sources]
    right, claimed = sum(pair.right for pair in compared), [pair for pair in compared if pair.claimed]
    return [
        f"throughput, {len(counted)} rows of {len(sources)} sources, each predicted without its source: median error "
        f"{found.median:.1%} ({_met(found.median <= TARGET)}: {TARGET:.0%} asked), worst {worst.error:+.0%} ({worst.case.id})",
        f"  of them {len(scaled)} from a smaller row of their own series: {statistics.median(scaled):.1%}; {len(alone)} from FLOPs "
        f"alone: {statistics.median(alone):.1%}; median over sources of their medians: {statistics.median(each_source):.1%}",
        f"order of engines: right in {right} of {len(compared)} comparisons ({_met(right >= ORDER * len(compared))}: "
        f"{ORDER:.0%} asked); where the prediction itself sees {NOISE:.0%} or more between them, in "
        f"{sum(pair.right for pair in claimed)} of {len(claimed)}",
    ]


def _met(holds: bool) -> str:
    return "met" if holds else "missed"


def sweep(family: str, nodes: int | None) -> list[channel_fit.Point]:
    """A published sweep of all-reduces, smallest first: seconds from busbw."""
    found = []
    for row in chosen(family):
        ranks, size = int(row.conditions["gpus"]), float(row.conditions["bytes"])
        if nodes is None or row.conditions.get("nodes") == nodes:
            taken = 2 * (ranks - 1) / ranks * size / (float(row.value or 1) * 1e9)
            found.append(channel_fit.Point("all-reduce", "ring", ranks, size, taken))
    return sorted(found, key=lambda point: point.size)


def shipped(found: Outcome) -> dict[str, Constants]:
    """By generation, as data/constants.toml holds them: fitted to all sources, with the scatter that the rows show when they are
    left out: the interval that 95 in 100 of them lie in."""
    sets = {}
    for generation in sorted({each.case.generation for each in found.counted}):
        own = [each for each in found.counted if each.case.generation == generation]
        ranks = [each.case.ranks for each in own]
        sources = ", ".join(sorted({each.case.source for each in own}))
        scatter = float(np.quantile([abs(math.log(1 + each.error)) for each in own], 0.95)) / Z95
        sets[generation] = replace(
            found.whole.of(generation),
            source=f"{len(own)} published rows: {sources}",
            ranks=(min(ranks), max(ranks)),
            scatter=scatter,
        )
    return sets
