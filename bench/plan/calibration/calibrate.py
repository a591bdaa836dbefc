"""`ringzero plan calibrate results/`: the time model's constants for this machine, from a few runs and, where there is one, from a
`ringzero collectives` measurement. Linear least squares of relative errors; what the runs can't tell apart is said, not guessed.

Two equations a row (an engine at a number of ranks; median over its runs), the first without what communication adds:

    own           = turns x (FLOPs x (1 + contention x busy) / rate + micro-batches x pass_s + host_s)
    communication = turns x calls x call_s + (1 - hidden) x what the channel takes

Runs between hosts over links of several known bandwidths (a laboratory's) give the network's own constants: network_fit.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.config import ConfigError
from bench.plan.calibration import channel_fit, compute_fit, linear, network_fit
from bench.plan.calibration.timed import Seen
from bench.plan.machines.links import Channel, Fabric, Line
from bench.plan.time.constants import Constants, Value
from bench.plan.time.prediction import communication, crowded
from bench.plan.time.work import Exchange, exchanges

FULL = 0.98  # share of the compute beside an exchange that counts as all of it


@dataclass(frozen=True)
class Calibration:
    """Constants, the rows they were fitted to, and what could not be told."""

    constants: Constants
    rows: tuple[Seen, ...]
    notes: tuple[str, ...]
    channels: Mapping[str, channel_fit.Fitted]


def calibrate(
    rows: Sequence[Seen], *, cores: int, channels: Mapping[str, channel_fit.Fitted] | None = None, source: str
) -> Calibration:
    """Fit. `cores`: that all ranks share (0: each has a device of its own). `channels`: `intra`, `inter`, as measured.

    Raises ConfigError where there is no run of one rank, or none at all.
    """
    if not any(row.ranks == 1 for row in rows):
        raise ConfigError(
            "no run of one rank among the records: its step is what tells compute from communication; run one"
        )
    known, notes = dict(channels or {}), []
    lone = {row.engine for row in rows if row.ranks == 1}
    told = any(row.ranks > 1 and row.engine in lone for row in rows if row.communication_s is not None)
    taken = None if told or cores < 2 else compute_fit.contention(rows, cores)
    own, scales = compute_fit.own(rows, cores, taken)
    shared = {name: own.pop((name, "")) for name in ("rate", "contention", "pass_s") if (name, "") in own}
    if taken is not None:
        shared["contention"] = taken
        notes.append(
            "contention: no engine ran on one rank and on several; the one with the least host time is taken to have none"
        )
    if "pass_s" not in shared:
        notes.append(
            "pass_s: all runs of one rank cut their batch alike, so what a micro-batch costs whatever its size is in the rate and "
            "in contention; add runs of one rank with another --accumulation"
        )
    constants = Constants(
        source=source,
        rate=shared["rate"],
        contention=shared.get("contention", Value(0.0)),
        pass_s=shared.get("pass_s", Value(0.0)),
        cores=cores,
        host_s={engine: value for (_, engine), value in own.items()},
        channels={name: found.channel for name, found in known.items()},
        ranks=(min(row.ranks for row in rows), max(row.ranks for row in rows)),
        scatter=scales,
    )
    talked = [row for row in rows if row.ranks > 1 and row.engine != "single" and row.communication_s is not None]
    if not talked:
        notes.append("hidden, call_s: no run of several ranks measured its communication (--exposed-steps)")
        return Calibration(constants, tuple(rows), tuple(notes), known)
    between = [row for row in talked if row.hosts > 1 and row.bandwidth is not None]
    if len({row.bandwidth for row in between}) > 1:
        return Calibration(network_fit.fit(between, constants), tuple(rows), tuple(notes), known)
    constants, more = (_hidden if known else _channel)(talked, constants)
    return Calibration(constants, tuple(rows), (*notes, *more), known)


def _hidden(rows: Sequence[Seen], constants: Constants) -> tuple[Constants, list[str]]:
    """By engine, its channel known: hidden where communication shows less than the channel takes, call_s where it shows more."""
    hidden: dict[str, list[float]] = {}
    bound: dict[str, list[float]] = {}  # where all the compute there is hides something, more could hide
    called: dict[str, list[float]] = {}
    slow: list[str] = []
    for row in rows:
        parts = communication(row.work, row.engine, row.ranks, _fabric(row, constants))
        taken, under = sum(parts.values()), sum(parts.values()) - parts["after"]
        calls = sum(each.times for each in _exchanges(row))
        shows = row.communication_s or 0.0
        gone = under - (shows - parts["after"])
        room = _room(row, parts, constants)
        if gone > room / FULL:
            slow.append(f"{row.engine} x{row.ranks}")
        if under and gone < FULL * room:
            hidden.setdefault(row.engine, []).append(min(1.0, max(0.0, gone / under)))
        elif under:
            bound.setdefault(row.engine, []).append(min(1.0, gone / under))
        called.setdefault(row.engine, []).append(max(0.0, shows - taken) / calls)
    hidden |= {engine: [max(values)] for engine, values in bound.items() if engine not in hidden}
    found = replace(
        constants,
        hidden={engine: _mean(values) for engine, values in hidden.items()},
        call_s={engine: _mean(values) for engine, values in called.items()},
    )
    few = [engine for engine, values in hidden.items() if len(values) == 1]
    notes = [f"hidden, call_s of {', '.join(few)}: one row each, so no error"] if few else []
    if slow:
        notes.append(
            f"{', '.join(slow)}: exchanged faster than the measured collectives allow, all compute beside it hiding some; "
            "they were measured under another load: measure them again, or leave them out"
        )
    return found, notes


def _room(row: Seen, parts: Mapping[str, float], constants: Constants) -> float:
    """Seconds of compute beside which a row's exchange may go on."""
    assert constants.rate is not None
    alone = row.work.forward_flops / constants.rate.value, row.work.backward_flops / constants.rate.value
    forward, backward = crowded(alone, row.work, constants, row.ranks)
    return backward + (forward if parts["pass"] else 0.0)


