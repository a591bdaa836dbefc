"""Constants of a network from runs over links of several known bandwidths: latency, share, bytes, what engines hide.

Least squares of (predicted - measured) / step over rows, with the time model itself: what is hidden is bounded by the compute there
is, which no linear model knows. Of the nominal bandwidth, headers of Ethernet, IP and TCP leave 1448 of 1514 bytes: a
prior for the share, which would else stand in for what is hidden; and latency has one. What engines hide is alike, as far as their
rows do not tell otherwise (partial pooling; Gelman & Hill 2007, chapter 12): two links alone would leave hidden and call_s of an engine
to the noise of two rows.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bench.plan.calibration.timed import Seen
from bench.plan.machines import hardware
from bench.plan.machines.machine import Machine
from bench.plan.time import prediction as time
from bench.plan.time.constants import Constants, Value

SHARE = (1448 / 1514, 0.03)  # mean and standard deviation of the prior
HALF = (0.5, 5.0)  # of what engines hide at the mean: next to nothing is known of it beforehand
ALIKE = 0.25  # standard deviation of an engine's share around that mean
LATENCY = (3e-5, 1e-4)  # seconds, TCP's: between two hosts a ring's messages and its calls can't be told apart
SCALES = {"latency_s": 1e-4, "byte_s": 1e-10, "call_s": 1e-3}  # so that every unknown is about 1
NOISE = 0.03  # of a row, relative to its step: what weighs the rows against the priors
MOST = 40  # rounds of the fit
NO_LINK = 1e6  # GB/s of a link that nothing shapes
Array = NDArray[np.float64]


def box(row: Seen) -> Machine:
    """The machine of a row: its hosts and their link. Peaks and inner links are another's: a fitted rate and channel replace them."""
    made = hardware.machine("epyc-7763", per_node=max(1, row.ranks // row.hosts), nics=1)
    if row.bandwidth is None:
        return made
    speed = NO_LINK if math.isinf(row.bandwidth) else row.bandwidth / 1e9
    return replace(made, network=replace(made.network, gb_s=speed))


def fit(rows: Sequence[Seen], constants: Constants) -> Constants:
    """`constants` with latency_s, byte_s, network_share, and hidden and call_s of each engine that ran between hosts."""
    engines = sorted({row.engine for row in rows})
    whole = [("latency_s", ""), ("byte_s", ""), ("network_share", "")]
    names = [*whole, *(("hidden", e) for e in engines), *(("call_s", e) for e in engines)]
    bounds = np.array([_bounds(name) for name, _ in names]).T
    begin = np.array([{"network_share": SHARE[0], "hidden": HALF[0]}.get(name, 0.1) for name, _ in names])
    bounds, begin = np.column_stack([bounds, (0.0, 1.0)]), np.append(begin, HALF[0])  # the last: the mean of hidden

    boxes = [box(row) for row in rows]

    def residuals(x: Array) -> Array:
        told = _with(constants, names, x)
        off = [(_shows(r, b, told) - (r.communication_s or 0.0)) / r.step_s for r, b in zip(rows, boxes, strict=True)]
        prior = [(x[0] * SCALES["latency_s"] - LATENCY[0]) / LATENCY[1], (x[2] - SHARE[0]) / SHARE[1]]
        alike = [(share - x[-1]) / ALIKE for share in x[3 : 3 + len(engines)]]
        return np.concatenate([np.array(off) / NOISE, prior, alike, [(x[-1] - HALF[0]) / HALF[1]]])

    done = least_squares(residuals, begin, bounds=(bounds[0], bounds[1]), loss="soft_l1", x_scale="jac", max_nfev=MOST)
    left = residuals(done.x)[: len(rows)] * NOISE
    free = max(1, len(rows) - len(names) + len(engines) + 2)
    noise = max(1.0, math.sqrt(float(left @ left) / free) / NOISE)
    errors = np.sqrt(np.maximum(np.diag(np.linalg.pinv(done.jac.T @ done.jac)), 0.0)) * noise
    return _with(constants, names, done.x, errors)


def _bounds(name: str) -> tuple[float, float]:
    return {"network_share": (0.2, 1.0), "hidden": (0.0, 1.0)}.get(name, (0.0, 1e4))


def _shows(row: Seen, machine: Machine, constants: Constants) -> float:
    """What shows of a row's exchange; waiting for late ranks is in it, as in the measurement."""
    found = time.parts(row.work, row.engine, row.ranks, machine, constants)
    return found["step"] - found["compute"] - found["host"]


def _with(constants: Constants, names: Sequence[tuple[str, str]], x: Array, errors: Array | None = None) -> Constants:
    found: dict[str, Any] = {"hidden": dict(constants.hidden), "call_s": dict(constants.call_s)}
    for at, (name, engine) in enumerate(names):
        scale = SCALES.get(name, 1.0)
        value = Value(float(x[at]) * scale, None if errors is None else float(errors[at]) * scale)
        if engine:
            found[name][engine] = value
        else:
            found[name] = value
    return replace(constants, **found)
