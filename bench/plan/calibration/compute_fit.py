"""Rate of a rank, contention, cost of a micro-batch and host time, from the part of each row's step that no exchange adds to."""

from collections.abc import Sequence

import numpy as np

from bench.config import ConfigError
from bench.plan.calibration import linear
from bench.plan.calibration.timed import Seen
from bench.plan.time.constants import Value, busy


def contention(rows: Sequence[Seen], cores: int) -> Value:
    """The least by which an engine's own time on several ranks is longer than what one plain process takes explains."""
    one = [row for row in rows if row.ranks == 1 and row.engine == "single"] or [row for row in rows if row.ranks == 1]
    flop_s, pass_s = alone(one)
    longer: dict[str, list[float]] = {}
    for row in (each for each in rows if each.ranks > 1 and each.communication_s is not None):
        turns = max(1.0, row.ranks / cores)
        left = row.own_s - turns * row.work.accumulation * pass_s
        longer.setdefault(row.engine, []).append((left / (turns * _flops(row) * flop_s) - 1) / busy(row.ranks, cores))
    return Value(max(0.0, min((float(np.median(each)) for each in longer.values()), default=0.0)))


def alone(one: Sequence[Seen]) -> tuple[float, float]:
    """(seconds a FLOP, seconds a micro-batch whatever its size) of ranks that run alone; the second is 0 where it can't be told."""
    if not cut_differently(one):
        return float(np.median([row.own_s / _flops(row) for row in one])), 0.0
    table = np.array([[_flops(row), row.work.accumulation] for row in one])
    flop_s, pass_s = linear.solve(table, np.array([row.own_s for row in one])).values
    return flop_s.value, pass_s.value


def cut_differently(rows: Sequence[Seen]) -> bool:
    """Whether runs of one rank and one engine cut one batch into different numbers of micro-batches."""
    cuts: dict[tuple[str, int, int], set[int]] = {}
    for row in (each for each in rows if each.ranks == 1):
        # not by FLOPs: texts are padded to the longest of their micro-batch, so another cut has a few more
        batch = row.engine, row.work.samples, int(row.work.cost["gradient_bytes"])
        cuts.setdefault(batch, set()).add(row.work.accumulation)
    return any(len(each) > 1 for each in cuts.values())


def _flops(row: Seen) -> float:
    return row.work.forward_flops + row.work.backward_flops


def own(rows: Sequence[Seen], cores: int, taken: Value | None) -> tuple[dict[tuple[str, str], Value], float]:
    """rate, contention (but where it is `taken`), pass_s where it can be told, host_s by engine; and the standard deviation of the
    relative errors that are left."""
    usable = [row for row in rows if row.communication_s is not None]
    engines = sorted({row.engine for row in usable} - {"single"})
    crowded = taken is None and cores > 1 and any(row.ranks > 1 for row in usable)
    cut = cut_differently(usable)
    names = [("rate", ""), *([("contention", "")] if crowded else []), *([("pass_s", "")] if cut else [])]
    names += [("host_s", engine) for engine in engines]
    flops = [_flops(row) * (1 + taken.value * busy(row.ranks, cores) if taken else 1.0) for row in usable]
    table = np.zeros((len(usable), len(names)))
    for at, (row, each) in enumerate(zip(usable, flops, strict=True)):
        turns = max(1.0, row.ranks / cores) if cores else 1.0
        table[at, 0] = turns * each
        if crowded:
            table[at, 1] = turns * each * busy(row.ranks, cores)
        if cut:
            table[at, names.index(("pass_s", ""))] = turns * row.work.accumulation
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
