"""What a rank sends in one step, against what the mean of the gradients needs at least."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only, records_of
from bench.report.rows import Group, Row
from bench.report.table import MIB, title


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment, rows of two ranks or more. Raises NothingToDraw where no engine says what it sends."""
    group = only(groups, "wire")
    rows = [row for row in group.rows if row.ranks > 1]
    found = [(_sent(runs := records_of(row, records)), _bound(row, runs)) for row in rows]
    if not any(sent is not None for sent, _ in found):
        raise NothingToDraw(
            "no run at two ranks or more says what it sends; the ring does: ringzero launch --ranks 2 --backend ring"
        )
    captions = _caption(group, rows, records)
    shape, foot = bars.lines(rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot))
    bars.frame(figure, [axes], shape, foot)
    axes.set_xlim(0, max(value for each in found for value in each if value is not None) / MIB * 1.22)
    axes.set_title("MiB sent by a rank in a step", loc="left", size=9.5, pad=4)
    for row, place, (sent, bound) in zip(rows, shape.places, found, strict=True):
        if bound is not None:
            axes.plot([bound / MIB] * 2, [place - 0.5, place + 0.5], color=style.INK, lw=1.8, zorder=4)
        if sent is None:
            bars.say(axes, place, bars.why_not(row) or "not measured: see below")
        else:
            _bar(axes, row, place, sent, bound)
    style.head(figure, "Bytes on the wire", title(group))
    mark = Line2D(
        [], [], color=style.INK, lw=0, marker="|", ms=12, mew=1.8, label="2(N-1)/N of the gradients' bytes: the bound"
    )
    style.key(figure, [mark], columns=1)
    style.foot(figure, captions)
    return figure


def bound_bytes(ranks: int, gradient_bytes: float) -> float:
    """Least bytes that a rank sends so that all ranks hold the mean of the gradients (Patarasuk & Yuan 2009, section 3)."""
    return 2 * (ranks - 1) / ranks * gradient_bytes


def _sent(runs: Sequence[Record]) -> float | None:
    """Bytes of the rank that sent most, of the run that sent most; None where a run does not tell."""
    told = [(record.get("traffic") or {}).get("sent_bytes") for record in runs]
    known = [max(each) for each in told if each]
    return max(known) if known and len(known) == len(told) else None


def _bound(row: Row, runs: Sequence[Record]) -> float | None:
    for record in runs:
        if (cost := (record.get("workload") or {}).get("cost")) is not None:
            return bound_bytes(row.ranks, cost["gradient_bytes"])
    return None


def _bar(axes: Axes, row: Row, place: float, sent: float, bound: float | None) -> None:
    axes.barh(place, sent / MIB, bars.BAR, color=style.look(row.label).colour, zorder=2)
    beside = f"  {sent / bound:.2f} x the bound" if bound else ""
    axes.annotate(f"{sent / MIB:,.2f}{beside}", (max(sent, bound or 0) / MIB, place), (7, 0), textcoords="offset points",
                  va="center", size=9, bbox=style.PAPER, zorder=5)  # fmt: skip


def _caption(group: Group, rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for record in records_of(row, records)[:1]:
            traffic = record.get("traffic") or {}
            if traffic.get("sent_bytes") is None:
                why = traffic.get("sent_bytes_reason") or "the record does not say why"
                reasons.setdefault(why, []).append(f"{row.label} x{row.ranks}")
    sentences = [
        style.source([group]),
        "The engine's own count of its calls, a rank and step. The bound is an all-reduce's (Patarasuk & Yuan 2009); engines that "
        "also exchange parameters (fsdp, zero-3) need more.",
        *(f"Not measured, {reason}: {', '.join(names)}." for reason, names in reasons.items()),
        *(told for told in style.silent(rows) if told.startswith("Not drawn")),
    ]
    return style.wrapped(sentences)
