"""Rate of a rank, contention and host time, from the part of each row's step that no exchange adds to."""

from collections.abc import Sequence

import numpy as np

from bench.config import ConfigError
from bench.plan.calibration import linear
from bench.plan.calibration.timed import Seen
from bench.plan.time.constants import Value, busy


def contention(rows: Sequence[Seen], cores: int) -> Value:
    """The least by which an engine's own time on several ranks is longer than one plain process's rate explains."""
    one = [row for row in rows if row.ranks == 1 and row.engine == "single"] or [row for row in rows if row.ranks == 1]
    rate = float(np.median([_flops(row) / row.own_s for row in one]))
    longer: dict[str, list[float]] = {}
    for row in (each for each in rows if each.ranks > 1 and each.communication_s is not None):
        alone = _flops(row) / rate * max(1.0, row.ranks / cores)
        longer.setdefault(row.engine, []).append((row.own_s / alone - 1) / busy(row.ranks, cores))
    return Value(max(0.0, min((float(np.median(each)) for each in longer.values()), default=0.0)))


def _flops(row: Seen) -> float:
    return row.work.forward_flops + row.work.backward_flops


def own(rows: Sequence[Seen], cores: int, taken: Value | None) -> tuple[dict[tuple[str, str], Value], float]:
    """rate, contention (but where it is `taken`) and host_s by engine, and the standard deviation of the relative errors left."""
    usable = [row for row in rows if row.communication_s is not None]
    engines = sorted({row.engine for row in usable} - {"single"})
    crowded = taken is None and cores > 1 and any(row.ranks > 1 for row in usable)
    names = [("rate", ""), *([("contention", "")] if crowded else []), *(("host_s", engine) for engine in engines)]
    flops = [_flops(row) * (1 + taken.value * busy(row.ranks, cores) if taken else 1.0) for row in usable]
    table = np.zeros((len(usable), len(names)))
    for at, (row, each) in enumerate(zip(usable, flops, strict=True)):
        turns = max(1.0, row.ranks / cores) if cores else 1.0
        table[at, 0] = turns * each
        if crowded:
            table[at, 1] = turns * each * busy(row.ranks, cores)
        if row.engine != "single":
            table[at, names.index(("host_s", row.engine))] = turns
    found = linear.solve(table, np.array([row.own_s for row in usable]))
    values = dict(zip(names, found.values, strict=True))
    inverse = values["rate", ""]
    if not inverse.value > 0:
        raise ConfigError(
            "the records' steps do not grow with their FLOPs; calibrate with runs of one machine and one setting"
        )
    values["rate", ""] = Value(1 / inverse.value, (inverse.error or 0.0) / inverse.value**2)
    if crowded:
        slope = values["contention", ""]
        values["contention", ""] = Value(slope.value / inverse.value, (slope.error or 0.0) / inverse.value)
    return values, found.scatter
