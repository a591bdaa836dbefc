"""Seconds of one step on a machine that nobody here has: compute, communication that shows, waiting, the host.

    step = (compute + exposed) (1 + sync lg(ranks) / sqrt(accumulation)) + host

- compute = FLOPs / (peak x efficiency) + bytes of layers without products / memory bandwidth: kernels run one after another,
  so both add up (a roofline whose two roofs are sums, not a maximum).
- communication = collectives of bench/plan/time/work.py, each by the fastest algorithm of bench/plan/time/collective_cost.py;
  and the engine's own part of each call, which is added to both and hidden by nothing.
- exposed = communication - min(hidden x communication, compute beside which it may go on). DDP, Horovod, the ring and ZeRO 1 to 2
  have backward beside their gradients, ZeRO 3 and FSDP both passes beside their gathers; what comes after backward hides nothing.
- sync: waiting for the slowest of independently late ranks, which grows about as the logarithm of their number; the noise of
  several micro-batches averages out before they meet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.config import ConfigError
from bench.plan.machines.links import Channel, Fabric, Line, fabric
from bench.plan.machines.machine import Machine
from bench.plan.time.collective_cost import fastest
from bench.plan.time.constants import ENGINE, SHARED, Constants, Value
from bench.plan.time.work import Work, exchanges

HIDDEN = Value(0.5)  # stated, for an engine that nobody calibrated
Z95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One engine at one scale. Seconds a step; `low` and `high` hold 95 in 100 steps like those the constants were fitted to."""

    engine: str
    ranks: int
    step_s: float
    low: float
    high: float
    compute_s: float
    communication_s: float
    exposed_s: float
    waiting_s: float
    host_s: float
    samples: int
    """Of the global batch."""
    why: str
    """What the step is bound by, in words."""
    beyond: tuple[str, ...] = ()
    """In what it goes beyond what was calibrated; empty: in nothing."""

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.step_s


def predict(work: Work, engine: str, ranks: int, machine: Machine, constants: Constants) -> Prediction:
    """One engine's step. Raises ConfigError for an unknown engine, ranks that fill no nodes, a device without that peak."""
    machine.nodes(ranks)
    found = parts(work, engine, ranks, machine, constants)
    step, host = found["step"], found["host"]
    spread = math.hypot(constants.scatter, *_effects(work, engine, ranks, machine, constants, step))
    return Prediction(
        engine=engine,
        ranks=ranks,
        step_s=step,
        low=step * math.exp(-Z95 * spread),
        high=step * math.exp(Z95 * spread),
        compute_s=found["compute"],
        communication_s=found["communication"],
        exposed_s=found["exposed"],
        waiting_s=step - found["compute"] - found["exposed"] - host,
        host_s=host,
        samples=work.samples * ranks,
        why=_why(found, ranks),
        beyond=_beyond(engine, ranks, constants),
    )


def efficiency(of: Prediction, one: Prediction) -> float:
    """Throughput a rank over that of another prediction, usually of one rank or one node: weak scaling if a rank's batch is the
    same in both, strong if the global batch is."""
    return (of.samples_per_s / of.ranks) / (one.samples_per_s / one.ranks)


def seconds(work: Work, engine: str, ranks: int, machine: Machine, constants: Constants) -> float:
    """The step alone, without its interval."""
    return parts(work, engine, ranks, machine, constants)["step"]


def parts(work: Work, engine: str, ranks: int, machine: Machine, constants: Constants) -> dict[str, float]:
    """Seconds of the step, of its compute, communication, what of it shows, and of the host."""
    forward, backward = crowded(passes(work, machine, constants), work, constants, ranks)
    total, exposed = _exposed(work, engine, ranks, _fabric(machine, constants, ranks), constants, forward, backward)
    compute = forward + backward
    called = sum(each.times for each in exchanges(work, engine, ranks))
    calls = called * constants.call_s.get(engine, Value(0.0)).value * constants.turns(ranks)
    total, exposed = total + calls, exposed + calls
    busy = (compute + exposed) * (1 + constants.sync.value * math.log2(ranks) / math.sqrt(work.accumulation))
    host = constants.host_s.get(engine, Value(0.0)).value * constants.turns(ranks)
    return {"step": busy + host, "compute": compute, "communication": total, "exposed": exposed, "host": host}


def crowded(alone: tuple[float, float], work: Work, constants: Constants, ranks: int) -> tuple[float, float]:
    """The same two where ranks share cores, with what every micro-batch costs whatever its size."""
    fixed = work.accumulation * constants.pass_s.value * constants.turns(ranks)
    longer = constants.crowd(ranks) + fixed / max(sum(alone), 1e-300)
    return alone[0] * longer, alone[1] * longer


