"""Linear least squares of relative errors with values of 0 and above, and the standard error of each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from bench.config import ConfigError
from bench.plan.time.constants import Value

Array = NDArray[np.float64]
ROUNDS = 20  # of reweighting


@dataclass(frozen=True)
class Solved:
    """`scatter`: standard deviation of the relative errors that are left."""

    values: tuple[Value, ...]
    scatter: float


def solve(table: Array, measured: Array, *, of: Array | None = None, robust: bool = False) -> Solved:
    """Values x of `table` x = `measured`, of least squared relative error; `robust`: of least absolute relative error, by weights.
    `of`: what errors are relative to, above 0; `measured` itself where it is not given.

    Raises ConfigError where rows are fewer than columns, or columns can't be told apart: the constants would be invented.
    """
    whole = np.maximum(measured if of is None else of, 1e-300)
    scaled, target = table / whole[:, None], measured / whole
    size = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    scaled = scaled / size
    if len(scaled) < scaled.shape[1] or np.linalg.matrix_rank(scaled, tol=1e-6) < scaled.shape[1]:
        raise ConfigError(
            f"{len(scaled)} rows can't tell {scaled.shape[1]} constants apart; add runs of other ranks, engines or batches"
        )
    weights = np.ones(len(scaled))
    for _ in range(ROUNDS if robust else 1):
        found, _ = nnls(scaled * weights[:, None], target * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(scaled @ found - target), 1e-3)) if robust else weights
    left = scaled @ found - target
    free = max(1, len(scaled) - scaled.shape[1])
    spread = np.linalg.inv(scaled.T @ scaled) * float(left @ left) / free
    errors = np.sqrt(np.maximum(np.diag(spread), 0.0)) / size
    values = tuple(Value(float(v), float(e)) for v, e in zip(found / size, errors, strict=True))
    return Solved(values, float(np.sqrt(left @ left / free)))
