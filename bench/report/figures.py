"""The figure of a comparison: throughput with its interval and memory per rank, of every engine at every rank count."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen first
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from bench.report.look import COLOURS
from bench.report.rows import Group, Row
from bench.report.table import MIB, number, status, title

INK, FAINT, ALARM = "#1b1f24", "#6b7480", "#B3261E"
BAR, SECTION_GAP = 0.68, 1.0
PAPER = {
    "facecolor": "white",
    "edgecolor": "none",
    "pad": 0.8,
}  # behind labels: readable across lines, and still text in the SVG
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "ringzero",
    "hatch.linewidth": 0.8,
}  # text stays text; the same records give the same file


def draw(group: Group) -> Figure:
    """One group as a figure. Raises ValueError where it has no row."""
    if not group.rows:
        raise ValueError("no row to draw")
    with plt.rc_context(STYLE):
        places, headings = _places(group.rows)
        height = 1.9 + 0.31 * (places[-1] + 1)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, height), width_ratios=(1.55, 1), sharey=True)
        figure.subplots_adjust(left=0.115, right=0.965, top=1 - 0.98 / height, bottom=0.92 / height, wspace=0.12)
        _throughput(left, group.rows, places)
        _memory(right, group.rows, places)
        for axes in (left, right):
            _clean(axes)
        left.set_ylim(places[-1] + 0.6, -1.25)
        left.set_yticks(places, [f"{row.label}{' *' if row.oversubscribed else ''}" for row in group.rows])
        across = blended_transform_factory(figure.transFigure, left.transData)
        for place, count in headings:
            left.text(
                0.018, place, f"{count} rank{'s' if count != 1 else ''}", transform=across, weight="bold", va="center"
            )
        figure.text(
            0.018, 1 - 0.33 / height, "Throughput and memory, engine by engine", size=13.5, weight="bold", va="center"
        )
        figure.text(0.018, 1 - 0.6 / height, title(group), size=9.5, color=FAINT, va="center")
        figure.text(0.018, 0.13 / height, _caption(group), size=7.6, color=FAINT, va="bottom", linespacing=1.45)
    return figure


def write(groups: Sequence[Group], stem: Path) -> list[Path]:
    """PNG and SVG of each group: `stem`.png, `stem`.svg; a second group gets `stem`-2. Returns the paths."""
    written = []
    for count, group in enumerate(groups, 1):
        figure = draw(group)
        name = stem.name if count == 1 else f"{stem.name}-{count}"
        with plt.rc_context(STYLE):
            for kind in ("png", "svg"):
                path = stem.with_name(f"{name}.{kind}")
                figure.savefig(path, dpi=200, facecolor="white", metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
        plt.close(figure)
    return written


def _places(rows: Sequence[Row]) -> tuple[list[float], list[tuple[float, int]]]:
    """Where each row stands (top down, in bars), and where each rank count's heading does."""
    places: list[float] = []
    headings: list[tuple[float, int]] = []
    at = -1.0
    for index, row in enumerate(rows):
        if index == 0 or row.ranks != rows[index - 1].ranks:
            at += SECTION_GAP if index else 0.0
            headings.append((at + (0.35 if index else 0.25), row.ranks))
            at += 0.25 if index else 0.0
        at += 1
        places.append(at)
    return places, headings


