"""Estimates, computed on reading, from the raw samples that a record keeps. Pure functions; comparisons: pairwise.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000  # the ends of an interval then move by less than a twentieth of its width between seeds
DRAWS, FEWEST = 4_000_000, 200  # numbers drawn for one interval: with thousands of runs, resamples are fewer
CHUNK = 2_000_000  # of them at a time: 16 MB
CONFIDENCE = 0.95
FENCE = 1.5
Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A median with the ends of its bootstrap 95 % interval, in the unit of the samples."""

    median: float
    low: float
    high: float

    def over(self, numerator: float) -> "Estimate":
        """The estimate of `numerator` divided by the sampled quantity; its ends swap."""
        return Estimate(numerator / self.median, numerator / self.high, numerator / self.low)


def slowest(ranks: Sequence[Mapping[str, Any]]) -> Samples:
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


def stack(runs: Sequence[Samples]) -> Samples:
    """Shape (runs, samples of a run). Raises ValueError where there are no samples, or not as many in each run."""
    if len({each.shape for each in runs}) != 1 or not runs[0].size:
        raise ValueError(f"a median needs as many samples of each run, at least one: {[each.size for each in runs]}")
    return np.stack(runs)


def median_interval(runs: Sequence[Samples], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Median over all samples of all runs, with a bootstrap percentile interval of that median.

    Two levels, runs drawn with replacement and then samples within each (Davison & Hinkley 1997, section 3.8): the
    steps of one run share what was wrong with that run. With one run the interval knows the spread between its steps
    only. Raises ValueError where there are no samples, or not as many in each run.
    """
    samples = stack(runs)
    return _interval(float(np.median(samples)), _pooled(samples, (seed,), resamples))


def ratio_interval(
    first: Samples, second: Samples, *, paired: bool, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Ratio of the medians of two engines, each of shape (runs, samples of a run), with its bootstrap interval.

    paired: run i of both belongs to one round, and what was wrong with the machine in that round cancels: the median
    over rounds of the ratio of the run's medians; rounds are drawn with replacement, then samples within each run.
    Otherwise the ratio of the medians over all samples, runs and samples drawn for each engine on its own (two levels,
    as `median_interval`): steps of two runs are no pairs. A percentile interval of few runs is too narrow: where runs
    differ by more than their steps explain, simulated ones held the truth in 85 % (3 rounds), 93 % (5) and 95 % (10);
    where they differ by less, in 95 to 99 %. A verdict needs the rank test as well.
    Raises ValueError for pairs of unequal counts.
    """
    count = min(_count(each, resamples) for each in (first, second))
    if not paired:
        # Draws of their own: equal ones would pair the runs after all.
        ours, theirs = (_pooled(each, (seed, at), count) for at, each in enumerate((first, second)))
        return _interval(float(np.median(first) / np.median(second)), ours / theirs)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} runs of one engine and {len(second)} of the other are no pairs")
    rounds, rng = len(first), np.random.default_rng(seed)
    ours, theirs = (_run_medians(each, rng, count) for each in (first, second))
    drawn = rng.integers(rounds, size=(count, rounds))
    ratios = (
        ours[rng.integers(len(ours), size=drawn.shape), drawn]
        / theirs[rng.integers(len(theirs), size=drawn.shape), drawn]
    )
    found = np.median(np.median(first, axis=1) / np.median(second, axis=1))
    return _interval(float(found), np.median(ratios, axis=1))


