"""A prediction for each engine at each number of GPUs, and the columns that show it.

What is known of a step's time joins here: `step`, given to `rows`, is asked once a row, and a column may read what it returned.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.console import Group as Lines
from rich.table import Table

from bench.plan.machines.machine import GIB, Machine
from bench.plan.memory.closed_form import CATEGORIES, Memory, predict
from bench.plan.memory.fit import Change, first_that_fits
from bench.plan.memory.network import Network
from bench.plan.setup import Setup

Step = Callable[[Network, Setup, Machine], Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine at one number of GPUs. `room`: bytes of a device that may be used. `step`: what is known of a step's time."""

    setup: Setup
    memory: Memory
    room: float
    change: Change | None
    step: Any = None

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.room


class Column(NamedTuple):
    """A heading and what stands below it."""

    title: str
    cell: Callable[[Row], str]
    right: bool = True


def rows(
    network: Network, setups: Iterable[Setup], machine: Machine, *, headroom: float, step: Step | None = None
) -> list[Row]:
    """One row a setup, in their order. Raises ConfigError where a number of GPUs can't be whole nodes."""
    room = machine.device.memory_bytes * (1 - headroom)
    made = []
    for setup in setups:
        machine.nodes(setup.ranks)
        memory = predict(network, setup)
        change = None if memory.peak <= room else first_that_fits(network, setup, room)
        time = step(network, setup, machine) if step else None
        made.append(Row(setup=setup, memory=memory, room=room, change=change, step=time))
    return made


def size(count: float) -> str:
    """GiB to three digits, MiB below one."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / 2**20:.3g} MiB"


def gib(count: float) -> str:
    """In GiB, for a column whose heading says so."""
    return f"{count / GIB:.2f}" if count else "-"


def advice(row: Row) -> str:
    """What to change where it does not fit, else nothing."""
    if row.fits:
        return ""
    if row.change is None:
        return "nothing of the list fits: take more GPUs, or larger ones"
    host = f", and {size(row.change.memory.host)} of the host" if row.change.memory.host else ""
    return f"{row.change.words} (peak {size(row.change.memory.peak)}{host})"


def _category(title: str, name: str) -> Column:
    return Column(title, lambda row: gib(getattr(row.memory, name)))


SHORT = dict(zip(CATEGORIES, ("param", "grad", "optim", "activ", "buffer", "gather", "work"), strict=True))
MEMORY = [
    Column("GPUs", lambda row: str(row.setup.ranks)),
    Column("engine", lambda row: row.setup.engine, right=False),
    Column("fits", lambda row: "yes" if row.fits else "no", right=False),
    Column("peak", lambda row: gib(row.memory.peak)),
    Column("at", lambda row: row.memory.moment, right=False),
    *(_category(title, name) for name, title in SHORT.items()),
    Column("host", lambda row: gib(row.memory.host)),
]
ADVICE = [Column("so that it fits", advice, right=False)]


def table(made: Iterable[Row], columns: Iterable[Column], title: str, width: int) -> Lines:
    """For a terminal so many characters wide: columns that don't fit stand below, behind the first two again."""
    rows, shown = list(made), list(columns)
    parts = [shown[:2]]
    for column in shown[2:]:
        if sum(_width(each, rows) for each in (*parts[-1], column)) > width:
            parts.append(shown[:2])
        parts[-1].append(column)
    return Lines(*(_table(rows, part, "" if number else title) for number, part in enumerate(parts)))


def _width(column: Column, rows: Sequence[Row]) -> int:
    return max(map(len, (column.title, *map(column.cell, rows)))) + 2


def _table(rows: Iterable[Row], columns: Iterable[Column], title: str) -> Table:
    drawn, shown = (
        Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)),
        list(columns),
    )
    for column in shown:
        drawn.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(column.cell(row) for column in shown))
    return drawn


def markdown(made: Iterable[Row], columns: Iterable[Column]) -> str:
    """The same as a Markdown table."""
    shown = list(columns)
    lines = ["| " + " | ".join(column.title for column in shown) + " |"]
    lines.append("|" + "|".join("---:" if column.right else "---" for column in shown) + "|")
    lines += ["| " + " | ".join(column.cell(row) for column in shown) + " |" for row in made]
    return "\n".join(lines) + "\n"