def _throughput(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    axes.set_title("samples/s  (median, 95 % interval)", loc="left", size=9.5, color=INK, pad=4)
    top = max((row.throughput.high for row in rows if row.throughput), default=1.0)
    axes.set_xlim(0, top * 1.2)
    base = next((row.throughput.median for row in rows if row.label == "single" and row.throughput), None)
    if base is not None:
        axes.axvline(base, color=COLOURS["single"], lw=0.9, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            "one plain process",
            (base, 1),
            (3, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            size=7.4,
            color=COLOURS["single"],
            va="top",
        )
    for row, place in zip(rows, places, strict=True):
        if row.throughput is None:
            _mark(axes, row, place)
            continue
        speed = row.throughput
        _bar(axes, row, place, speed.median)
        axes.plot([speed.low, speed.high], [place, place], color=INK, lw=1.3, solid_capstyle="butt", zorder=3)
        for end in (speed.low, speed.high):
            axes.plot([end, end], [place - 0.14, place + 0.14], color=INK, lw=1.3, zorder=3)
        beside = "" if row.vs_single is None or row.label == "single" else f"  {row.vs_single:.2f}x"
        unproven = "  unproven" if status(row) == "unproven" else ""
        _value(axes, max(speed.median, speed.high), place, number(speed.median), f"{beside}{unproven}")


def _memory(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    axes.set_title("memory, MiB a rank  (largest rank's peak)", loc="left", size=9.5, color=INK, pad=4)
    axes.set_xlim(0, max((row.memory_bytes for row in rows if row.memory_bytes), default=1.0) / MIB * 1.2)
    for row, place in zip(rows, places, strict=True):
        if row.memory_bytes is None or status(row) in ("void", "failed"):
            text = "" if status(row) in ("void", "failed") else "not measured"
            axes.text(0, place, f" {text}", color=FAINT, va="center", size=8.4)
            continue
        _bar(axes, row, place, row.memory_bytes / MIB)
        _value(axes, row.memory_bytes / MIB, place, f"{row.memory_bytes / MIB:,.0f}", "")


def _bar(axes: Axes, row: Row, place: float, value: float) -> None:
    colour = COLOURS.get(row.label.split("-")[0], FAINT)
    look: dict[str, Any] = {"color": colour}
    if row.oversubscribed or status(row) == "unproven":
        look = {"facecolor": "white", "edgecolor": colour, "hatch": "////", "lw": 1.0}
    axes.barh(place, value, BAR, zorder=2, **look)


def _value(axes: Axes, x: float, place: float, text: str, beside: str) -> None:
    label = axes.annotate(
        text, (x, place), (5, 0), textcoords="offset points", va="center", weight="bold", size=9, bbox=PAPER, zorder=5
    )
    if beside:
        axes.annotate(
            beside,
            (1, 0),
            (0, 0),
            xycoords=label,
            textcoords="offset points",
            va="bottom",
            size=8.4,
            color=FAINT,
            bbox=PAPER,
        )


def _mark(axes: Axes, row: Row, place: float) -> None:
    """In place of a bar: why there is none."""
    why = row.verdict.why if row.verdict else "; ".join(row.failures) or "not run"
    across = blended_transform_factory(axes.transAxes, axes.transData)
    axes.plot(0.012, place, marker="x", color=ALARM, ms=6, mew=1.8, transform=across)
    axes.text(
        0.035,
        place,
        f"{status(row)}: {textwrap.shorten(why, 74, placeholder=' ...')}",
        color=ALARM,
        va="center",
        size=8.2,
        transform=across,
        bbox=PAPER,
        clip_on=False,
    )


def _clean(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    axes.tick_params(axis="x", colors=FAINT, labelsize=8)
    axes.xaxis.grid(True, color="#e7eaee", lw=0.8)
    axes.locator_params(axis="x", nbins=5)
    axes.set_axisbelow(True)


def _caption(group: Group) -> str:
    dates = (
        group.dates[0][:10]
        if group.dates[0][:10] == group.dates[1][:10]
        else f"{group.dates[0][:10]} to {group.dates[1][:10]}"
    )
    lines = [
        f"{group.machine}; {dates}; commit {', '.join(group.commits)}; "
        f"up to {group.runs} run{'s' if group.runs != 1 else ''} a row; experiment {group.experiment}.",
        "A step lasts as long as on its slowest rank. Rows are checked against the single-process run; "
        "a cross: failed, or differs from it.",
    ]
    notes = []
    if any(row.oversubscribed for row in group.rows):
        notes.append("* hatched: more ranks than cores or GPUs, not a measure of scaling.")
    if any(status(row) == "unproven" for row in group.rows):
        notes.append("Hatched and named unproven: not checked.")
    return "\n".join([*lines, *([" ".join(notes)] if notes else [])])
