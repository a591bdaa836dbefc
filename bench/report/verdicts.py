"""What a table's numbers allow to be said: which engine is faster than which, at what risk, and what was too small to see."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench import pairwise, ranktest, stats
from bench.pairwise import Pair, Sample
from bench.report.rows import Group, Row

FEW_PAIRS = 6  # told in sentences; more are a table
UNSHOWN, SELF = "\N{MIDDLE DOT}", "-"


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The pairs of one group: engines at the same rank count, all of them one family. `left_out`: rows, and why."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...]
    outliers: int  # steps outside their run's fences; they are kept
    steps: int

    @property
    def possible(self) -> bool:
        """Whether any pair has enough repeats to show a difference."""
        return any(pair.possible for pair in self.pairs)


def by_file(records: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Records by the name that a Row knows them by."""
    return {f"{record['run_id']}.json": record for record in records}


def compare(group: Group, files: Mapping[str, Mapping[str, Any]]) -> Verdicts:
    """Every pair of engines at one rank count; `files`: records as `by_file` gives them.

    Only rows whose answer is known to be right: void, unproven, failed and oversubscribed ones are left out.
    """
    samples, left_out = [], []
    for row in group.rows:
        if why := unfit(row):
            left_out.append(f"{row.name} x{row.ranks} ({why})")
        else:
            sample = pairwise.times([files[name] for name in row.files])
            samples.append(dataclasses.replace(sample, label=row.name))
    together = [pair for pair in itertools.combinations(samples, 2) if pair[0].ranks == pair[1].ranks]
    return Verdicts(
        pairs=tuple(pairwise.family(together)),
        left_out=tuple(left_out),
        outliers=sum(stats.outliers(sample.runs) for sample in samples),
        steps=sum(sample.runs.size for sample in samples),
    )


def unfit(row: Row) -> str | None:
    """Why a row is not compared; None where it is."""
    if row.verdict is None:
        return "failed"
    if row.verdict.status in ("void", "unproven"):
        return row.verdict.status
    return "more ranks than cores or GPUs" if row.oversubscribed else None


def summary(found: Verdicts) -> list[str]:
    """The verdicts' terms, a line each: test, repeats, smallest p, minimum detectable difference, outliers."""
    said = []
    runs = sorted({len(side.runs) for pair in found.pairs for side in (pair.first, pair.second)})
    row = (
        " to ".join(map(str, dict.fromkeys((*runs[:1], *runs[-1:])))) + (" run" if runs == [1] else " runs") + " a row"
    )
    count = f"{len(found.pairs)} pair{'s' if len(found.pairs) != 1 else ''}"
    if not found.pairs:
        said.append("No two engines at one rank count can be compared.")
    elif not found.possible:
        least = ranktest.needed(len(found.pairs))
        alone = " (steps of one run are not independent, steps of two runs are no pairs)" if runs == [1] else ""
        said.append(
            f"No difference can be shown with {row}{alone}: over {count}, the Mann-Whitney test needs {least} "
            f"(--repeats {least})."
        )
    else:
        said.append(
            f"faster: Mann-Whitney over the runs' medians, Holm-corrected over {count}, p < {ranktest.ALPHA}, and the "
            "95 % interval of the ratio excludes 1."
        )
        smallest = min(pair.attainable for pair in found.pairs)
        said.append(f"{row}; the smallest p that can be reached is {smallest:.2g}. {detectable(found)}")
        said.append(
            "Ratios: of runs of the same round, median over rounds."
            if all(pair.paired for pair in found.pairs)
            else "Ratios: of runs of the same round where both engines have every round, interleaved; else of all steps."
        )
    if found.left_out:
        said.append(f"Not compared: {', '.join(found.left_out)}.")
    said.append(f"{found.outliers} of {found.steps} steps lie outside their run's Tukey fences; they are kept.")
    return said


def detectable(found: Verdicts) -> str:
    """The minimum detectable difference in words."""
    shares = [100 * pair.detectable for pair in found.pairs if pair.detectable is not None]
    span = f", {min(shares):.1f} to {max(shares):.1f} % over the pairs" if len(shares) > 1 else ""
    return (
        f"Minimum detectable difference ({ranktest.POWER:.0%} power, at the spread seen between runs): "
        f"{statistics.median(shares):.1f} %{span}."
    )


def sentence(pair: Pair) -> str:
    """One pair in words; the ratio is of speeds."""
    speed, verdict = pair.ratio.over(1.0), pair.verdict()
    count = f"{pair.first.ranks} rank{'s' if pair.first.ranks != 1 else ''}"
    names = f"{pair.first.label} {verdict} than {pair.second.label}" if pair.shown else ""
    return (
        f"{count}: {names or f'{pair.first.label} and {pair.second.label}: {verdict}'}, "
        f"speed ratio {speed.median:.3f} [{speed.low:.3f}, {speed.high:.3f}], p {pair.holm:.2g}"
    )


def terminal(found: Verdicts) -> Lines:
    """For a rich console: the pairs, then their terms."""
    shown: list[RenderableType] = []
    if len(found.pairs) <= FEW_PAIRS:
        shown = [Text(sentence(pair), "bold" if pair.shown else "") for pair in found.pairs]
    elif found.possible:
        for ranks in sorted({pair.first.ranks for pair in found.pairs}):
            shown += [*_matrix([pair for pair in found.pairs if pair.first.ranks == ranks]), Text()]
    return Lines(*shown, *(Text(line, "dim") for line in summary(found)))


def markdown(found: Verdicts) -> list[str]:
    """Lines of Markdown: the terms, then every pair, folded where they are many."""
    lines = ["", *(f"{line}  " for line in summary(found))]
    if not found.pairs or (len(found.pairs) > FEW_PAIRS and not found.possible):
        return lines
    table = [
        "| ranks | engines | verdict | speed ratio | 95 % interval | p (Holm) | detectable |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for pair in found.pairs:
        speed = pair.ratio.over(1.0)
        least = "-" if pair.detectable is None else f"{100 * pair.detectable:.1f} %"
        table.append(
            f"| {pair.first.ranks} | {pair.first.label} : {pair.second.label} | {pair.verdict()} | {speed.median:.3f} "
            f"| {speed.low:.3f}\N{EN DASH}{speed.high:.3f} | {pair.holm:.2g} | {least} |"
        )
    if len(found.pairs) <= FEW_PAIRS:
        return [*lines, "", *table]
    fold = f"<details><summary>All {len(found.pairs)} pairs</summary>"
    return [*lines, "", fold, "", *table, "", "</details>"]


def _matrix(pairs: Sequence[Pair]) -> tuple[Text, Table]:
    """Engines against engines of one rank count, with a line above."""
    speeds: dict[tuple[Sample, Sample], str] = {}
    for pair in pairs:
        there, back = pair.ratio.over(1.0).median, pair.ratio.median
        speeds[pair.first, pair.second] = _cell(there) if pair.shown else UNSHOWN
        speeds[pair.second, pair.first] = _cell(back) if pair.shown else UNSHOWN
    engines = list(dict.fromkeys(sample for pair in pairs for sample in (pair.first, pair.second)))
    ranks = f"{engines[0].ranks} rank{'s' if engines[0].ranks != 1 else ''}"
    heading = Text(f"{ranks}: speed over that of engine 1, 2, ... ({UNSHOWN} no difference shown)", "bold")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("engine", no_wrap=True)
    for number in range(1, len(engines) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, engine in enumerate(engines, 1):
        table.add_row(f"{number} {engine.label}", *(speeds.get((engine, other), SELF) for other in engines))
    return heading, table


def _cell(ratio: float) -> str:
    """Four characters."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
