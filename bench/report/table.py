"""The table of a comparison: in the terminal, and the same cells as Markdown."""

import re
from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.report import conditions, quality
from bench.report.rows import Group, Row

# A heading's line break is kept in the terminal, where a table has 80 columns.
HEADINGS = (
    "engine",
    "ranks",
    "samples/s",
    "95 %\ninterval",
    "step\nms",
    "vs\nsingle",
    "memory\nMiB/rank",
    "final\nloss",
    "verdict",
)
RIGHT = range(1, 8)
COLUMNS = 80
STYLE = {"verified": "green", "reference": "bold", "unproven": "yellow", "void": "bold red", "failed": "red"}
NONE = "-"
MIB = 2**20
PERCENT = re.compile(r"\d+ ?%|%")


def title(group: Group) -> str:
    """What all rows of a group have in common."""
    workload, training = group.config["workload"], group.config["training"]
    variant = f"{workload['variant']}, " if workload.get("variant") else ""
    length = f"{training['steps']} steps" if training.get("epochs") is None else f"{training['epochs']:g} epochs"
    return (
        f"{workload['preset']} on {workload['data']}, {variant}{workload['precision']}, {training['optimizer']}, "
        f"global batch {training['global_batch']}, {length}, {group.device}"
        + "".join(f", {each}" for each in conditions.words(group.under))
        + (", tuned track: each engine with settings of its own" if group.track == "tuned" else "")
    )


def caption(group: Group) -> list[str]:
    """Units, denominators and the statistic over ranks, a line each."""
    runs = f"{group.runs} run{'s' if group.runs != 1 else ''} a row at most"
    lines = [
        f"samples/s: the {group.config['training']['global_batch']} samples of the global batch over the median step; "
        "a step lasts as long as on its slowest rank, data loading included.",
        f"interval: bootstrap of that median, {runs}"
        + ("." if group.runs != 1 else ": it knows the spread between steps, not between runs."),
        "vs single: throughput over that of one plain process. "
        "memory: the largest rank's peak above its level before the model was built.",
        "verified: losses and parameters equal to the single-process run's, step by step, "
        "also under SGD with clipping off and on.",
    ]
    if any(row.oversubscribed for row in group.rows):
        lines.append("* more ranks than cores or GPUs: not a measure of scaling.")
    return [*lines, *warned(group.rows)]


def warned(rows: Sequence[Row]) -> list[str]:
    """What the runs themselves say may have made a number wrong, each with the rows it stood in."""
    where: dict[str, dict[str, str]] = {}  # a warning without its percentages: the rows, and their largest one
    for row in rows:
        for said in row.warnings:
            kind = where.setdefault(PERCENT.sub("%", said), {})
            name = f"{row.label} x{row.ranks}"
            kind[name] = max(kind.get(name, said), said, key=_percent)
    return [
        f"warning: {max(names.values(), key=_percent)} "
        f"({'every row' if len(names) == len(rows) > 1 else ', '.join(names)}{', at most' if PERCENT.search(said) else ''})."
        for said, names in where.items()
    ]


def _percent(said: str) -> float:
    found = PERCENT.search(said)
    return float(found[0].rstrip("% ") or 0) if found else -1.0


def status(row: Row) -> str:
    return "failed" if row.verdict is None else row.verdict.status


def cells(row: Row) -> list[str]:
    """A row as text, in the order of HEADINGS."""
    speed, step = row.throughput, row.step_s
    return [
        row.label,
        f"{row.ranks}{'*' if row.oversubscribed else ''}",
        NONE if speed is None else number(speed.median),
        NONE if speed is None else f"{number(speed.low)}\N{EN DASH}{number(speed.high)}",
        NONE if step is None else number(step.median * 1e3),
        NONE if row.vs_single is None else f"{row.vs_single:.2f}x",
        NONE if row.memory_bytes is None else f"{row.memory_bytes / MIB:,.0f}",
        NONE if row.final_loss is None else f"{row.final_loss:.4f}",
        status(row),
    ]


def note(row: Row) -> str | None:
    """What the one word of the verdict leaves out; None where it says all."""
    parts = [f"with {row.tuned}"] if row.tuned else []
    if row.verdict is not None and row.verdict.status in ("void", "unproven"):
        parts.append(row.verdict.why)
    if row.thrashing:
        parts.append("short of GPU memory in the window: this speed is the allocator's")
    if row.failures:
        share = f"{len(row.failures)} of {len(row.failures) + len(row.files)} runs failed: " if row.files else ""
        parts.append(share + row.failures[0])
    return "; ".join(parts) or None


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def terminal(group: Group) -> Lines:
    """The table for a rich console, with what its verdicts mean and its caption below."""
    texts = [cells(row) for row in group.rows]
    gap = 2 if _width([*texts, HEADINGS], 2) <= COLUMNS else 1
    table = Table(
        title=title(group),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, gap, 0, 0),
        header_style="dim",
    )
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index in RIGHT else "left", vertical="bottom", no_wrap=True)
    before = group.rows[0].ranks
    for row in group.rows:
        if row.ranks != before:
            table.add_row()
        before = row.ranks
        *plain, verdict = cells(row)
        table.add_row(*plain, Text(verdict, STYLE[verdict]))
    notes = [
        Text(f"{row.label} x{row.ranks} {status(row)}: {text}", STYLE[status(row)])
        for row in group.rows
        if (text := note(row))
    ]
    detected = quality.terminal(group)
    shown: list[RenderableType] = [] if detected is None else [detected, Text()]
    return Lines(table, Text(), *notes, *shown, *(Text(line, "dim") for line in caption(group)))


def markdown(groups: Sequence[Group], *, folder: str = "") -> str:
    """The same tables as Markdown; the engine's name links the record of its first run, further runs follow as numbers.

    `folder`: where the records lie, as seen from the Markdown file.
    """
    parts = []
    for group in groups:
        rule = "|".join("---:" if index in RIGHT else "---" for index in range(len(HEADINGS)))
        lines = [
            f"**{title(group)}**",
            "",
            f"| {' | '.join(each.replace(chr(10), ' ') for each in HEADINGS)} |",
            f"|{rule}|",
        ]
        for row in group.rows:
            texts = [_links(row, folder), *(text.replace("*", "\\*") for text in cells(row)[1:-1]), f"*{status(row)}*"]
            if text := note(row):
                texts[-1] += ": " + text.replace("|", "\\|").replace("*", "\\*")
            lines.append(f"| {' | '.join(texts)} |")
        parts.append(
            "\n".join([*lines, "", *(line.replace("*", "\\*") for line in caption(group)), *quality.markdown(group)])
        )
    return "\n\n".join(parts) + "\n"


def _width(lines: Sequence[Sequence[str]], gap: int) -> int:
    """Characters of a table's line whose columns are as wide as their widest cell."""
    return sum(
        max(len(part) for text in column for part in text.split("\n")) + gap for column in zip(*lines, strict=True)
    )


def _links(row: Row, folder: str) -> str:
    at = [f"{folder.rstrip('/')}/{name}" if folder else name for name in row.files]
    names = [row.label, *(str(count) for count in range(2, len(at) + 1))]
    return " ".join(f"[{name}]({path})" for name, path in zip(names, at, strict=False)) or row.label
