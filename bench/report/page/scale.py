"""Weak scaling on the page: its rows come from several experiments, so it stands below all of their sections."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import scaling
from bench.report.page.curves import over_counts
from bench.report.page.figure import Figure
from bench.report.plots.series import Scaling, efficiency, fair, families, scalings
from bench.report.rows import Group, Row
from bench.report.table import status


@dataclass(frozen=True)
class Scale:
    """The table of one way to scale, and its figures: none for a strong one, which stand with its experiment."""

    ident: str
    told: scaling.Told
    figures: Sequence[Figure]


def scales(groups: Sequence[Group]) -> list[Scale]:
    """Every scaling of the page's groups that has an efficiency to tell."""
    made: list[Scale] = []
    for each in (way for family in families(groups) for way in scalings(family)):
        if (told := scaling.one(each)) is not None:
            ident = f"s{len(made) + 1}"
            made.append(Scale(ident, told, _figures(each, ident) if each.kind == "weak" else ()))
    return made


def _figures(way: Scaling, ident: str) -> list[Figure]:
    own = {label: fair(rows)[0] for label, rows in way.rows.items() if fair(rows)}
    plain = dict.fromkeys(way.rows, way.single) if way.single else {}
    return [
        _figure(way, own, f"{ident}-f1", "Weak scaling efficiency against one rank of the same engine"),
        _figure(way, plain, f"{ident}-f2", "Weak scaling efficiency against one plain process"),
    ]


def _figure(way: Scaling, bases: dict[str, Row], ident: str, title: str) -> Figure:
    points = {
        label: [
            (row.ranks, found.median, status(row) == "unproven")
            for row in way.rows[label]
            if not row.oversubscribed and (found := efficiency(row, base)) is not None
        ]
        for label, base in bases.items()
    }
    points = {label: each for label, each in points.items() if each}
    left = sum(row.oversubscribed for rows in way.rows.values() for row in rows)
    if not any(ranks > 1 for each in points.values() for ranks, _, _ in each):
        return Figure(title, "Not measured: no row on more than one rank that could be compared.", None)
    said = (
        f"Throughput over ranks times that at one rank; {way.batch} samples a rank whatever their number. 1 is ideal."
    )
    said += f" {left} oversubscribed row{'s' if left != 1 else ''} left out." if left else ""
    return Figure(title, said, over_counts(title, ident, points, level=1.0))