def difference_interval(
    first: Sequence[Samples], second: Sequence[Samples], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Median of `first` less that of `second`, over all samples of all runs, in their unit; two kinds of sample of the same runs.

    Runs are drawn with replacement, each with both its kinds, since what was wrong with a run was wrong with both; then
    samples of each kind within it. Raises ValueError where there are no samples, or not as many in each run of a kind.
    """
    ours, theirs = stack(first), stack(second)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} runs of one kind and {len(theirs)} of the other are not the same runs")
    rng, runs = np.random.default_rng(seed), len(ours)
    count = min(_count(each, resamples) for each in (ours, theirs))
    run = rng.integers(runs, size=(count, runs, 1))

    def medians(samples: Samples) -> Samples:
        place = rng.integers(samples.shape[1], size=(count, runs, samples.shape[1]))
        drawn: Samples = np.median(samples[run, place].reshape(count, -1), axis=1)
        return drawn

    return _interval(float(np.median(ours) - np.median(theirs)), medians(ours) - medians(theirs))


def outliers(samples: Samples) -> int:
    """Steps outside Tukey's fences (1977, section 2D) of their own run: 1.5 interquartile ranges beyond the quartiles.

    `samples` has shape (runs, steps). They are counted and kept: a hiccup is part of what a step costs.
    """
    low, high = np.quantile(samples, (0.25, 0.75), axis=1, keepdims=True)
    reach = FENCE * (high - low)
    return int(((samples < low - reach) | (samples > high + reach)).sum())


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


def _interval(median: float, drawn: Samples) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(median, float(low), float(high))


def _count(samples: Samples, resamples: int) -> int:
    return min(resamples, max(FEWEST, DRAWS // samples.size))


def _pooled(samples: Samples, seed: tuple[int, ...], resamples: int) -> Samples:
    """Medians over all samples, shape (resamples,): runs drawn with replacement, then samples within each.

    The samples are put in order once; a resample's median then is where its counts, added up in that order, pass half:
    with many runs, always near the middle, so that only there each sample is added by itself.
    """
    runs, steps = samples.shape
    flat = samples.ravel()
    order, total = np.argsort(flat), flat.size
    counts = _counts(runs, steps, seed, _count(samples, resamples))
    reach = int(2.5 * total / np.sqrt(runs))  # five standard deviations of its place, if runs share nothing
    made: list[Samples] = []
    width = max(1, CHUNK // total)
    for at in range(0, counts.shape[1], width):
        drawn = counts[:, at : at + width]
        low, high = _middles(drawn, order, max(0, total // 2 - reach), total // 2 + reach)
        made.append((flat[order[low]] + flat[order[high]]) / 2)
    return np.concatenate(made)


def _middles(
    counts: NDArray[Any], order: NDArray[np.intp], begin: int, end: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places, among samples in `order`, of the two middle ones of each resample; first looked for from `begin` to `end`."""
    total = len(order)
    below = counts[order[:begin]].sum(axis=0, dtype=counts.dtype)
    passed = below + np.cumsum(counts[order[begin:end]], axis=0, dtype=counts.dtype)
    if (begin and below.max() > (total - 1) // 2) or (end < total and passed[-1].min() <= total // 2):
        return _middles(counts, order, 0, total)
    low, high = (begin + (passed <= place).sum(axis=0) for place in ((total - 1) // 2, total // 2))
    return low, high


@lru_cache(maxsize=8)  # rows have as many runs and steps as each other, most of the time
def _counts(runs: int, steps: int, seed: tuple[int, ...], resamples: int) -> NDArray[np.unsignedinteger[Any]]:
    """How often each sample is drawn in each resample: shape (runs * steps, resamples)."""
    rng, total = np.random.default_rng(seed), runs * steps
    kept = np.empty((total, resamples), np.min_scalar_type(total))
    width = max(1, CHUNK // total)
    for at in range(0, resamples, width):
        size = min(width, resamples - at)
        run = rng.integers(runs, size=(size, runs, 1))
        drawn = run * steps + rng.integers(steps, size=(size, runs, steps))
        drawn += np.arange(size)[:, None, None] * total
        kept[:, at : at + size] = np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total).T
    return kept


def _run_medians(samples: Samples, rng: np.random.Generator, resamples: int) -> Samples:
    """Medians of each run with its samples drawn again: shape (some, runs), some thousand in all; picked from later."""
    runs, steps = samples.shape
    some = 1 if steps == 1 else max(50, resamples // runs)
    return np.median(samples[np.arange(runs)[:, None], rng.integers(steps, size=(some, runs, steps))], axis=2)
