"""The measurement: at each operation and size every library in turn, the order shuffled anew in each round, by one seed."""

import random
from collections.abc import Callable
from typing import Any

from bench.collectives.catalog import Operation
from bench.collectives.hall import Hall, Tell
from bench.collectives.plan import VALUE_BYTES, Plan

MOST = 100  # iterations of one turn


class Cell:
    """One operation at one size: `begin`, then rounds, then `rows`. The plan may name fewer libraries than the hall has."""

    def __init__(self, plan: Plan, hall: Hall, operation: Operation, values: int, rng: random.Random) -> None:
        self.plan, self.hall, self.operation, self.values, self.rng = plan, hall, operation, values, rng
        self.iterations: dict[str, int] = {}
        self.wrong = {library.name: 0 for library in plan.libraries}
        self.taken: dict[str, list[dict[str, Any]]] = {library.name: [] for library in plan.libraries}

    def begin(self) -> None:
        """Check every library's result, and time one iteration: from that follows how many a turn has."""
        for name, _, answers in self._turns(checks=1):
            took = max(answer["ns"][0] for answer in answers) / 1e9
            self.iterations[name] = max(1, min(MOST, int(self.plan.turn_s / took)))

    def round(self, *, last: bool = False) -> None:
        """A turn for every library, in an order drawn anew; in the `last` one results are checked before and after the clock."""
        for name, place, answers in self._turns(checks=2 if last else 0):
            self.taken[name].append({"place": place, "ns": [answer["ns"] for answer in answers]})

    def rows(self) -> list[dict[str, Any]]:
        """What the record keeps, a row a library; `rounds` is null where it was not measured, with the reason."""
        return [self._row(library.name, library.lacks.get(self.operation)) for library in self.plan.libraries]

    def _row(self, name: str, lack: str | None) -> dict[str, Any]:
        reason = lack or self.hall.reasons.get(name)
        return {
            "operation": self.operation,
            "library": name,
            "bytes": self.values * VALUE_BYTES,
            "wrong": None if reason else self.wrong[name],
            "iterations": None if reason else self.iterations[name],
            "rounds": None if reason else self.taken[name],
            "rounds_reason": reason,
        }

    def _turns(self, checks: int) -> list[tuple[str, int, list[dict[str, Any]]]]:
        """Of each library that came through: its name, its place in the order, every rank's answer."""
        order = [each for each in self.hall.living(self.operation) if each in self.plan.libraries]
        self.rng.shuffle(order)
        through = []
        for place, library in enumerate(order):
            count = self.iterations.get(library.name, 1)
            answers = self.hall.turn(library, self.operation, self.values, count, checks)
            if answers is not None:
                self.wrong[library.name] += sum(answer["wrong"] for answer in answers)
                through.append((library.name, place, answers))
        return through


def measure(plan: Plan, hall: Hall, keep: Callable[[list[dict[str, Any]], list[Any]], None], tell: Tell) -> None:
    """Take all turns; `keep(rows, copies)` is called after each size, so that a stop loses one size at the most."""
    rng = random.Random(plan.seed)
    rows: list[dict[str, Any]] = []
    copies = [hall.copy()]
    for operation in plan.operations:
        for values in dict.fromkeys(plan.values(operation, size) for size in plan.sizes):
            tell(f"{operation} of {values * VALUE_BYTES:,} bytes")
            cell = Cell(plan, hall, operation, values, rng)
            cell.begin()
            for number in range(plan.repeats):
                cell.round(last=number == plan.repeats - 1)
            rows += cell.rows()
            keep(rows, copies)
        copies.append(hall.copy())
    keep(rows, copies)
