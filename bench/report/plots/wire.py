"""What a rank sends in one step: measured, derived from the setting, and the least that the mean of the gradients needs."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench import wire
from bench.report.look import MEMORY
from bench.report.plots import bars, style
from bench.report.plots.series import NothingToDraw, Record, only, records_of
from bench.report.rows import Group, Row
from bench.report.table import MIB, title
from bench.wire import Expected, bound_bytes

PARTS = {
    "gradients": MEMORY["gradients"][0],
    "trainable": MEMORY["parameters"][0],
    "frozen": MEMORY["activations"][0],
}
NAMES = {"gradients": "gradients", "trainable": "trained parameters", "frozen": "frozen parameters"}


def draw(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One experiment, rows of two ranks or more. Raises NothingToDraw where nothing was measured."""
    group = only(groups, "wire")
    rows = [row for row in group.rows if row.ranks > 1]
    runs = [records_of(row, records) for row in rows]
    found = [(_sent(each), _bound(row, each)) for row, each in zip(rows, runs, strict=True)]
    derived = [wire.expected(each[0]) if each else Expected(reason="no run") for each in runs]
    if not any(sent is not None for sent, _ in found):
        raise NothingToDraw(
            "no run at two ranks or more counted what it sends; the ring does: ringzero launch --ranks 2 --backend ring"
        )
    captions = _caption(group, rows, records)
    shape, foot = bars.lines(rows), style.foot_height(captions)
    figure, axes = style.canvas(shape.height(foot))
    bars.frame(figure, [axes], shape, foot)
    known = [value for each in found for value in each if value is not None]
    axes.set_xlim(0, max([*known, *(each.total or 0.0 for each in derived)]) / MIB * 1.3)
    axes.set_title("MiB sent by a rank in a step", loc="left", size=9.5, pad=4)
    for row, place, (sent, bound), parts in zip(rows, shape.places, found, derived, strict=True):
        _expected(axes, place, parts)
        if bound is not None:
            axes.plot([bound / MIB] * 2, [place - 0.5, place + 0.5], color=style.INK, lw=1.8, zorder=4)
        if sent is None:
            bars.say(axes, place - 0.1, bars.why_not(row) or "not measured: see below")
        else:
            _bar(axes, row, place, sent, bound, parts)
    style.head(figure, "Bytes on the wire", title(group))
    mark = Line2D(
        [], [], color=style.INK, lw=0, marker="|", ms=12, mew=1.8, label="2(N-1)/N of the gradients: the bound"
    )
    boxes = [Patch(color=PARTS[name], label=f"expected: {NAMES[name]}") for name in PARTS]
    style.key(figure, [mark, *boxes], columns=4)
    style.foot(figure, captions)
    return figure


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


def _bar(axes: Axes, row: Row, place: float, sent: float, bound: float | None, parts: Expected) -> None:
    axes.barh(place - 0.1, sent / MIB, bars.BAR * 0.7, color=style.look(row.label).colour, zorder=2)
    beside = f"  {sent / bound:.2f} x the bound" if bound else ""
    if parts.total:
        beside = f"  {sent / parts.total:.3f} x the expected"
    end = max(sent, bound or 0, parts.total or 0) / MIB
    axes.annotate(f"{sent / MIB:,.2f}{beside}", (end, place), (7, 0), textcoords="offset points",
                  va="center", size=9, bbox=style.PAPER, zorder=5)  # fmt: skip


def _expected(axes: Axes, place: float, parts: Expected) -> None:
    """A thin line of three parts below the measured bar; nothing where they can't be derived."""
    at = 0.0
    for name, colour in PARTS.items() if parts.total else ():
        size = getattr(parts, name) / MIB
        axes.barh(place + 0.26, size, 0.16, left=at, color=colour, zorder=2)
        at += size


def _caption(group: Group, rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for record in records_of(row, records)[:1]:
            traffic = record.get("traffic") or {}
            if traffic.get("sent_bytes") is None:
                why = traffic.get("sent_bytes_reason") or "the record does not say why"
                reasons.setdefault(why, []).append(f"{row.label} x{row.ranks}")
    underived = {
        f"{row.label} x{row.ranks}: {reason}"
        for row in rows
        for record in records_of(row, records)[:1]
        if (reason := wire.expected(record).reason)
    }
    sentences = [
        style.source([group]),
        f"A rank and step, the rank that sent most. Counted by {sources(records)}. Expected: from the settings that the "
        "engine read back (bench/wire.py has the derivation); measured beyond it are message headers, norms of the gradients "
        "and Horovod's negotiation. The bound is an all-reduce's (Patarasuk & Yuan 2009).",
        *(f"Expected is not known: {said}." for said in sorted(underived)),
        *(f"Not measured, {reason}: {', '.join(names)}." for reason, names in reasons.items()),
        *(told for told in style.silent(rows) if told.startswith("Not drawn")),
    ]
    return style.wrapped(sentences)


def sources(records: Sequence[Record]) -> str:
    """Who counted, in words."""
    words = {
        "engine": "the engine's own calls (ring)",
        "kernel sockets": "the kernel, over all TCP sockets of the process",
    }
    seen = {(record.get("traffic") or {}).get("source") for record in records if record["world"]["size"] > 1}
    return " or ".join(words[name] for name in words if name in seen) or "the engine's own calls"
