"""Figures with lines: throughput and efficiency over ranks, loss over steps and over wall time."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bench.report.look import family, hollow, marker
from bench.report.page import facts
from bench.report.page.figure import Entry, Figure
from bench.report.page.svg import WIDTH, Canvas, Scale, apart, label, linear, logarithmic, ticks

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 42, 92, 12, 34, 260
WIDE = 8  # largest rank count over the smallest beyond which both axes become logarithmic
POINTS = 300  # of a loss curve; of longer ones every n-th step is drawn, and the last
Curve = tuple[Entry, NDArray[np.float64], NDArray[np.float64]]  # across, up
Points = Mapping[str, Sequence[tuple[int, float, bool]]]  # by engine: (ranks, value, whether it is to be doubted)


def over_ranks(entries: Sequence[Entry], ident: str) -> Figure:
    """Throughput of each engine over the number of ranks, with what perfect scaling of one plain process would give."""
    title = "Throughput over ranks, samples/s"
    base = plain_process(entries)
    points = _points(entries, lambda entry: entry.row.throughput.median if entry.row.throughput else None)
    said = "Pale: oversubscribed or unproven. "
    said += (
        "Dotted: ideal, one plain process times the ranks."
        if base
        else "No ideal line: no plain process to start it from."
    )
    return Figure(title, f"{said} {facts.shared(entries)}".strip(), over_counts(title, ident, points, ideal=base))


def against_single(entries: Sequence[Entry], ident: str) -> Figure:
    """Throughput over (ranks x that of one plain process)."""
    title = "Scaling efficiency against one plain process"
    if (base := plain_process(entries)) is None:
        return Figure(title, "Not measured: no finished, verified run of one plain process.", None)
    return _efficiency(entries, ident, title, lambda entry: base, "one plain process (single)")


def against_itself(entries: Sequence[Entry], ident: str) -> Figure:
    """Throughput over (ranks x that of one rank of the same engine)."""
    ones = {e.row.label: e.row.throughput.median for e in entries if e.row.ranks == 1 and e.row.throughput}
    title = "Scaling efficiency against one rank of the same engine"
    lone = sorted({entry.row.label for entry in entries if entry.spoken and entry.row.label not in ones})
    made = _efficiency(entries, ident, title, lambda entry: ones.get(entry.row.label), "one rank of the same engine")
    missing = f" Not measured for {', '.join(lone)}: no run on one rank." if lone else ""
    return Figure(made.title, made.note + missing, made.svg)


def loss_over_steps(entries: Sequence[Entry], ident: str) -> Figure:
    """Total loss of each step; median over the runs of a row. Void rows too: here is where they part."""
    title = "Loss over steps"
    curves = {id(entry): _losses(entry) for entry in entries if entry.done}
    lines = [(e, np.arange(len(y), dtype=np.float64), y) for e in entries if len(y := curves.get(id(e), np.zeros(0)))]
    if not lines:
        return Figure(title, "Not measured: no finished run kept its losses.", None)
    said = "Mean over the global batch, median over runs. Dashed: one rank. Dotted: void."
    sound = [y for entry, _, y in lines if entry.status != "void"]
    if len(sound) > 1 and len({len(y) for y in sound}) == 1:
        stacked = np.stack(sound)
        with np.errstate(invalid="ignore", divide="ignore"):
            apart_by = float(np.nanmax(np.ptp(stacked, axis=0) / np.abs(stacked).max(axis=0)))
        how = f"lie within {apart_by:.1e} of each other" if apart_by else "are equal"
        said += f" {len(sound)} rows that are not void {how}: one line is what is wanted."
    return Figure(title, said, _plot(title, ident, lines, "step"))


def loss_over_time(entries: Sequence[Entry], ident: str) -> Figure:
    """The same over the seconds that the steps took."""
    title = "Loss over wall time"
    lines = []
    for entry in entries:
        if entry.spoken and len(losses := _losses(entry)):
            seconds = np.median(np.stack([np.cumsum(each) for each in entry.steps()]), axis=0)
            if len(seconds) == len(losses):
                lines.append((entry, seconds, losses))
    if not lines:
        return Figure(title, "Not measured: no row with both losses and a speed that may be shown.", None)
    said = "Measured steps on their slowest rank, warm-up left out; the further left, the sooner. Dashed: one rank."
    return Figure(title, said, _plot(title, ident, lines, "seconds"))


def auroc_over_steps(entries: Sequence[Entry], ident: str) -> Figure:
    """Pixel AUROC of the runs that were evaluated while they trained, over steps."""
    return _auroc(entries, ident, "Pixel AUROC over steps", "step", "steps taken")


def auroc_over_time(entries: Sequence[Entry], ident: str) -> Figure:
    """The same over the seconds of training, the clock stopped for evaluations."""
    return _auroc(entries, ident, "Pixel AUROC over training time", "seconds", "seconds")


def _auroc(entries: Sequence[Entry], ident: str, title: str, across: str, under: str) -> Figure:
    lines = []
    for entry in entries:
        curve = next((found for record in entry.done if entry.spoken and (found := record.get("curve"))), None)
        points = [
            (p[across], p["pixel_auroc"]) for p in (curve or {}).get("points", ()) if p["pixel_auroc"] is not None
        ]
        if len(points) > 1:
            xs, ys = np.array(points, dtype=np.float64).T
            lines.append((entry, xs, ys))
    if not lines:
        return Figure(
            title, "Not measured: no run was evaluated while it trained; type: --evaluate 60 --evaluate-every 5.", None
        )
    said = "Test images, the decoder's map, mean over classes; first run. The clock stands still for evaluations. Dashed: one rank."
    return Figure(title, said, _plot(title, ident, lines, under))


def plain_process(entries: Sequence[Entry]) -> float | None:
    """Samples a second of `single`."""
    return next((e.row.throughput.median for e in entries if e.row.label == "single" and e.row.throughput), None)


def _efficiency(
    entries: Sequence[Entry], ident: str, title: str, base: Callable[[Entry], float | None], whose: str
) -> Figure:
    def share(entry: Entry) -> float | None:
        start, speed = base(entry), entry.row.throughput
        return (
            None if not start or speed is None or entry.row.oversubscribed else speed.median / start / entry.row.ranks
        )

    points = _points(entries, share)
    left = sum(entry.row.oversubscribed for entry in entries)
    said = f"Throughput over ranks times that of {whose}; same global batch (strong scaling). 1 is ideal."
    said += f" {left} oversubscribed row{'s' if left != 1 else ''} left out." if left else ""
    if not any(ranks > 1 for each in points.values() for ranks, _, _ in each):
        return Figure(title, "Not measured: no row on more than one rank that could be compared.", None)
    return Figure(title, said, over_counts(title, ident, points, level=1.0))


def _points(entries: Sequence[Entry], value: Callable[[Entry], float | None]) -> Points:
    found: dict[str, list[tuple[int, float, bool]]] = {}
    for entry in entries:
        doubtful = entry.row.oversubscribed or entry.status == "unproven"
        if (y := value(entry)) is not None and entry.spoken:
            found.setdefault(entry.row.label, []).append((entry.row.ranks, y, doubtful))
    return {name: sorted(each) for name, each in found.items()}


def over_counts(
    title: str, ident: str, points: Points, *, ideal: float | None = None, level: float | None = None
) -> Markup | None:
    """One line an engine, its name at its right end."""
    if not points:
        return None
    canvas = Canvas(HEIGHT, title, ident)
    counts = sorted({ranks for each in points.values() for ranks, _, _ in each})
    values = [y for each in points.values() for _, y, _ in each]
    wide = counts[-1] / counts[0] > WIDE
    top = max([*values, *([ideal * counts[-1]] if ideal and not wide else []), *([level] if level else [])]) * 1.04
    low = min(values) / 1.2 if wide and level is None else 0.0
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    x: Scale = (logarithmic if wide else linear)(counts[0], counts[-1], LEFT + 10, right - 6)
    y: Scale = logarithmic(low, top, bottom, TOP) if low else linear(0, top, bottom, TOP)
    marks = (
        [2.0**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(top)) + 1)]
        if low
        else ticks(0, top)
    )
    _axes(canvas, marks, y, [float(count) for count in counts], x, "ranks")
    if level is not None:
        canvas.line(LEFT, y(level), right, y(level), "ideal")
    if ideal is not None:
        ends = [(count, ideal * count) for count in counts if ideal * count <= top]
        canvas.polyline([(x(count), y(value)) for count, value in ends], "ideal")
        canvas.text(x(ends[-1][0]) + 8, y(ends[-1][1]) + 3, "ideal", "quiet")
    names = list(points)
    heights = apart([y(points[name][-1][1]) for name in names], 11, TOP + 4, bottom)
    for name, height in zip(names, heights, strict=True):
        colour, each = f"e-{family(name)}", points[name]
        canvas.polyline([(x(ranks), y(value)) for ranks, value, _ in each], f"curve {colour}")
        for ranks, value, doubtful in each:
            look = "pale" if doubtful else "stroke" if hollow(name) else "fill"
            canvas.path(marker(name, x(ranks), y(value)), f"{look} {colour}", f"{name}, {ranks} ranks: {value:.3g}")
        end = x(each[-1][0]), y(each[-1][1])
        canvas.line(end[0] + 5, end[1], right + 8, height, f"leader {colour}")
        canvas.text(right + 10, height + 3.5, name)
    return canvas.markup


def _losses(entry: Entry) -> NDArray[np.float64]:
    """Median over the row's runs of each step's total loss; empty where none was kept, or a value is not finite."""
    kept = [[step["total"] for step in record["losses"]] for record in entry.done if record["losses"]]
    if not kept or len({len(each) for each in kept}) != 1:
        return np.zeros(0)
    if not all(isinstance(value, int | float) for each in kept for value in each):  # a record names a NaN
        return np.zeros(0)
    return np.median(np.asarray(kept, dtype=np.float64), axis=0)


def _plot(title: str, ident: str, lines: Sequence[Curve], under: str) -> Markup:
    canvas = Canvas(HEIGHT, title, ident)
    right, bottom = WIDTH - 14, HEIGHT - BOTTOM
    far, last = max(float(xs[-1]) for _, xs, _ in lines), max(float(ys.max()) for _, _, ys in lines)
    low = min(float(ys.min()) for _, _, ys in lines)
    room = (last - low) * 0.05 or abs(last) * 0.05 or 1.0
    x, y = linear(0, far, LEFT, right), linear(low - room, last + room, bottom, TOP)
    _axes(canvas, ticks(low - room, last + room), y, ticks(0, far), x, under, right)
    for entry, xs, ys in lines:
        kept = sorted({*range(0, len(ys), max(1, len(ys) // POINTS)), len(ys) - 1})
        points = [(x(float(xs[index])), y(float(ys[index]))) for index in kept]
        colour, label_ = f"e-{family(entry.row.label)}", entry.row.label
        dash = " dotted" if entry.status == "void" else " dashed" if entry.row.ranks == 1 else ""
        canvas.polyline(points, f"curve {colour}{dash}", entry.name)
        canvas.path(marker(label_, *points[-1], 3.5), f"{'stroke' if hollow(label_) else 'fill'} {colour}", entry.name)
    return canvas.markup


def _axes(
    canvas: Canvas, ys: Sequence[float], y: Scale, xs: Sequence[float], x: Scale, under: str, right: float = 0
) -> None:
    right = right or WIDTH - RIGHT
    for tick in ys:
        canvas.line(LEFT, y(tick), right, y(tick), "grid")
        canvas.text(LEFT - 5, y(tick) + 3.5, label(tick), "tick", "end")
    for tick in xs:
        canvas.text(x(tick), HEIGHT - BOTTOM + 14, label(tick), "tick", "middle")
    canvas.text((LEFT + right) / 2, HEIGHT - 5, under, "tick", "middle")
