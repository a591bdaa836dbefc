"""Constants fitted to published throughputs: three a generation of devices, one an engine, nothing a row.

A generation has its efficiency, its share of the network and its loss a doubling of ranks; an engine the share of its exchange that it
hides. Least squares of ln(measured / predicted) with weak stated priors, so that a constant on which no row bears keeps the
prior. A source counts as ten rows at most: it can't outvote the others by its length.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bench.plan.machines.links import fabric
from bench.plan.time import prediction as time
from bench.plan.time.constants import Constants, Value
from bench.plan.validation.cases import Case

LINK_SHARE = Value(0.79)  # busbw 235 of 300 GB/s (A100), 367 of 450 (H200, ring): the sweeps of published.csv
MOST = 10  # rows for which a source counts
NOISE = 0.15  # of ln(measured / predicted): what weighs the rows against the priors


class Prior(NamedTuple):
    """Stated beforehand: mean, standard deviation, bounds."""

    mean: float
    deviation: float
    low: float
    high: float


PRIORS = {
    "efficiency": Prior(0.5, 0.2, 0.02, 1.0),
    "network_share": Prior(0.7, 0.3, 0.05, 1.0),
    "sync": Prior(0.02, 0.02, 0.0, 0.2),
    "hidden": Prior(0.5, 0.3, 0.0, 1.0),
}
GENERATION = ("efficiency", "network_share", "sync")
Name = tuple[str, str]  # (constant, generation or engine)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Constants by name with their standard errors, and the standard deviation of ln(measured / predicted) that is left."""

    values: Mapping[Name, Value]
    scatter: float

    def of(self, generation: str) -> Constants:
        """As the time model takes them."""
        own: dict[str, Any] = {
            name: self.values.get((name, generation), Value(PRIORS[name].mean)) for name in GENERATION
        }
        hidden = {engine: value for (name, engine), value in self.values.items() if name == "hidden"}
        return Constants(
            source="published throughputs", link_share=LINK_SHARE, hidden=hidden, scatter=self.scatter, **own
        )

    def predict(self, case: Case) -> float:
        """Seconds a step."""
        return _seconds(case, *(self.values.get(name, Value(PRIORS[name[0]].mean)).value for name in names_of(case)))


def names_of(case: Case) -> tuple[Name, ...]:
    """The constants on which a case bears."""
    return (*((name, case.generation) for name in GENERATION), ("hidden", case.engine))


def fit(cases: Sequence[Case], start: Mapping[Name, Value] | None = None) -> Fit:
    """To the cases that may judge. `start`: constants to begin from."""
    judged = [case for case in cases if case.apart is None]
    names = sorted({name for case in judged for name in names_of(case)})
    priors = [PRIORS[name] for name, _ in names]
    at = {name: index for index, name in enumerate(names)}
    counts = Counter(case.source for case in judged)
    weights = np.array([math.sqrt(min(1.0, MOST / counts[case.source])) for case in judged]) / NOISE
    touched = [[at[name] for name in names_of(case)] for case in judged]

    def logs(x: Array) -> Array:
        return np.array(
            [math.log(case.seconds / _seconds(case, *x[own])) for case, own in zip(judged, touched, strict=True)]
        )

    def residuals(x: Array) -> Array:
        prior = [(value - p.mean) / p.deviation for value, p in zip(x, priors, strict=True)]
        return np.concatenate([weights * logs(x), prior])

    def jacobian(x: Array) -> Array:
        found = np.zeros((len(judged) + len(names), len(names)))
        for row, (case, own) in enumerate(zip(judged, touched, strict=True)):
            here = list(x[own])
            base = math.log(_seconds(case, *here))
            for place, column in enumerate(own):
                step = 1e-5 if here[place] + 1e-5 <= priors[column].high else -1e-5
                moved = [value + step * (i == place) for i, value in enumerate(here)]
                found[row, column] += weights[row] * (base - math.log(_seconds(case, *moved))) / step
        found[len(judged) :] = np.diag([1 / p.deviation for p in priors])
        return found

    begin = np.array([(start or {}).get(name, Value(PRIORS[name[0]].mean)).value for name in names])
    bounds = (np.array([p.low for p in priors]), np.array([p.high for p in priors]))
    begin = np.clip(begin, bounds[0] + 1e-6, bounds[1] - 1e-6)
    done = least_squares(residuals, begin, jac=jacobian, bounds=bounds, loss="soft_l1", x_scale="jac", max_nfev=60)
    left = logs(done.x)
    scatter = float(np.sqrt(np.average(left**2, weights=weights**2)))
    errors = np.sqrt(np.diag(np.linalg.inv(done.jac.T @ done.jac))) * max(1.0, scatter / NOISE)
    values = {name: Value(float(v), float(e)) for name, v, e in zip(names, done.x, errors, strict=True)}
    return Fit(values, scatter)


@lru_cache(maxsize=200_000)
def _seconds(case: Case, efficiency: float, share: float, sync: float, hidden: float) -> float:
    """One case's step. An anchored one takes for compute what its anchor's step leaves, FLOP for FLOP."""
    if case.anchor is None:
        forward, backward = _compute(case, efficiency)
    else:
        first = case.anchor
        per_flop = _left(first, share, sync, hidden) / (first.work.forward_flops + first.work.backward_flops)
        forward, backward = per_flop * case.work.forward_flops, per_flop * case.work.backward_flops
    exposed = time.shown(_taken(case, share), forward, backward, hidden)
    return (forward + backward + exposed) * _late(case, sync)


def _compute(case: Case, efficiency: float) -> tuple[float, float]:
    constants = Constants(source="", efficiency=Value(efficiency))
    return time.passes(case.work, case.machine, constants)


def _left(first: Case, share: float, sync: float, hidden: float) -> float:
    """Compute of a step of known length, at least a twentieth of it: `time.shown` solved for compute, where it is long enough to
    hide all that the engine hides, and where it is not."""
    busy, taken = first.seconds / _late(first, sync), _taken(first, share)
    forward = first.work.forward_flops / (first.work.forward_flops + first.work.backward_flops)
    under, room = taken["backward"] + taken["pass"], 1.0 if taken["pass"] else 1 - forward
    found = busy - taken["after"] - (1 - hidden) * under
    if room * found < hidden * under:
        found = (busy - taken["after"] - under) / (1 - room) if room < 1 else hidden * under
    return min(max(found, 0.05 * busy), busy)


@lru_cache(maxsize=50_000)
def _taken(case: Case, share: float) -> Mapping[str, float]:
    over = fabric(case.machine, share=LINK_SHARE.value, network_share=share)
    return time.communication(case.work, case.engine, case.ranks, over)


def _late(case: Case, sync: float) -> float:
    return 1 + sync * math.log2(case.ranks) / math.sqrt(case.work.accumulation)
