"""Scaling in numbers: throughput over ranks and over that of one rank, strong and weak, for the terminal, Markdown and the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.report.plots.series import Scaling, efficiency, fair, families, scalings, title_of
from bench.report.rows import Group, Row
from bench.report.table import NONE, number
from bench.stats import Estimate

HEADINGS = (
    "engine",
    "ranks",
    "global batch",
    "samples/s",
    "against one rank of the same engine",
    "against one plain process",
)
CAPTION = (
    "efficiency: throughput over (ranks x throughput at one rank), with the range that the ends of both 95 % intervals "
    "leave; 100 %: each rank adds as much as the first. -: no run with a speed at one rank, or * more ranks than cores or GPUs, "
    "of which nothing is claimed."
)


@dataclass(frozen=True)
class Told:
    """One way in which the rows of a family scale: `lines` are cells in the order of HEADINGS."""

    title: str
    lines: list[list[str]]


def told(groups: Sequence[Group]) -> list[Told]:
    """Every scaling that the groups show at two rank counts or more; those without any efficiency are left out."""
    ways = [one(scaling) for family in families(groups) for scaling in scalings(family)]
    return [each for each in ways if each is not None]


def one(scaling: Scaling) -> Told | None:
    """The table of one way to scale; None where it has no efficiency to tell."""
    lines = list(_lines(scaling))
    if all(cell == NONE for line in lines for cell in line[-2:]):
        return None
    return Told(f"{scaling.heading}; {title_of(scaling.groups)}", lines)


def _lines(scaling: Scaling) -> Iterator[list[str]]:
    for label, rows in scaling.rows.items():
        own = fair(rows)[0] if fair(rows) else None
        for row in rows:
            speed = NONE if row.throughput is None else number(row.throughput.median)
            batch = scaling.batch * (row.ranks if scaling.kind == "weak" else 1)
            ranks = f"{row.ranks}{'*' if row.oversubscribed else ''}"
            against = [NONE if row is base else _share(row, base) for base in (own, scaling.single)]
            yield [label, ranks, str(batch), speed, *against]


def _share(row: Row, base: Row | None) -> str:
    found: Estimate | None = None if base is None or row.oversubscribed else efficiency(row, base)
    return NONE if found is None else f"{found.median:.0%} [{found.low:.0%}, {found.high:.0%}]"


def terminal(groups: Sequence[Group]) -> Lines | None:
    """For a rich console; None where nothing scales."""
    found = told(groups)
    if not found:
        return None
    shown: list[RenderableType] = []
    for each in found:
        table = Table(
            title=each.title,
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 1, 0, 0),
            header_style="dim",
        )
        for index, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if index else "left", vertical="bottom")
        for line in each.lines:
            table.add_row(*line)
        shown += [table, Text()]
    return Lines(*shown, Text(CAPTION, "dim"))


def markdown(groups: Sequence[Group]) -> str:
    """The same as Markdown; empty where nothing scales."""
    parts = []
    for each in told(groups):
        rule = "|".join("---:" if index else "---" for index in range(len(HEADINGS)))
        lines = [f"**{each.title}**", "", f"| {' | '.join(HEADINGS)} |", f"|{rule}|"]
        lines += [f"| {' | '.join(cell.replace('*', chr(92) + '*') for cell in line)} |" for line in each.lines]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, CAPTION.replace("*", "\\*")]) + "\n" if parts else ""
