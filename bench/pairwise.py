"""Which of two engines is faster, and whether that can be said at all: pairs of samples, one family a table."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import ranktest, stats
from bench.ranktest import ALPHA
from bench.stats import Estimate, Samples


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """All runs of one engine. `runs`: shape (runs, samples of a run), of one positive quantity, in the order of the runs."""

    label: str
    runs: Samples
    ranks: int = 1
    started: tuple[str, ...] = ()  # UTC, one a run; where it is not given, runs have no partners

    @property
    def medians(self) -> Samples:
        """Of each run: steps of one run are not independent, runs are."""
        return np.median(self.runs, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two samples compared. `ratio` is of the measured quantity (seconds, bytes), first over second."""

    first: Sample
    second: Sample
    ratio: Estimate
    paired: bool  # by rounds
    p: float  # Mann-Whitney on the medians of the runs
    holm: float  # corrected over the family
    attainable: float  # smallest corrected p that this many runs can give
    detectable: float | None  # share; None: none of any size

    @property
    def possible(self) -> bool:
        """Whether so few runs can show any difference."""
        return self.attainable < ALPHA

    @property
    def shown(self) -> bool:
        """Both: the corrected rank test, and an interval of the ratio that excludes 1."""
        return self.holm < ALPHA and not self.ratio.low <= 1.0 <= self.ratio.high

    @property
    def repeats(self) -> str:
        """Runs of both, as words."""
        counts = sorted({len(self.first.runs), len(self.second.runs)})
        return " and ".join(map(str, counts)) + (" repeat" if counts == [1] else " repeats")

    def verdict(self, less: str = "faster", more: str = "slower") -> str:
        """What may be said of the first: `less` or `more` of the quantity than the second, or that nothing may be."""
        if self.shown:
            return less if self.ratio.median < 1 else more
        return "no difference shown" if self.possible else f"no difference can be shown with {self.repeats}"


def times(records: Sequence[Mapping[str, Any]]) -> Sample:
    """Step times of the finished runs of one engine at one rank count. Raises ValueError where there is none."""
    ordered = sorted(records, key=lambda record: str(record["started"]))
    return Sample(
        label=ordered[0]["engine"]["label"] if ordered else "",
        ranks=ordered[0]["world"]["size"] if ordered else 0,
        runs=stats.stack([stats.slowest(record["ranks"]) for record in ordered]),
        started=tuple(str(record["started"]) for record in ordered),
    )


def interleaved(first: Sample, second: Sample) -> bool:
    """Whether run i of both is one round: as many runs, and every round begun before the next."""
    if not len(first.started) == len(second.started) >= 2:
        return False
    rounds = [sorted(pair) for pair in zip(first.started, second.started, strict=True)]
    return all(this[-1] < following[0] for this, following in itertools.pairwise(rounds))


def family(pairs: Sequence[tuple[Sample, Sample]]) -> list[Pair]:
    """Compare every pair; all of them are one family for Holm's correction."""
    values = [ranktest.p_value(one.medians, other.medians) for one, other in pairs]
    least = [ranktest.attainable(len(one.runs), len(other.runs)) for one, other in pairs]
    made = []
    for (one, other), p, corrected, smallest in zip(
        pairs, values, ranktest.holm(values), ranktest.holm(least), strict=True
    ):
        paired = interleaved(one, other)
        made.append(
            Pair(
                first=one,
                second=other,
                ratio=stats.ratio_interval(one.runs, other.runs, paired=paired),
                paired=paired,
                p=p,
                holm=float(corrected),
                attainable=float(smallest),
                detectable=ranktest.detectable(len(one.runs), len(other.runs), deviation(one, other), len(pairs)),
            )
        )
    return made


def deviation(*samples: Sample) -> float:
    """Standard deviation between runs of the logarithm of their medians, pooled over the samples; nan for single runs."""
    logs = [np.log(sample.medians) for sample in samples]
    freedom = sum(len(each) - 1 for each in logs)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in logs)
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")


def aa(records: Sequence[Mapping[str, Any]], repeats: int) -> list[Pair]:
    """A/A: the runs of one engine taken for two, `repeats` runs each, as often as there are runs for it.

    Runs are dealt in turn (A B B A A B ...), as interleaved rounds would. Each comparison is a family of its own: at most
    5 % of many may be `shown`. Raises ValueError where there are too few runs for one.
    """
    whole = times(records)
    size = 2 * repeats
    if len(whole.runs) < size:
        raise ValueError(f"{len(whole.runs)} runs are too few: an A/A comparison of {repeats} repeats needs {size}")
    made = []
    for begin in range(0, len(whole.runs) - size + 1, size):
        rounds = [(begin + at, begin + at + 1) for at in range(0, size, 2)]
        dealt = [each if index % 2 == 0 else each[::-1] for index, each in enumerate(rounds)]
        sides = [
            Sample(
                label=name,
                ranks=whole.ranks,
                runs=whole.runs[list(runs)],
                started=tuple(whole.started[i] for i in runs),
            )
            for name, runs in zip("AB", zip(*dealt, strict=True), strict=True)
        ]
        made += family([(sides[0], sides[1])])
    return made