def _channel(rows: Sequence[Seen], constants: Constants) -> tuple[Constants, list[str]]:
    """No measured channel: one alpha and one beta for all engines, of what shows, nothing hidden; what an engine takes beyond them
    is its call_s."""
    table = np.array([[*_factors(row)] for row in rows])
    shows = np.array([row.communication_s for row in rows])
    steps = np.array([row.step_s for row in rows])
    found = linear.solve(
        table, shows, of=steps, robust=True
    )  # of the step: where nothing shows there is no share of it
    alpha, beta = found.values
    line = Line(alpha.value, max(beta.value, 1e-15))
    called: dict[str, list[float]] = {}
    for row, left in zip(rows, shows - table @ np.array([alpha.value, beta.value]), strict=True):
        called.setdefault(row.engine, []).append(max(0.0, float(left)) / sum(e.times for e in _exchanges(row)))
    found_ = replace(
        constants,
        hidden={row.engine: Value(0.0) for row in rows},
        call_s={engine: _mean(values) for engine, values in called.items()},
        channels={"intra": Channel((line,)), "inter": Channel((line,))},
    )
    return found_, [
        f"hidden: what goes on beside compute can't be told without `ringzero collectives`; alpha {alpha.value:.3g} s "
        f"(± {alpha.error or 0:.1g}) and beta {beta.value:.3g} s/byte (± {beta.error or 0:.1g}) are of what shows"
    ]


def _exchanges(row: Seen) -> tuple[Exchange, ...]:
    return exchanges(row.work, row.engine, row.ranks)


def _factors(row: Seen) -> tuple[float, float]:
    """How often a row's communication takes alpha and beta, as rings."""
    ways = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}
    messages = sum(e.times * ways[e.collective] * (row.ranks - 1) for e in _exchanges(row))
    moved = sum(e.times * ways[e.collective] * (row.ranks - 1) / row.ranks * e.size for e in _exchanges(row))
    return messages, moved


def _fabric(row: Seen, constants: Constants) -> Fabric:
    channels = constants.channels
    inside = channels.get("intra") or channels["inter"]
    return Fabric(max(1, row.ranks // row.hosts), inside, channels.get("inter") or inside)


def _mean(values: Sequence[float]) -> Value:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Value(float(np.mean(values)), error)
