"""What tuning did to the loss: the curve of each tuned engine beside its controlled one, and how far they are apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.plots import style
from bench.report.plots.loss import total_losses
from bench.report.plots.series import NothingToDraw, Record, records_of
from bench.report.rows import Group, Row
from bench.report.table import title


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """Both tracks of one experiment; of each row its first run. Raises NothingToDraw where no engine is in both."""
    pairs = _pairs(groups, records)
    if not pairs:
        raise NothingToDraw(
            "no engine has both a tuned and a controlled run of one experiment; make some with: ringzero tune"
        )
    lines = _caption(groups, [row for row, _, _ in pairs])
    bottom = style.foot_height(lines)
    labels = [row.label for row, _, _ in pairs]
    height = style.top(labels) + 3.2 + bottom
    figure, (left, right) = style.canvas(height, nrows=1, ncols=2)
    figure.subplots_adjust(
        left=0.062, right=0.982, top=1 - style.top(labels) / height, bottom=bottom / height, wspace=0.16
    )
    apart = [_apart(tuned, controlled) for _, tuned, controlled in pairs]
    for (row, tuned, controlled), distance in zip(pairs, apart, strict=True):
        look = style.marks(row.label, size=5.5)
        steps = np.arange(1, tuned.size + 1)
        left.plot(steps, controlled, lw=4, color=look["color"], alpha=0.25, solid_capstyle="round", zorder=1)
        left.plot(steps, tuned, lw=1.2, zorder=2, **look)
        right.plot(steps, distance, lw=1.2, zorder=2, **look)
    largest = max(float(each.max()) for each in apart)
    right.set_yscale("symlog", linthresh=1e-8)
    right.set_ylim(0, max(largest * 3, 1e-7))
    for axes, name in ((left, "loss: tuned (thin), controlled (wide)"), (right, "difference, relative to controlled")):
        style.clean(axes)
        axes.set_xlabel("step", size=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name, loc="left", size=9.5, pad=6)
    style.head(figure, "What tuning did to the loss", title(groups[0]))
    style.legend(figure, labels)
    style.foot(figure, lines)
    return figure


def _pairs(groups: Sequence[Group], records: Sequence[Record]) -> list[tuple[Row, np.ndarray, np.ndarray]]:
    """(tuned row, its losses, the controlled ones), where engine and ranks are in both and took as many steps."""
    plain = {
        (row.label, row.ranks): found
        for group in groups
        if group.track == "controlled"
        for row in group.rows
        if (found := records_of(row, records, void=True))
    }
    made = []
    for group in groups:
        for row in group.rows if group.track == "tuned" else ():
            runs, others = records_of(row, records, void=True), plain.get((row.label, row.ranks))
            if runs and others:
                tuned, controlled = total_losses(runs[0]), total_losses(others[0])
                if tuned.size == controlled.size > 0:
                    made.append((row, tuned, controlled))
    return made


def _apart(tuned: np.ndarray, controlled: np.ndarray) -> np.ndarray:
    return np.abs(tuned - controlled) / np.abs(controlled)


def _caption(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    settings = "; ".join(f"{row.label} x{row.ranks}: {row.tuned}" for row in rows)
    return style.wrapped(
        [
            style.source(list(groups)),
            "Mean over the samples of the global batch, before the update of the step; first run of each. The axis of the "
            "difference is linear below 1e-8: fp32 rounds at 6e-8.",
            f"Settings: {settings}.",
        ]
    )