def passes(work: Work, machine: Machine, constants: Constants) -> tuple[float, float]:
    """Seconds of forward and of backward of one rank."""
    flops = (work.forward_flops, work.backward_flops)
    if constants.rate is not None:
        rate, moved = constants.rate.value, 0.0  # measured on whole steps: what moves memory is in it
    else:
        peak = machine.device.peak(work.precision)
        if peak is None:
            there = ", ".join(machine.device.peak_tflops) or "none"
            raise ConfigError(f"{machine.device.name} has no stated peak in {work.precision}; there are: {there}")
        rate = peak * constants.efficiency.value
        moved = work.samples * work.traffic * (4 / 3 if work.recomputed else 1)
    if not rate > 0:
        raise ConfigError("the constants' efficiency or rate is 0; it must be above 0")
    whole = 1 / rate + moved / ((machine.device.memory_gb_s or math.inf) * 1e9) / max(1.0, sum(flops))
    return flops[0] * whole, flops[1] * whole


def _fabric(machine: Machine, constants: Constants, ranks: int) -> Fabric:
    nominal = fabric(machine, share=constants.link_share.value, network_share=constants.network_share.value)
    over = nominal.inter.lines[0]
    alpha = over.alpha if constants.latency_s is None else constants.latency_s.value
    inter = Channel((Line(alpha, over.beta + constants.byte_s.value * constants.turns(ranks), over.gamma),))
    return replace(nominal, **{"inter": inter, **dict[str, Any](constants.channels)})


def _exposed(
    work: Work, engine: str, ranks: int, over: Fabric, constants: Constants, forward: float, backward: float
) -> tuple[float, float]:
    """(communication, what of it shows), seconds a step."""
    taken = communication(work, engine, ranks, over)
    return sum(taken.values()), shown(taken, forward, backward, constants.hidden.get(engine, HIDDEN).value)


def communication(work: Work, engine: str, ranks: int, over: Fabric) -> dict[str, float]:
    """Seconds a step of an engine's collectives, by the work beside which they may go on."""
    taken = dict.fromkeys(("backward", "pass", "after"), 0.0)
    for each in exchanges(work, engine, ranks):
        taken[each.beside] += each.times * fastest(each.collective, ranks, each.size, over)
    return taken


def shown(taken: Mapping[str, float], forward: float, backward: float, hidden: float) -> float:
    """Seconds of communication that compute does not cover."""
    under = taken["backward"] + taken["pass"]
    room = backward + (forward if taken["pass"] else 0.0)
    return taken["after"] + under - min(hidden * under, room)


def _effects(work: Work, engine: str, ranks: int, machine: Machine, constants: Constants, step: float) -> list[float]:
    """What one standard error of each constant does to ln(step)."""
    moves: list[tuple[Value, dict[str, Any]]] = []
    for name in (each for each in SHARED if getattr(constants, each) is not None):
        moves.append((getattr(constants, name), {name: _shifted(getattr(constants, name))}))
    for name in ENGINE:
        known = getattr(constants, name)
        if engine in known:
            moves.append((known[engine], {name: {**known, engine: _shifted(known[engine])}}))
    there = [replace(constants, **moved) for value, moved in moves if value.error]
    return [math.log(seconds(work, engine, ranks, machine, each) / step) for each in there]


def _shifted(value: Value) -> Value:
    return Value(value.value + (value.error or 0.0))


def _why(parts: dict[str, float], ranks: int) -> str:
    if ranks == 1:
        return "one rank exchanges nothing"
    share, step = parts["exposed"] / parts["step"], parts["step"]
    hidden = parts["communication"] - parts["exposed"]
    if share > 0.5:
        return f"bound by communication: {share:.0%} of the step is exchange that shows"
    if parts["host"] > 0.5 * step:
        return f"bound by the host: {parts['host'] / step:.0%} of the step is the engine's own work"
    if share > 0.1:
        return f"exchange shows in {share:.0%} of the step; {hidden / max(parts['communication'], 1e-300):.0%} of it is hidden"
    return f"bound by compute: {share:.1%} of the step is exchange that shows"


def _beyond(engine: str, ranks: int, constants: Constants) -> tuple[str, ...]:
    found = []
    low, high = constants.ranks
    if high == 0:
        found.append("this device was not calibrated")
    elif not low <= ranks <= high:
        found.append(f"{ranks} ranks; calibrated on {low} to {high}")
    if engine not in constants.engines and ranks > 1 and engine != "zero-0":
        found.append(f"{engine} was not calibrated: {HIDDEN.value:.0%} of its exchange is taken as hidden")
    return tuple(found)
