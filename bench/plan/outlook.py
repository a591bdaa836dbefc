"""What `ringzero plan` says of time: columns, the engine to take and why, where the order turns, what a budget buys."""

from collections.abc import Callable, Sequence

from bench.plan.budget import Budget, buys, said
from bench.plan.recommend import Option, crossings, sentence
from bench.plan.rows import MEMORY, Column, Row
from bench.plan.time.constants import Constants
from bench.plan.time.prediction import Prediction
from bench.plan.time.step import Timed, Untimed

BEYOND = "*"  # behind a step time that goes beyond what was calibrated


def _timed(cell: Callable[[Timed], str]) -> Callable[[Row], str]:
    return lambda row: cell(row.step) if isinstance(row.step, Timed) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _step(timed: Timed) -> str:
    return _number(1e3 * timed.prediction.step_s) + (BEYOND if timed.prediction.beyond else "")


def _interval(timed: Timed) -> str:
    return f"{_number(1e3 * timed.prediction.low)}–{_number(1e3 * timed.prediction.high)}"


TIME = [
    *MEMORY[:2],
    Column("step ms", _timed(_step)),
    Column("95 in 100", _timed(_interval)),
    Column("compute", _timed(lambda timed: _number(1e3 * timed.prediction.compute_s))),
    Column("exchange", _timed(lambda timed: _number(1e3 * timed.prediction.communication_s))),
    Column("shows", _timed(lambda timed: _number(1e3 * timed.prediction.exposed_s))),
    Column("samples/s", _timed(lambda timed: _number(timed.prediction.samples_per_s))),
    Column("efficiency", _timed(lambda timed: f"{timed.efficiency:.0%}")),
    Column("cost/M", _timed(lambda timed: _number(timed.cost))),
    Column("J/sample", _timed(lambda timed: _number(timed.joules))),
]


def options(made: Sequence[Row]) -> list[Option]:
    """Rows whose time is predicted."""
    return [Option(row.step.prediction, row.memory.peak, row.room) for row in made if isinstance(row.step, Timed)]


def lines(made: Sequence[Row], constants: Constants, limits: Budget | None, price: float | None) -> list[str]:
    """Below the table: what the numbers rest on, the engine to take, where curves cross, the budget."""
    known = options(made)
    found = [
        "ms: compute, exchange (all of it) and what shows of it; efficiency: a rank's throughput over one rank's, its batch the same; "
        f"cost/M: of a million samples; J/sample: at the devices' power limit. Constants: {constants.source}; the interval is "
        + ("stated wide" if constants.ranks[1] == 0 else "what holds 95 in 100 of such runs"),
    ]
    beyond = dict.fromkeys(why for option in known for why in option.time.beyond)
    found += [f"{BEYOND} {why}" for why in beyond]
    found += [
        f"- no time: {why}" for why in dict.fromkeys(row.step.reason for row in made if isinstance(row.step, Untimed))
    ]
    for ranks in dict.fromkeys(option.time.ranks for option in known):
        found.append(sentence([option for option in known if option.time.ranks == ranks]))
    curves: dict[str, list[Prediction]] = {}
    for option in known:
        if option.fits:  # who is faster where it can't run helps nobody
            curves.setdefault(option.time.engine, []).append(option.time)
    found += [str(each) for each in crossings(curves)]
    if limits is not None:
        found.append(said(buys(known, limits, price), limits))
    return found
