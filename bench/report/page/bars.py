"""Figures with a line for each row of the table: throughput, memory by category, step times, bytes on the wire."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.report.look import MEMORY, family
from bench.report.page import frame
from bench.report.page.figure import Entry, Figure
from bench.report.page.frame import LEFT, LINE, RIGHT
from bench.report.page.svg import WIDTH, Canvas, Scale, linear
from bench.report.rows import memory_bytes, memory_parts
from bench.report.table import MIB, number
from bench.wire import bound_bytes, expected

BARS = 8  # ranks of a row that get a bar of their own; of more, the one that took most is drawn
DOTS = 400  # steps of a row drawn one by one; more are drawn as a histogram, none is left out
EXPECTED = {"gradients": "m-gradients", "trainable": "m-parameters", "frozen": "m-activations"}


def throughput(entries: Sequence[Entry], ident: str) -> Figure:
    """Bars with the 95 % interval; what has no speed says why."""
    title = "Throughput, samples/s"
    top = max((entry.row.throughput.high for entry in entries if entry.row.throughput), default=1.0)
    scale = linear(0, top, LEFT, WIDTH - RIGHT)

    def draw(canvas: Canvas, entry: Entry, y: float, height: float) -> None:
        speed = entry.row.throughput
        if speed is None:
            frame.absent(canvas, entry, y)
            return
        frame.bar(canvas, entry, scale(0), scale(speed.median), y)
        canvas.line(scale(speed.low), y, scale(speed.high), y, "whisker")
        for end in (speed.low, speed.high):
            canvas.line(scale(end), y - 3, scale(end), y + 3, "whisker")
        beside = "" if entry.row.vs_single is None else f"  {entry.row.vs_single:.2f}x"
        canvas.text(scale(max(speed.high, speed.median)) + 5, y + 3.5, f"{number(speed.median)}{beside}", "value")

    svg = frame.chart(title, ident, entries, lambda entry: LINE, draw, scale, top).markup
    said = "Median with its 95 % interval; beside it the ratio to one plain process. Pale, dashed: oversubscribed or unproven."
    return Figure(title, said, svg)


def memory(entries: Sequence[Entry], ident: str) -> Figure:
    """Each rank's peak, split into what its tensors explain; of the run that took most."""
    title = "Memory by category, MiB a rank"
    ranks = [_ranks(entry) for entry in entries]
    tops = [max(sum(parts.values()), peak) for each in ranks for parts, peak in each]
    if not tops:
        return Figure(title, "Not measured: no finished run watched its memory.", None)
    scale = linear(0, max(tops), LEFT, WIDTH - RIGHT)
    place = {id(entry): each for entry, each in zip(entries, ranks, strict=True)}

    def draw(canvas: Canvas, entry: Entry, y: float, height: float) -> None:
        bars = place[id(entry)]
        if not bars:
            frame.absent(canvas, entry, y) if not entry.spoken else canvas.text(LEFT, y + 3.5, "not measured", "quiet")
            return
        thick = min(11.0, (height - 4) / len(bars) - 1)
        for index, (parts, peak) in enumerate(bars):
            at, top = 0.0, y - height / 2 + 2 + index * (thick + 1) + (height - 4 - len(bars) * (thick + 1)) / 2
            for name, size in parts.items():
                said = f"{entry.name}, {name}: {size:,.1f} MiB"
                canvas.rect(scale(at), top, scale(at + size) - scale(at), thick, f"fill m-{name}", said)
                at += size
            if at > peak * 1.001:  # the tensors add up to more than the peak: mark where that was
                canvas.line(scale(peak), top - 1, scale(peak), top + thick + 1, "whisker")
        most = max(peak for _, peak in bars)
        canvas.text(
            scale(max(max(sum(parts.values()), peak) for parts, peak in bars)) + 5, y + 3.5, f"{most:,.0f}", "value"
        )

    def tall(entry: Entry) -> float:
        return max(LINE, 4 + 6 * len(place[id(entry)]))

    svg = frame.chart(title, ident, entries, tall, draw, scale, max(tops)).markup
    said = (
        "A bar a rank, above its level before the model was built; the number is the largest rank's peak. Categories are read at "
        "the moment of the peak. Tensors that exist: parameters to activations, and data (samples made ahead). Workspace: all "
        "else that is allocated (results of operators, gathered parameters, the engine's own). Allocator: freed, not returned to "
        "the system. Mapped: files, shared memory. Runtime: Python's objects, stacks. Other: unattributed."
    )
    if any(entry.row.ranks > BARS for entry in entries):
        said += f" Of more than {BARS} ranks only the one that took most."
    return Figure(title, said, svg, [(f"m-{name}", name) for name in MEMORY])


