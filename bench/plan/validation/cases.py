"""Published throughputs as cases that the time model can be asked: inputs as stated at the source, the measured step in seconds.

An anchored case is told the smallest row of its own series (same framework, model, precision) and predicts how it scales: the
FLOPs and kernels of an image model of 2017 say little about another's. All others are predicted from FLOPs alone.
Sizes of models that no source states are from their papers. Rows that the model has no engine for (ZeRO++, tensor parallelism over
pipelines, Distributed TensorFlow, fp8, CPU all-reduce, OneFlow, Paddle) are left out, and counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.plan.machines.machine import Machine
from bench.plan.time.work import Work
from bench.plan.validation.published import Row

UNSTATED = "not all its work is stated"


@dataclass(frozen=True, kw_only=True, eq=False)  # itself is what it equals: fits look a case up thousands of times
class Case:
    """One row. `seconds`: a step as measured. `like`: what must be equal for two cases to be compared engine against engine."""

    id: str
    source: str
    generation: str
    engine: str
    machine: Machine
    ranks: int
    work: Work
    seconds: float
    value: float
    unit: str
    like: tuple[object, ...] = ()
    name: str = ""
    """The framework as the source calls it."""
    anchor: "Case | None" = None
    apart: str | None = None
    """Why it can't judge (published.REASONS, or UNSTATED), else None."""

    def printed(self, predicted_s: float) -> float:
        """A predicted step in the row's own unit: a duration grows with it, a rate shrinks."""
        ratio = predicted_s / self.seconds
        return self.value * ratio if self.unit in ("s", "ms", "h") else self.value / ratio


def anchored(cases: Iterable[Case]) -> Iterator[Case]:
    """A series in which the case of fewest ranks is told, and each other one points to it. The first is not among them."""
    series = sorted(cases, key=lambda case: (case.ranks, case.id))
    if series:
        first, *others = series
        yield from (replace(case, anchor=first) for case in others)


def by_series(cases: Sequence[tuple[object, Case]]) -> Iterator[Case]:
    """(key of the series, case) in any order."""
    keys = dict.fromkeys(key for key, _ in cases)
    for key in keys:
        yield from anchored(case for own, case in cases if own == key)


def basic(row: Row, source: str, **settings: object) -> Case:
    """What every case takes from its row."""
    assert row.value is not None
    return Case(id=row.id, source=source, value=row.value, unit=row.unit, apart=row.apart, **settings)  # type: ignore[arg-type]


def all_cases() -> list[Case]:
    """Every row that the time model can be asked."""
    from bench.plan.validation import cases_images, cases_tokens

    return [*cases_images.cases(), *cases_tokens.cases()]
