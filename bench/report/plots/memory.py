"""What the largest rank's memory is made of, category by category, up to the peak that was measured."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.report.look import MEMORY
from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only, records_of
from bench.report.rows import Group, memory_bytes, memory_parts
from bench.report.table import MIB, title

OTHER = MEMORY["other"][0]
COLOURS = {name: pair[0] for name, pair in MEMORY.items() if name != "other"}  # of the page


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment. Raises NothingToDraw where no run watched its memory."""
    group = only(groups, "memory")
    found = [_largest(records_of(row, records)) for row in group.rows]
    tops = [max(peak, sum(parts.values())) for peak, parts, _ in (each for each in found if each)]
    if not tops:
        raise NothingToDraw("memory was not measured: it is watched during warm-up; run with --warmup 2 or more")
    captions = _caption(group, found)
    shape, foot = bars.lines(group.rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot))
    bars.frame(figure, [axes], shape, foot)
    axes.set_xlim(0, max(tops) / MIB * 1.1)
    axes.set_title("MiB on the largest rank", loc="left", size=9.5, pad=4)
    for row, place, each in zip(group.rows, shape.places, found, strict=True):
        if each is None:
            bars.say(axes, place, bars.why_not(row) or "not measured: see below")
        else:
            _stack(axes, place, *each)
    style.head(figure, "What the memory is made of", title(group))
    _legend(figure)
    style.foot(figure, captions)
    return figure


def _largest(runs: Sequence[Record]) -> tuple[int, dict[str, int], list[int]] | None:
    """(peak, bytes by category, every rank's peak) of the rank that took most, of the run that took most."""
    known = [record for record in runs if memory_bytes(record) is not None]
    if not known:
        return None
    run = max(known, key=lambda record: memory_bytes(record) or 0)
    ranks: list[Mapping[str, Any]] = [rank["memory"] for rank in run["ranks"]]
    most = max(ranks, key=lambda memory: memory["peak_bytes"])
    return most["peak_bytes"], memory_parts(most), [memory["peak_bytes"] for memory in ranks]


def _stack(axes: Axes, place: float, peak: int, parts: Mapping[str, int], ranks: Sequence[int]) -> None:
    at = 0.0
    for name, held in parts.items():
        axes.barh(place, held / MIB, bars.BAR, left=at / MIB, color=COLOURS[name], zorder=2, ec="white", lw=0.5)
        at += held
    if peak > at:
        axes.barh(
            place,
            (peak - at) / MIB,
            bars.BAR,
            left=at / MIB,
            zorder=2,
            facecolor="white",
            edgecolor=OTHER,
            hatch="////",
            lw=0.8,
        )
    for each in ranks:
        axes.plot([each / MIB] * 2, [place - 0.42, place + 0.42], color=style.INK, lw=1.4, zorder=4)
    axes.annotate(f"{peak / MIB:,.0f}", (max(at, peak) / MIB, place), (6, 0), textcoords="offset points", va="center",
                  weight="bold", size=9, bbox=style.PAPER, zorder=5)  # fmt: skip


def _legend(figure: Figure) -> None:
    handles: list[Any] = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    handles.append(Patch(label="unattributed", facecolor="white", edgecolor=OTHER, hatch="////", lw=0.8))
    handles.append(Line2D([], [], color=style.INK, lw=0, marker="|", ms=11, mew=1.5, label="peak of a rank"))
    style.key(figure, handles, columns=-(-len(handles) // 2))


def _caption(group: Group, found: Sequence[Any]) -> list[str]:
    missing = [
        f"{row.label} x{row.ranks}"
        for row, each in zip(group.rows, found, strict=True)
        if each is None and row.throughput
    ]
    sentences = [
        style.source([group]),
        "Read at the moment of the peak, above the level before the model was built. Parameters to data: tensors that exist, each "
        "storage once (data: samples made ahead). Workspace: all else that is allocated; allocator: freed, not returned to the "
        "system; mapped: files, shared memory; runtime: Python's objects, stacks. The peak itself is the kernel's "
        "(CPU: proportional set size, without libraries) or the allocator's (GPU).",
        *(["Memory was not watched (--warmup 0?): " + textwrap.shorten(", ".join(missing), 150)] if missing else []),
        *(told for told in style.silent(group.rows) if told.startswith("Not drawn")),
    ]
    return style.wrapped(sentences)
