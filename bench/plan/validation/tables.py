"""The tables of bench/plan/validation/throughput.py: constants, rows, families, rows apart, orders of engines, sweeps."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.plan.calibration import channel_fit
from bench.plan.time.constants import Value
from bench.plan.validation import time_fit
from bench.plan.validation.published import REASONS
from bench.plan.validation.throughput import NOISE, Held, Outcome, Pair, pairs, said, sweep


def show(console: Console, found: Outcome, *, rows: bool) -> None:
    """Constants, rows (if asked for), families, rows apart, orders of engines, all-reduce sweeps, and what is reached in words."""
    console.print(_constants(found))
    if rows:
        for source in found.fits:
            console.print(_rows([each for each in found.held if each.case.source == source], source))
    console.print(_families(found))
    _apart(console, found)
    console.print(_orders(pairs(found.held)))
    console.print(_sweeps())
    for line in said(found):
        console.print(line, soft_wrap=True)


def _constants(found: Outcome) -> Table:
    drawn = _table(
        "constants, all shared: nothing is fitted to a row",
        ("constant", "of", "all sources", "standard error", "with one source left out"),
        2,
    )
    for (name, of), value in found.whole.values.items():
        others = [fit.values.get((name, of), Value(time_fit.PRIORS[name].mean)).value for fit in found.fits.values()]
        drawn.add_row(name, of, f"{value.value:.3f}", f"{value.error:.3f}", f"{min(others):.3f} to {max(others):.3f}")
    drawn.add_row("link_share", "all", f"{time_fit.LINK_SHARE.value:.3f}", "stated", "-")
    return drawn


def _rows(held: Sequence[Held], source: str) -> Table:
    headings = ("row", "engine", "ranks", "predicted", "published", "unit", "error", "how")
    drawn = _table(source, headings, 2, left=("unit", "how"))
    for each in held:
        case = each.case
        how = case.apart or (f"from {case.anchor.id}" if case.anchor else "from FLOPs")
        drawn.add_row(
            case.id, case.engine, str(case.ranks), f"{case.printed(each.predicted):.5g}", f"{case.value:.5g}", case.unit,
            f"{each.error:+.1%}", how,
        )  # fmt: skip
    return drawn


def _families(found: Outcome) -> Table:
    headings = ("source", "generation", "engine", "rows", "median error", "bias", "worst error", "worst row")
    drawn = _table("by source, constants of the others", headings, 3, left=("worst row",))
    keys = dict.fromkeys((each.case.source, each.case.generation, each.case.engine) for each in found.counted)
    for key in sorted(keys):
        own = [h for h in found.counted if (h.case.source, h.case.generation, h.case.engine) == key]
        errors, worst = [h.error for h in own], max(own, key=lambda h: abs(h.error))
        drawn.add_row(
            *key, str(len(own)), f"{statistics.median(map(abs, errors)):.1%}", f"{statistics.median(errors):+.1%}",
            f"{worst.error:+.1%}", worst.case.id,
        )  # fmt: skip
    return drawn


def _apart(console: Console, found: Outcome) -> None:
    apart = [each for each in found.held if each.case.apart is not None]
    for reason in dict.fromkeys(str(each.case.apart) for each in apart):
        errors = [each.error for each in apart if each.case.apart == reason]
        why = f" ({REASONS[reason]})" if reason in REASONS else ""
        middle = f"median error {statistics.median(map(abs, errors)):.0%}, bias {statistics.median(errors):+.0%}"
        console.print(f"apart, {len(errors)} rows: {reason}{why}; {middle}", soft_wrap=True)


def _orders(compared: Sequence[Pair]) -> Table:
    headings = ("rows", "engines", "ranks", "published", "predicted", "order")
    drawn = _table(
        f"engines that differ by {NOISE:.0%} or more: throughput of the first over the second",
        headings,
        2,
        left=("order",),
    )
    for pair in compared:
        a, b = pair.first.case, pair.second.case
        word = "right" if pair.right else "wrong" if pair.claimed else "wrong, within the noise"
        drawn.add_row(
            f"{a.id}, {b.id}",
            f"{a.name}, {b.name}",
            str(a.ranks),
            f"{pair.published:.2f}",
            f"{pair.predicted:.2f}",
            word,
        )
    return drawn


def _sweeps() -> Table:
    """Every size predicted by lines fitted to the others: how well alpha and beta describe a machine, with one regime and two."""
    drawn = _table(
        "all-reduce sweeps, each size predicted from the others of its machine",
        ("machine", "sizes", "regimes", "median error", "worst error"), 1,
    )  # fmt: skip
    for family, nodes in (("A100AR", None), ("H200AR", None), ("B200AR", 1), ("B200AR", 4)):
        points = sweep(family, nodes)
        for regimes in (1, 2):
            errors = [
                float(
                    channel_fit.relative(
                        channel_fit.fit([*points[:at], *points[at + 1 :]], regimes).channel, [points[at]]
                    )[0]
                )
                for at in range(1, len(points) - 1)
            ]
            name = family.removesuffix("AR") + f", {nodes or 1} node" + ("s" if (nodes or 1) > 1 else "")
            drawn.add_row(
                name, str(len(points)), str(regimes), f"{statistics.median(errors):.1%}", f"{max(errors):.1%}"
            )
    return drawn


def _table(title: str, headings: Sequence[str], words: int, left: Sequence[str] = ()) -> Table:
    drawn = Table(title=title, title_justify="left")
    for at, heading in enumerate(headings):
        drawn.add_column(heading, justify="left" if at < words or heading in left else "right")
    return drawn
