"""The fairness gate: did a run learn what one plain process learns? Pure functions on records; before any speed.

AdamW divides each gradient by its own running size, so a gradient that is wrong by a constant factor (sum for mean,
divided twice) leaves its updates as they were: such a mistake is invisible in the measured losses. Each run therefore
proves itself under plain SGD as well, where an update is proportional to the gradient: one leg with clipping off
(scale) and one with clipping on (which norm is clipped, and when).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backends.tuning import INEXACT, Tuning, words
from bench.legs import Leg, finite

Status = Literal["reference", "verified", "unproven", "void"]
GRAVEST: tuple[Status, ...] = ("void", "unproven", "reference", "verified")  # of several runs the first is told


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest differences that rounding explains in a leg of `steps`; of a longer leg, that many times more.

    `loss` is relative to the reference's total loss of that step. `parameter` is relative to a tensor's L2 norm, for
    that norm and for the tensor's sum under random signs, whose spread is that norm.
    """

    loss: float
    parameter: float
    steps: int

    def growth(self, steps: int) -> float:
        """Factor for a leg of `steps`: what one update rounds differently, the next one starts from."""
        return max(1.0, steps / self.steps)


# SGD, both legs of two steps of the smallest preset. Engines add the same numbers in another order: fp32 rounds at
# 2^-24 = 6e-8, and every engine at 2 ranks, as well as one process with other micro-batches, stayed below 1e-7 in the
# losses and 4e-7 in the parameters. Mistakes that must not pass differ by more (losses, parameters): sum for mean or
# divided twice 7e-3, 2e-1; one rank's gradient only 2e-4, 3e-2; clip at 1.0 for 0.1 7e-3, 2e-2; no clip 4e-2, 4e-1;
# and, the smallest, each rank clipping before the exchange 1.1e-5, 3.0e-5.
PROOF = {
    "fp32": Tolerance(loss=2e-6, parameter=5e-6, steps=2),
    # bfloat16 rounds at 2^-9 = 2e-3 inside the forward, and a micro-batch's shape picks its kernel: 6e-5, 3e-3 seen
    # between two ways to cut one batch. Clipping before the exchange hides below that; fp32 is where it is found.
    "amp_bf16": Tolerance(loss=5e-4, parameter=1e-2, steps=2),
}
# The measured steps. Under AdamW an element whose gradient is rounding noise still moves by up to lr, in a direction
# that the noise decides: in ten steps two ways to cut one batch parted by 3e-7, 1e-3 in fp32. Cut into single samples, for
# which other kernels multiply, they parted by 1.5e-5 in fp32, alike under every engine on 4 ranks. In amp_bf16 each step's
# rounding of the weights feeds that noise: over 7 seeds the losses parted by up to 2.3e-4 and the worst tensor, where ten
# steps can move every element and so 1.4 of the norm, by 1.3e-3 to 1.5e-2, on another processor by 5.9e-2. Mistakes that
# must not pass: L2 for decoupled weight decay 1.4; Adam without bias correction 1.5e-2 in the losses.
MEASURED = {
    "fp32": Tolerance(loss=5e-5, parameter=1e-2, steps=10),
    "amp_bf16": Tolerance(loss=2e-3, parameter=2e-1, steps=10),
}


@dataclass(frozen=True)
class Verdict:
    """`why` is one line for a table. `first_step` counts from 0 within its leg, None where no step can be named.

    `difference` is relative, as `Tolerance` says; None where nothing was compared.
    """

    status: Status
    why: str
    first_step: int | None = None
    difference: float | None = None


