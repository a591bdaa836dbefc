"""Two sets of records, old and new, for the reader: a table of what changed, and what could be seen. Terminal and Markdown."""

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench import ranktest
from bench.changes import Change, Changes
from bench.pairwise import Pair
from bench.report.table import NONE

HEADINGS = ("engine", "ranks", "step time", "memory", "final loss", "change")
STYLE: dict[str, str] = {"worse": "bold red", "better": "green", "none shown": ""}


def summary(found: Changes) -> list[str]:
    """What was tested, what could be seen, and what is on one side only."""
    pairs, said = found.pairs, []
    if pairs and not any(pair.possible for pair in pairs):
        counts = sorted({len(side.runs) for pair in pairs for side in (pair.first, pair.second)})
        row = f"{' or '.join(map(str, counts))} run{'s' if counts != [1] else ''} a row"
        said.append(
            f"No change of time or memory can be shown with {row}: over {len(pairs)} "
            f"comparisons, the Mann-Whitney test needs {ranktest.needed(len(pairs))} on each side."
        )
    elif pairs:
        said.append(
            f"slower, heavier: Mann-Whitney over runs, Holm-corrected over {len(pairs)} comparisons, p < {ranktest.ALPHA}, "
            f"and the ratio's 95 % interval excludes 1; smallest p in reach {min(pair.attainable for pair in pairs):.2g}."
        )
        least = [row.time.detectable for row in found.rows if row.time is not None and row.time.detectable is not None]
        if least:
            said.append(
                f"Minimum detectable slowdown ({ranktest.POWER:.0%} power): {100 * min(least):.1f} to {100 * max(least):.1f} %."
            )
    if pairs and not all(row.time.paired for row in found.rows if row.time is not None):
        said.append("Measured at different times, not interleaved: what the machine did in between counts as a change.")
    both = (("OLD", found.only_old, found.only_new), ("NEW", found.only_new, found.only_old))
    for side, keys, others in both:
        if keys:
            said.append(f"Only in {side}, not compared: {', '.join(key.beside(others) for key in keys)}.")
    worse = [f"{row.key.label} x{row.key.ranks}" for row in found.worse]
    said.append(f"Worse: {', '.join(worse)}." if worse else "Nothing is shown to be worse.")
    return said


def cells(row: Change) -> list[str]:
    """A row as text, in the order of HEADINGS."""
    loss = NONE if row.loss is None else f"{row.loss.new:.4f}"
    if row.loss is not None and row.loss.effect != "none shown":
        loss = f"{row.loss.old:.4f} -> {loss}"
    return [row.key.label, str(row.key.ranks), _share(row.time), _share(row.memory), loss, row.effect]


def terminal(found: Changes, about: Sequence[str]) -> Lines:
    """For a rich console; `about`: lines that stand above."""
    parts: list[RenderableType] = [Text(line, "yellow" if line.startswith("!") else "dim") for line in about]
    for heading, rows in _sections(found):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for index, name in enumerate(HEADINGS):
            table.add_column(name, justify="right" if 0 < index < 5 else "left", no_wrap=True)
        for row in rows:
            *plain, effect = cells(row)
            table.add_row(*plain, Text(effect, STYLE[effect]))
        told = [Text(_line(row, text), STYLE[effect]) for row in rows for effect, text in row.said]
        parts += [Text(heading, "bold"), table, Text(), *told]
    return Lines(*parts, *(Text(line, "dim") for line in summary(found)))


def markdown(found: Changes, about: Sequence[str]) -> list[str]:
    """The same as lines of Markdown."""
    lines = [f"**{summary(found)[-1]}**", "", *(f"- {line}" for line in about)]
    for heading, rows in _sections(found):
        lines += ["", f"**{heading}**", "", f"| {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|---:|---|"]
        for row in rows:
            *plain, effect = cells(row)
            words = "; ".join(text for _, text in row.said).replace("|", "\\|").replace("*", "\\*")
            lines.append(f"| {' | '.join(plain)} | {effect}{': ' if words else ''}{words} |")
    return [*lines, "", *(f"{line}  " for line in summary(found)[:-1])]


def _sections(found: Changes) -> list[tuple[str, list[Change]]]:
    """Rows by what their table has in common."""
    grouped: dict[tuple[str, ...], list[Change]] = {}
    for row in found.rows:
        grouped.setdefault((row.key.experiment, row.key.device, row.key.machine, row.title), []).append(row)
    return [(rows[0].title, rows) for rows in grouped.values()]


def _line(row: Change, text: str) -> str:
    return f"{row.key.label} x{row.key.ranks} {text}"


def _share(pair: Pair | None) -> str:
    return NONE if pair is None else f"{100 * (pair.ratio.median - 1):+.1f} %"
