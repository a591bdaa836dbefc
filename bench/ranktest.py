"""The rank test behind the word `faster`, and what it can see: p, Holm's correction, smallest p, detectable difference."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

ALPHA, POWER = 0.05, 0.8
REARRANGED = 20_000  # all are tried where runs tie
EXACT = 1_000  # pairs of runs up to which the distribution is exact; beyond, the normal one is as good
FEW = 20  # repeats up to which the detectable difference is simulated
TRIALS, SEED = 10_000, 0


def p_value(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided Mann-Whitney U test (1947) of two sets of independent values, one a run.

    Exact up to some 30 runs each; of few runs that tie by all rearrangements, where the normal approximation is far too
    small (one run among n + 1 can have any of their places); else by that approximation.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.concatenate([one, other])
    if np.ptp(both) == 0:
        return 1.0
    tied = np.unique(both).size < both.size
    method: Any = "exact" if one.size * other.size <= EXACT else "asymptotic"
    if tied and min(one.size, other.size) == 1:
        lone = both[0 if one.size == 1 else -1]
        return min(1.0, 2 * float(min(np.mean(both <= lone), np.mean(both >= lone))))
    if tied:
        every = math.comb(both.size, one.size) <= REARRANGED
        method = scipy_stats.PermutationMethod(n_resamples=REARRANGED) if every else "asymptotic"
    return float(scipy_stats.mannwhitneyu(one, other, method=method).pvalue)


def holm(values: Sequence[float]) -> NDArray[np.float64]:
    """p values of a family, corrected so that one false `different` among all has at most the stated chance (Holm 1979)."""
    given = np.asarray(values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    steps = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def attainable(first: int, second: int) -> float:
    """Smallest p of so many runs: every run of one engine below every run of the other. 3 and 3: 0.1; 4: 0.029; 5: 0.008."""
    return _p_of(0, first, second)


def needed(pairs: int) -> int:
    """Repeats from which a difference can be shown at all in a family of so many pairs."""
    return next(count for count in range(2, 1000) if attainable(count, count) * pairs < ALPHA)


def detectable(first: int, second: int, deviation: float, pairs: int) -> float | None:
    """Minimum detectable difference: the share by which one engine must be slower to be found with a power of 80 %.

    first, second: repeats; deviation: standard deviation, between runs, of the logarithm of a run's median. The test's
    level is that of Bonferroni, 0.05 / pairs, which Holm's first step uses: no pair of the family needs more. Up to 20
    repeats by simulation of log-normal runs, since few ranks make the test coarse: U counts the runs of the slower
    engine that a run of the faster one exceeds, so a shift is found once the (c + 1)-th largest difference of two runs
    lies below it, c the largest U that the level allows. Beyond, Noether's formula (1987, JASA 82, equation 10) for
    normal shifts: (z_alpha/2 + z_power) sqrt(pi / 3) sqrt(1 / first + 1 / second) deviations.
    None where no difference of any size can be shown with so few repeats.
    """
    level = ALPHA / pairs
    if attainable(first, second) >= level:
        return None
    if max(first, second) > FEW:
        z = scipy_stats.norm.ppf([1 - level / 2, POWER]).sum()
        shift = float(z * math.sqrt(math.pi / 3 * (1 / first + 1 / second)))
    else:
        shift = _shift(first, second, level)
    return math.expm1(shift * deviation)


@cache
def _shift(first: int, second: int, level: float) -> float:
    """In standard deviations."""
    low, high = 0, first * second // 2  # p grows with U: the largest U with a p below the level
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _p_of(middle, first, second) < level else (low, middle)
    draw = np.random.default_rng(SEED)
    slower, faster = draw.normal(size=(TRIALS, first, 1)), draw.normal(size=(TRIALS, 1, second))
    apart = np.sort((faster - slower).reshape(TRIALS, -1), axis=1)[:, -1 - low]
    return float(np.quantile(apart, POWER))


@cache
def _p_of(statistic: int, first: int, second: int) -> float:
    """p of a given U, from values that have it: `first` values, each above so many of 0, 1, ... second - 1."""
    whole, rest = divmod(statistic, second)
    above = [second] * whole + [rest] * (rest > 0) + [0] * (first - whole - (rest > 0))
    return p_value([count - 0.5 + 1e-3 * index for index, count in enumerate(above)], range(second))