def verify(record: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Verdict:
    """Compare a finished run with the finished `single` run of the same experiment.

    Never `verified` for lack of evidence: without a reference or without both SGD legs, and losses and parameters in
    each, it is `unproven`.
    Raises ValueError where the two are different experiments, or `reference` is not a `single` run.
    """
    return against(reference)(record)


def against(reference: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], Verdict]:
    """`verify` of many runs with one reference, which is looked through once."""
    ill = None if reference is None else _ill(reference)
    lacking = None if reference is None else _lacking(reference)
    known: dict[int, Leg] = {}  # the reference's, by what they were made from

    def verdict(record: Mapping[str, Any]) -> Verdict:
        if record["status"] != "done":
            return Verdict("unproven", f"the run is {record['status']!r}, it has nothing to compare")
        if (bad := _ill(record)) is not None:
            return bad
        if reference is None:
            return Verdict(
                "unproven",
                "no single-process run of this experiment to compare with; run: ringzero launch "
                "--backend single, with the same workload and training flags",
            )
        _check_pair(record, reference)
        if ill is not None:
            return Verdict("unproven", f"the single-process run can't be a reference: {ill.why}")
        if missing := _lacking(record) or lacking:
            return Verdict("unproven", missing)
        if record["run_id"] == reference["run_id"]:
            return Verdict("reference", "the run that others are compared with")
        if inexact := {name: value for name, value in changed(record).items() if name in INEXACT}:
            return _inexact(record, reference, words(inexact))
        precision = record["config"]["workload"]["precision"]
        worst = 0.0
        for name, ours, theirs in _legs(record, reference):
            allowed = (MEASURED if name == "measured" else PROOF)[precision]
            if theirs and id(theirs) not in known:
                known[id(theirs)] = Leg(theirs, allowed)
            found = _compare(name, ours, theirs, allowed, known.get(id(theirs)))
            if found.status == "void":
                return found
            worst = max(worst, found.difference or 0.0)
        why = f"losses and parameters of every leg agree with single (largest difference {worst:.1e})"
        return Verdict("verified", why, None, worst)

    return verdict


