"""alpha, beta and gamma of a channel from measured collectives, by least squares of relative errors."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from bench.config import ConfigError
from bench.plan.machines.links import Channel, Line
from bench.plan.time.collective_cost import seconds

Array = NDArray[np.float64]


class Point(NamedTuple):
    """One measured collective: bytes of the whole vector, seconds on the slowest rank."""

    collective: str
    algorithm: str
    ranks: int
    size: float
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A channel, the standard errors of its lines, and the relative errors that are left, median and worst."""

    channel: Channel
    errors: tuple[Line, ...]
    median: float
    worst: float


def fit(points: Sequence[Point], regimes: int = 1) -> Fitted:
    """The best `regimes` lines over neighbouring sizes; of each message the fastest counts. gamma is 0 where no collective that
    adds is beside one that does not: it can't be told from beta.

    Raises ConfigError for fewer than three points a regime.
    """
    known = sorted((point for point in points if point.ranks > 1 and point.size > 0), key=lambda point: point.size)
    if len(known) < 3 * regimes:
        raise ConfigError(f"{len(known)} measured collectives; {regimes} regimes need at least {3 * regimes}")
    both = {point.collective == "all-gather" or point.collective == "broadcast" for point in known} == {True, False}
    best: Fitted | None = None
    for cuts in itertools.combinations(range(3, len(known) - 2), regimes - 1):
        lines, errors = zip(*(_line(part, both) for part in _parts(known, cuts)), strict=True)
        channel = Channel(tuple(lines))
        off = relative(channel, known)
        if best is None or np.median(off) + 0.2 * np.max(off) < best.median + 0.2 * best.worst:
            best = Fitted(channel, tuple(errors), float(np.median(off)), float(np.max(off)))
    assert best is not None
    return best


def relative(channel: Channel, points: Sequence[Point]) -> Array:
    """|predicted - measured| / measured of each point."""
    return np.array([abs(seconds(p.collective, p.algorithm, p.ranks, p.size, channel) / p.seconds - 1) for p in points])


def _parts(points: Sequence[Point], cuts: Sequence[int]) -> list[Sequence[Point]]:
    ends = [0, *cuts, len(points)]
    return [points[a:b] for a, b in itertools.pairwise(ends)]


def _line(points: Sequence[Point], both: bool) -> tuple[Line, Line]:
    """A line and its standard errors: the formulas are linear in alpha, beta, gamma, so unit lines give their factors."""
    factors = np.array([_factors(point) for point in points])[:, : 3 if both else 2]
    scaled = factors / np.array([[point.seconds] for point in points])
    size = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    found, _ = nnls(scaled / size, np.ones(len(points)))
    left = scaled / size @ found - 1
    free = max(1, len(points) - scaled.shape[1])
    spread = np.linalg.pinv((scaled / size).T @ (scaled / size)) * float(left @ left) / free
    values, errors = found / size, np.sqrt(np.maximum(np.diag(spread), 0)) / size
    if values[0] + values[1] == 0:
        raise ConfigError("the measured collectives take no time that grows with messages or bytes")
    return _made(values), _made(np.maximum(errors, 1e-30))


def _made(values: Array) -> Line:
    return Line(*(float(value) for value in values))


def _factors(point: Point) -> tuple[float, float, float]:
    where = (point.collective, point.algorithm, point.ranks, point.size)
    alone = seconds(*where, Channel((Line(1, 0),)))
    return alone, seconds(*where, Channel((Line(0, 1),))), seconds(*where, Channel((Line(1, 0, 1),))) - alone
