"""What every figure is made from: a row with its runs, and the drawing with its title and note."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bench import stats
from bench.report.rows import Row
from bench.report.table import status

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A row of the table with the records behind it: its finished runs, in the row's order, and those that failed."""

    row: Row
    done: Sequence[Record]
    lost: Sequence[Record]

    @property
    def name(self) -> str:
        return f"{self.row.label} on {self.row.ranks} rank{'s' if self.row.ranks != 1 else ''}"

    @property
    def spoken(self) -> bool:
        """Whether its speed may be shown: it finished, and is not void."""
        return self.row.throughput is not None

    @property
    def status(self) -> str:
        return status(self.row)

    def steps(self) -> list[NDArray[np.float64]]:
        """Seconds of every step of every run on its slowest rank."""
        return [stats.slowest(record["ranks"]) for record in self.done]


@dataclass(frozen=True)
class Figure:
    """`svg` is None where there was nothing to draw; `note` then says why."""

    title: str
    note: str
    svg: Markup | None
    key: Sequence[tuple[str, str]] = ()  # (class of a colour, its meaning)