def references(records: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The first finished `single` run of each experiment, by experiment."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in sorted(records, key=lambda each: each["started"]):
        if record["engine"]["label"] == "single" and record["status"] == "done" and not changed(record):
            found.setdefault(record["experiment"], record)
    return found


def changed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tuned track that a run was given, by name; empty on the controlled track."""
    return Tuning(**record["config"].get("tuning", {})).changed()


def loss_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, int] | None:
    """(largest relative difference of the total loss, its step from 0) between two runs of one experiment.

    None where a loss is missing, is no number, or the runs took different numbers of steps.
    """
    pairs = [(mine["total"], its["total"]) for mine, its in zip(ours["losses"], theirs["losses"], strict=False)]
    if not pairs or len(ours["losses"]) != len(theirs["losses"]) or not all(_finite(v) for both in pairs for v in both):
        return None
    apart = [abs(mine - its) / (abs(its) or 1.0) for mine, its in pairs]
    return max(apart), apart.index(max(apart))


def _inexact(record: Mapping[str, Any], reference: Mapping[str, Any], what: str) -> Verdict:
    """A run that was told to compute something else: how far its losses are, and no claim that this is right."""
    apart = loss_difference(record, reference)
    far = f"losses differ from single's by up to {apart[0]:.1e} (step {apart[1]})" if apart else "losses not comparable"
    why = f"{what} changes what is computed: {far}"
    return Verdict("unproven", why, apart[1] if apart else None, apart[0] if apart else None)


def _check_pair(record: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    if reference["engine"]["label"] != "single" or reference["status"] != "done":
        raise ValueError(f"{reference['run_id']} can't be a reference: it is not a finished single-process run")
    if record["experiment"] != reference["experiment"]:
        raise ValueError(
            f"{record['run_id']} and {reference['run_id']} are different experiments "
            f"({record['experiment']}, {reference['experiment']}) and can't be compared"
        )


def _legs(
    record: Mapping[str, Any], reference: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(name, of the record, of the reference), the legs that see a scale mistake first."""
    theirs = {_key(leg): leg for leg in reference["proof"]}
    for leg in record["proof"]:
        yield f"proof leg {_name(leg)}", leg, theirs.get(_key(leg), {})
    yield "measured", record, reference


def _key(leg: Mapping[str, Any]) -> tuple[str, bool]:
    return leg["optimizer"], leg["clip_norm"] > 0


def _name(leg: Mapping[str, Any]) -> str:
    return f"{leg['optimizer'].upper()}, clip " + (f"{leg['clip_norm']:g}" if leg["clip_norm"] else "off")


def _lacking(record: Mapping[str, Any]) -> str | None:
    """What evidence a record does not hold."""
    proof = record["proof"] or []
    if {_key(leg) for leg in proof} < {("sgd", False), ("sgd", True)}:
        return f"{_whose(record)} has no proof under SGD with clipping off and on (--proof-steps 0?)"
    for leg in [*proof, record]:
        if not leg["losses"] or not _tensors(leg["parameters"]):
            return f"{_whose(record)} has a leg without losses or parameters"
    return None


def _whose(record: Mapping[str, Any]) -> str:
    return "single's run" if record["engine"]["label"] == "single" else "the run"


def _ill(record: Mapping[str, Any]) -> Verdict | None:
    """Why a record can't be right whatever it is compared with."""
    if record["skipped_steps"]:
        return Verdict("void", f"{record['skipped_steps']} optimizer steps were skipped")
    for leg in [record, *(record["proof"] or [])]:
        if finite(leg):
            continue
        name = "measured" if leg is record else f"proof leg {_name(leg)}"
        for step, losses in enumerate(leg["losses"] or []):
            for term, value in losses.items():
                if not _finite(value):
                    return Verdict("void", f"{name}: {term} loss of step {step} is {value}", step)
        for tensor, sums in _tensors(leg["parameters"]).items():
            if not all(_finite(value) for value in sums.values()):
                return Verdict("void", f"{name}: {tensor} is not finite after the last step")
    return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _tensors(parameters: Mapping[str, Any] | None) -> Mapping[str, Mapping[str, float]]:
    return (parameters or {}).get("tensors") or {}


def _compare(
    name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], allowed: Tolerance, known: Leg | None
) -> Verdict:
    """One leg: every loss of every step, then every tensor."""
    if ours.get("clip_norm") != theirs.get("clip_norm"):
        return Verdict("void", f"{name}: single clipped at {theirs.get('clip_norm')}")
    if known is not None and (least := known.agrees(ours)) is not None:
        return Verdict("verified", name, None, least)
    taken, wanted = len(ours["losses"]), len(theirs["losses"])
    if taken != wanted:
        return Verdict("void", f"{name}: {taken} steps, single took {wanted}", min(taken, wanted))
    if [set(each) for each in ours["losses"]] != [set(each) for each in theirs["losses"]]:
        return Verdict("void", f"{name}: its losses have other parts than single's")
    mine, its = _tensors(ours["parameters"]), _tensors(theirs["parameters"])
    if set(mine) != set(its):
        return Verdict("void", f"{name}: trained tensors differ from single's: {sorted(set(mine) ^ set(its))[:3]}")
    worst = 0.0
    for what, step, difference, limit in _differences(ours, theirs, allowed):
        worst = max(worst, difference)
        if difference > limit:
            where = "after the last step" if step is None else f"at step {step}"
            why = f"{name}: {what} differs from single by {difference:.1e} {where} (allowed {limit:.0e})"
            return Verdict("void", why, step, difference)
    return Verdict("verified", name, None, worst)


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], allowed: Tolerance
) -> Iterator[tuple[str, int | None, float, float]]:
    """(what, step, relative difference, what is allowed) of every loss, step by step, then of every tensor."""
    for step, (mine, its) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        limit = allowed.loss * allowed.growth(step + 1)
        for term in mine:
            yield f"{term} loss", step, abs(mine[term] - its[term]) / (abs(its["total"]) or 1.0), limit
    limit = allowed.parameter * allowed.growth(len(ours["losses"]))
    references = _tensors(theirs["parameters"])
    for tensor, sums in _tensors(ours["parameters"]).items():
        its = references[tensor]
        apart = max(abs(sums[key] - its[key]) for key in ("norm", "projection"))
        yield tensor, None, apart / (its["norm"] or 1.0), limit
