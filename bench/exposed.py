"""Communication that shows in a step's length, and what a step is made of, on reading, from the raw samples of `perturbed`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.stats import Estimate, Samples

PHASES = ("data", "forward", "backward", "optimizer", "communication")  # as a bar stacks them
_TAKEN = {"data": "data", "forward": "forward", "backward": "backward", "update": "optimizer"}
WITH, WITHOUT = "with_exchange", "without_exchange"
Record = Mapping[str, Any]


def exposed(records: Sequence[Record]) -> Estimate | None:
    """Seconds a step: median step with the exchange less that without, each step as long as on its slowest rank.

    A step with the exchange ends no earlier than the slowest rank's own work, so waiting for a slower rank is no part of it.
    Negative where it is smaller than the noise. None where a run did not measure it, or had one rank only: that one exchanges
    with nobody.
    """
    kinds = steps_by_kind(records)
    return None if kinds is None else stats.difference_interval(*kinds)


def share(records: Sequence[Record]) -> Estimate | None:
    """`exposed` over the median step with the exchange, of the same perturbed steps: 0.2 is a fifth of a step."""
    kinds, found = steps_by_kind(records), exposed(records)
    if kinds is None or found is None:
        return None
    whole = float(np.median(np.concatenate(kinds[0])))
    return Estimate(found.median / whole, found.low / whole, found.high / whole)


def phases(records: Sequence[Record]) -> dict[str, float] | None:
    """Seconds a step of each of PHASES: mean over ranks, median over steps. None where a run did not measure them.

    Data, forward, backward and optimizer are those of the steps without exchange; communication is all that the exchange
    adds to them, waiting for slower ranks included, and 0 where that is less than nothing. One rank has nobody to exchange
    with: both kinds of step are one kind, and nothing is communication.
    """
    if not _all_have(records, "phases"):
        return None
    within = {kind: {name: _mean(records, kind, name) for name in _TAKEN} for kind in (WITH, WITHOUT)}
    if all(len(record["phases"]["ranks"]) == 1 for record in records):
        both = {name: np.concatenate([within[kind][name] for kind in (WITH, WITHOUT)]) for name in _TAKEN}
        return {_TAKEN[name]: float(np.median(values)) for name, values in both.items()} | {"communication": 0.0}
    own = {_TAKEN[name]: float(np.median(values)) for name, values in within[WITHOUT].items()}
    whole = float(np.median(np.sum(list(within[WITH].values()), axis=0)))
    return own | {"communication": max(0.0, whole - sum(own.values()))}


def _all_have(records: Sequence[Record], field: str) -> bool:
    return bool(records) and all(record.get(field) for record in records)


def steps_by_kind(records: Sequence[Record]) -> tuple[list[Samples], list[Samples]] | None:
    """Steps with and without exchange of each run, on the slowest rank, of runs that took equally many."""
    if not _all_have(records, "exposed"):
        return None
    ranks = [record["exposed"]["ranks"] for record in records]
    if any(len(run) == 1 for run in ranks):
        return None
    found = [[stats.slowest([{"step_s": r[kind]["step"]} for r in run]) for run in ranks] for kind in (WITH, WITHOUT)]
    least = min(each.size for kind in found for each in kind)
    with_, without = ([each[:least] for each in kind] for kind in found)
    return with_, without


def _mean(records: Sequence[Record], kind: str, name: str) -> NDArray[np.float64]:
    """Over ranks, one value a step, all runs in a row."""
    return np.concatenate([np.mean([rank[kind][name] for rank in r["phases"]["ranks"]], axis=0) for r in records])
