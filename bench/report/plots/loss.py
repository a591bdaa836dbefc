"""The training loss over steps, where all engines should agree, and over the seconds that they took."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import style
from bench.report.plots.series import NothingToDraw, Record, only, records_of, slowest
from bench.report.rows import Group, Row
from bench.report.table import status, title


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment: of each engine the row with most ranks, its first run. Raises NothingToDraw without a finished run."""
    group = only(groups, "loss")
    shown = [
        (row, runs[0])
        for row in widest(group.rows)
        if (runs := records_of(row, records, void=True)) and total_losses(runs[0]).size
    ]
    if not shown:
        raise NothingToDraw("no run finished, so there is no loss to draw")
    lines = _caption(group, [row for row, _ in shown])
    bottom = style.foot_height(lines)
    labels = [row.label for row, _ in shown]
    height = style.top(labels) + 3.2 + bottom
    figure, (left, right) = style.canvas(height, nrows=1, ncols=2, sharey=True)
    figure.subplots_adjust(
        left=0.062, right=0.982, top=1 - style.top(labels) / height, bottom=bottom / height, wspace=0.06
    )
    for count, (row, record) in enumerate(shown):
        losses = total_losses(record)
        _line(left, row, np.arange(1, losses.size + 1), losses, count, len(shown))
        if row.throughput is not None:  # a wrong answer has no speed
            seconds = np.cumsum(slowest(record))
            losses = losses[losses.size - seconds.size :]  # a run that went on has the seconds of its own steps alone
            _line(right, row, seconds, losses, count, len(shown))
            end = style.marks(row.label, hollow=status(row) == "unproven", size=5.5)
            right.plot(seconds[-1:], losses[-1:], ls="", zorder=3, **end)
    for axes, name in ((left, "step"), (right, "seconds under the clock")):
        style.clean(axes)
        axes.set_xlabel(name, size=9)
        axes.set_xlim(left=0)
        axes.set_title(f"loss over {'steps' if axes is left else 'time'}", loc="left", size=9.5, pad=6)
    style.head(figure, "Training loss", title(group))
    style.legend(figure, labels)
    style.foot(figure, lines)
    return figure


def widest(rows: Sequence[Row]) -> list[Row]:
    """Of each engine the row with most ranks that finished a run, in the order of the rows."""
    most: dict[str, Row] = {}
    for row in rows:
        if row.files and (row.label not in most or row.ranks > most[row.label].ranks):
            most[row.label] = row
    return [row for row in rows if row is most.get(row.label)]


def total_losses(record: Record) -> np.ndarray:
    """Total loss of each step, shape (steps,); a number that the record had to spell is NaN and leaves a gap."""
    return np.array([float(step["total"]) for step in record["losses"] or ()])


def _line(axes: Axes, row: Row, xs: np.ndarray, losses: np.ndarray, place: int, count: int) -> None:
    """Lines that lie on one another take turns with their markers."""
    turns = max(count, 1 + losses.size // 12)
    void = status(row) == "void"
    look = style.marks(row.label, hollow=void or status(row) == "unproven", size=5.5)
    first = place * turns // count
    axes.plot(xs, losses, lw=1.4, ls=(0, (2, 1.5)) if void else "-", markevery=(first, turns), zorder=2, **look)


def _caption(group: Group, shown: Sequence[Row]) -> list[str]:
    ranks = sorted({row.ranks for row in shown if row.label != "single"})
    void = [f"{row.label} x{row.ranks}: {row.verdict.why}" for row in shown if row.verdict and row.throughput is None]
    sentences = [
        style.source([group]),
        "Mean over the samples of the global batch, before the update of the step. Each engine at its most ranks "
        f"({', '.join(map(str, ranks)) or '1'}), first run. Lines that agree lie on one another; their markers take turns. Time: the "
        "slowest rank's steps, added up, without set-up, warm-up and evaluation.",
        *(f"Dashed, not over time: void, {why}" for why in void),
        *(told for told in style.silent(group.rows) if ", failed:" in told or told.startswith("Hollow, unproven")),
    ]
    return style.wrapped(sentences)