def steps(entries: Sequence[Entry], ident: str) -> Figure:
    """Every step of every run, on its slowest rank."""
    title = "Step times, ms"
    times = {id(entry): np.concatenate(entry.steps()) * 1e3 for entry in entries if entry.spoken and entry.done}
    if not times:
        return Figure(title, "Not measured: no row that may show its speed.", None)
    top = max(float(each.max()) for each in times.values())
    scale = linear(0, top, LEFT, WIDTH - RIGHT)
    draws = np.random.default_rng(0)  # the same records give the same page

    def draw(canvas: Canvas, entry: Entry, y: float, height: float) -> None:
        each = times.get(id(entry))
        if each is None:
            frame.absent(canvas, entry, y)
            return
        look = f"e-{family(entry.row.label)}"
        if len(each) <= DOTS:
            spread = draws.uniform(-4, 4, len(each))
            canvas.dots(
                [(scale(t), y + dy) for t, dy in zip(each.tolist(), spread.tolist(), strict=True)], f"dots {look}"
            )
        else:
            canvas.path(_outline(each, scale, y), f"fill {look}")
        middle = scale(float(np.median(each)))
        canvas.line(middle, y - 6, middle, y + 6, "whisker")
        far = stats.outliers(stats.stack(entry.steps()))
        canvas.text(WIDTH - RIGHT + 5, y + 3.5, f"{len(each):,}" + (f", {far} out" if far else ""), "quiet")

    svg = frame.chart(title, ident, entries, lambda entry: LINE, draw, scale, top).markup
    said = (
        "All raw steps, each as long as on its slowest rank; the stroke is the median. Right: how many steps, and how many "
        "lie outside Tukey's fences of their run (1.5 interquartile ranges); they are kept in every number."
    )
    if any(len(each) > DOTS for each in times.values()):
        said += f" More than {DOTS} steps are drawn as a histogram of all of them."
    return Figure(title, said, svg)


def wire(entries: Sequence[Entry], ident: str) -> Figure:
    """Bytes that a rank sends in a step: measured, below it what the setting should move, and the bound."""
    title = "Bytes on the wire, MiB a rank and step"
    sent = {id(entry): value for entry in entries if (value := wire_bytes(entry)) is not None}
    if not sent:
        return Figure(title, "Not measured: no row here counted what it sent; the reasons stand below.", None)
    derived = {id(entry): expected(entry.done[0]) for entry in entries if entry.done}
    bounds = {id(entry): value for entry in entries if id(entry) in sent and (value := _bound(entry)) is not None}
    top = max([*sent.values(), *bounds.values(), *(each.total or 0.0 for each in derived.values())]) / MIB or 1e-9
    scale = linear(0, top, LEFT, WIDTH - RIGHT)

    def draw(canvas: Canvas, entry: Entry, y: float, height: float) -> None:
        at, value, should = scale(0), sent.get(id(entry)), derived.get(id(entry))
        for name, look in EXPECTED.items() if should and should.total else ():
            size = getattr(should, name)
            width = scale(size / MIB) - scale(0)
            canvas.rect(at, y + 6, width, 3, f"fill {look}", f"{entry.name}, expected, {name}: {size / MIB:,.2f} MiB")
            at += width
        if value is None:
            canvas.text(LEFT, y + 3.5, "not measured", "quiet")
            return
        frame.bar(canvas, entry, scale(0), scale(value / MIB), y)
        ratio = f"  {value / should.total:.2f}x" if should and should.total else ""
        end = max(value, (should.total or 0.0) if should else 0.0) / MIB
        canvas.text(scale(end) + 5, y + 3.5, f"{number(value / MIB)}{ratio}" if value else "0", "value")
        if (bound := bounds.get(id(entry))) is not None:
            canvas.line(scale(bound / MIB), y - 7, scale(bound / MIB), y + 9, "whisker")

    svg = frame.chart(title, ident, entries, lambda entry: LINE + 5, draw, scale, top).markup
    said = (
        "Bar: measured, of the rank that sent most, by the engine's own calls or the kernel's counters of its TCP sockets. Thin "
        "line: what the setting should move; beside the number, measured over expected. Stroke: 2(N-1)/N of the gradients, the "
        "bound. What is measured beyond the expected: message headers, norms, Horovod's negotiation."
    )
    names = {"gradients": "gradients", "trainable": "trained parameters", "frozen": "frozen parameters"}
    return Figure(title, said, svg, [(look, f"expected: {names[name]}") for name, look in EXPECTED.items()])


def wire_bytes(entry: Entry) -> float | None:
    """Most bytes that a rank of any finished run sent in a step; None where a run did not count them."""
    sent = [(record.get("traffic") or {}).get("sent_bytes") for record in entry.done]
    return max(max(each) for each in sent if each) if sent and all(sent) else None


def _bound(entry: Entry) -> float | None:
    """The least that its ranks could send; None where the record does not hold the gradients' bytes."""
    cost = (entry.done[0].get("workload") or {}).get("cost") or {}
    known = entry.row.ranks > 1 and "gradient_bytes" in cost
    return bound_bytes(entry.row.ranks, cost["gradient_bytes"]) if known else None


def _ranks(entry: Entry) -> list[tuple[dict[str, float], float]]:
    """(MiB of each category, peak in MiB) of each rank of the run that took most."""
    known = [(peak, record) for record in entry.done if (peak := memory_bytes(record)) is not None]
    if not known or not entry.spoken:
        return []
    found = []
    for rank in max(known, key=lambda each: each[0])[1]["ranks"]:
        held, peak = rank["memory"], rank["memory"]["peak_bytes"] / MIB
        parts = {name: size / MIB for name, size in memory_parts(held).items()}
        found.append(({**parts, "other": max(0.0, peak - sum(parts.values()))}, peak))
    return found if len(found) <= BARS else [max(found, key=lambda each: each[1])]


def _outline(times: NDArray[np.float64], scale: Scale, y: float) -> str:
    """A histogram, mirrored about y."""
    counts, edges = np.histogram(times, bins=60)
    heights = (6 * counts / counts.max()).tolist()
    upper = [(edge, -h) for h, left, right in zip(heights, edges, edges[1:], strict=False) for edge in (left, right)]
    points = [*upper, *((x, -h) for x, h in reversed(upper))]
    return "M" + "L".join(f"{scale(float(x)):.1f} {y + h:.1f}" for x, h in points) + "z"
