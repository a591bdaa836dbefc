"""A prediction beside what was published or measured, family by family; the tables that show both, misses included."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from rich import box
from rich.table import Table

from bench.plan.validation.published import Row


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One prediction. `printed`: the published text where the prediction must equal it to the print; None: it is only compared."""

    id: str
    what: str
    predicted: float
    published: float
    unit: str
    convention: str
    printed: str | None = None
    limit: float | None = None
    """Largest absolute difference that is allowed, in `unit`."""

    @property
    def error(self) -> float:
        """Relative to what was published; the difference itself where that is 0."""
        difference = self.predicted - self.published
        return difference / self.published if self.published else difference

    @property
    def holds(self) -> bool | None:
        """Whether it is what it must be; None where nothing is demanded."""
        if self.printed is not None:
            return as_printed(self.predicted, self.printed) == Decimal(self.printed)
        if self.limit is not None:
            return abs(self.predicted - self.published) <= self.limit
        return None


@dataclass(frozen=True)
class Family:
    """Rows that one formula speaks of. `judge` returns a prediction, or the reason why there is none."""

    name: str
    ids: tuple[str, ...]
    judge: Callable[[Row], Judged | str]


@dataclass
class Verdict:
    """What became of a family's rows."""

    name: str
    judged: list[Judged] = field(default_factory=list)
    silent: list[tuple[str, str]] = field(default_factory=list)  # (id, why nothing was predicted)

    @property
    def broken(self) -> list[Judged]:
        return [each for each in self.judged if each.holds is False]


def told(
    row: Row,
    found: float,
    convention: str,
    what: str,
    *,
    published: float | None = None,
    printed: str | None = None,
    limit: float | None = None,
    unit: str | None = None,
) -> Judged:
    """A prediction of a row's value, or of another column of it."""
    value = row.value if published is None else published
    assert value is not None
    return Judged(
        id=row.id, what=what, predicted=found, published=value, unit=unit or row.unit, convention=convention,
        printed=printed, limit=limit,
    )  # fmt: skip


def as_printed(value: float, text: str) -> Decimal:
    """`value` with as many decimals as `text` has: rounded half up, and cut where it has none (ZeRO's Table 1 cuts 257.75 to 257)."""
    places = len(text.partition(".")[2])
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP if places else ROUND_DOWN)


def judge(families: Sequence[Family], rows: Iterable[Row]) -> list[Verdict]:
    """Rows that are set apart are left out; a family may share another's ids, and speak of other quantities."""
    usable = [row for row in rows if row.apart is None]
    made = []
    for family in families:
        verdict = Verdict(family.name)
        for row in usable:
            if row.family in family.ids:
                found = family.judge(row)
                if isinstance(found, Judged):
                    verdict.judged.append(found)
                elif found:
                    verdict.silent.append((row.id, found))
        made.append(verdict)
    return made


def plain(title: str, columns: Mapping[str, str]) -> Table:
    """A table without lines between columns. `columns`: heading to justification."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in columns.items():
        drawn.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=heading == "row")
    return drawn


def summary(verdicts: Iterable[Verdict]) -> Table:
    """A line a family: how many, how far off, whether what must hold does. `silent`: rows of it that nothing is predicted for."""
    right = dict.fromkeys(("rows", "median", "worst"), "right")
    drawn = plain(
        "errors by family", {"family": "left", **right, "row": "left", "must hold": "right", "silent": "right"}
    )
    for verdict in verdicts:
        if not verdict.judged:
            drawn.add_row(verdict.name, "0", "-", "-", "-", "-", str(len(verdict.silent)))
            continue
        worst = max(verdict.judged, key=lambda each: abs(each.error))
        asked = [each for each in verdict.judged if each.holds is not None]
        kept = sum(each.holds is True for each in asked)
        drawn.add_row(
            verdict.name,
            str(len(verdict.judged)),
            f"{statistics.median(abs(each.error) for each in verdict.judged):.2%}",
            f"{worst.error:+.2%}",
            worst.id,
            f"{kept} of {len(asked)}" if asked else "-",
            str(len(verdict.silent)),
        )
    return drawn


def details(verdict: Verdict) -> Table:
    """A line a row, and by which conventions."""
    used = "; ".join(dict.fromkeys(each.convention for each in verdict.judged))
    right = dict.fromkeys(("predicted", "published"), "right")
    columns = {"row": "left", **right, "unit": "left", "error": "right", "holds": "left", "what": "left"}
    drawn = plain(f"{verdict.name}, by: {used}", columns)
    for each in verdict.judged:
        kept = {None: "-", True: "yes", False: "NO"}[each.holds]
        values = (f"{each.predicted:.5g}", f"{each.published:.5g}")
        drawn.add_row(each.id, *values, each.unit, f"{each.error:+.2%}", kept, each.what)
    return drawn
