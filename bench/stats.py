"""Statistics, computed on reading, from the raw samples that a record keeps. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000  # the ends of an interval then move by less than a twentieth of its width between seeds
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median with the ends of its bootstrap 95 % interval, in the unit of the samples."""

    median: float
    low: float
    high: float

    def over(self, numerator: float) -> "Estimate":
        """The estimate of `numerator` divided by the sampled quantity; its ends swap."""
        return Estimate(numerator / self.median, numerator / self.high, numerator / self.low)


def slowest(ranks: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Seconds of each step on the rank that was slowest in it: shape (steps,), the maximum over ranks.

    Raises ValueError where there is no rank or step, where ranks count different steps, or for a time that is no time.
    """
    times = [np.asarray(rank["step_s"], dtype=np.float64) for rank in ranks]
    if not times or not times[0].size:
        raise ValueError("no step was timed")
    if len({each.shape for each in times}) != 1:
        raise ValueError(f"the ranks timed different numbers of steps: {[each.size for each in times]}")
    stacked = np.stack(times)
    if not (np.isfinite(stacked).all() and (stacked > 0).all()):
        raise ValueError("a step time is not a positive number of seconds")
    return stacked.max(axis=0)


def median_interval(runs: Sequence[NDArray[np.float64]], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Median over all samples of all runs, with a bootstrap percentile interval of that median.

    Two levels, runs drawn with replacement and then samples within each (Davison & Hinkley 1997, section 3.8): the
    steps of one run share what was wrong with that run. With one run the interval knows the spread between its steps
    only. Raises ValueError where there are no samples, or not as many in each run.
    """
    if len({each.shape for each in runs}) != 1 or not runs[0].size:
        raise ValueError(f"a median needs as many samples of each run, at least one: {[each.size for each in runs]}")
    samples = np.stack(runs)  # (runs, samples)
    draw = np.random.default_rng(seed)
    run = draw.integers(samples.shape[0], size=(resamples, samples.shape[0], 1))
    step = draw.integers(samples.shape[1], size=(resamples, *samples.shape))
    medians = np.median(samples[run, step].reshape(resamples, -1), axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(float(np.median(samples)), float(low), float(high))


def step_s(records: Sequence[Mapping[str, Any]]) -> Estimate:
    """Seconds of an optimizer step: median, over steps of all given runs, of the slowest rank's time."""
    return median_interval([slowest(record["ranks"]) for record in records])


def throughput(records: Sequence[Mapping[str, Any]]) -> Estimate:
    """Samples a second: samples of the global batch (all ranks, all micro-batches) over the median slowest step.

    Raises ValueError where the runs have different global batches.
    """
    batches = {record["config"]["training"]["global_batch"] for record in records}
    if len(batches) != 1:
        raise ValueError(f"runs with different global batches {sorted(batches)} have no common throughput")
    return step_s(records).over(batches.pop())
