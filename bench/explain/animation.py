"""The same steps as an animated SVG: one file, no script, no network; chunks move along the ring and change what they hold."""

import math
from xml.etree.ElementTree import Element, SubElement, tostring

from bench.explain.trace import Trace, name

STEP_S, PAUSE_S = 2.0, 3.0  # seconds a step takes, and how long the end is shown
CELL_W, CELL_H = 62, 24
# Okabe and Ito's colours, told apart with any colour vision; one a chunk, paler the fewer ranks are in it
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def draw(seen: Trace) -> str:
    """The animation as SVG text; it starts by itself and repeats."""
    ranks, last = seen.ranks, len(seen.steps)
    total = last * STEP_S + PAUSE_S
    card_h = ranks * CELL_H + 26
    radius = max(150.0, ranks * (CELL_W + 26) / (2 * math.pi), card_h * ranks / (2 * math.pi) * 0.9)
    size = 2 * radius + card_h + 60
    height = size + 50
    svg = Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {size:.0f} {height:.0f}", role="img",
        attrib={"font-family": "system-ui, sans-serif", "font-size": "13"},
    )  # fmt: skip
    SubElement(svg, "title").text = f"Ring all-reduce of {ranks} ranks in {last} steps"
    SubElement(svg, "rect", width="100%", height="100%", fill="#ffffff")
    places = []
    for rank in range(ranks):
        angle = 2 * math.pi * rank / ranks - math.pi / 2
        x, y = size / 2 + radius * math.cos(angle), size / 2 + 30 + radius * math.sin(angle)
        places.append((x - CELL_W / 2, y - card_h / 2))
    _captions(svg, seen, size, total)
    for rank, (x, y) in enumerate(places):
        _card(svg, seen, rank, x, y, total)
    for step, moves in enumerate(seen.steps):
        for move in moves:
            begin, end = places[move.rank], places[move.to]
            offset = 22 + move.sent * CELL_H
            text = name(move.inside, move.sent)
            _token(svg, text, _colour(move.sent, len(move.inside), ranks),
                   (begin[0], begin[1] + offset), (end[0], end[1] + offset), step, total)  # fmt: skip
    return tostring(svg, encoding="unicode") + "\n"


def _captions(svg: Element, seen: Trace, size: float, total: float) -> None:
    last = len(seen.steps)
    for step in range(last + 1):
        if step == last:
            said = "done: every rank holds every sum"
        else:
            kind = "share-reduce, what comes in is added" if seen.added(step) else "share-only, what comes in is kept"
            said = f"step {step + 1} of {last}: {kind}"
        text = SubElement(
            svg,
            "text",
            attrib={"x": f"{size / 2:.1f}", "y": "26", "text-anchor": "middle", "font-size": "16", "fill": "#222"},
        )
        text.text = said
        _shown(text, step * STEP_S, total if step == last else (step + 1) * STEP_S, total)


def _card(svg: Element, seen: Trace, rank: int, x: float, y: float, total: float) -> None:
    """One rank: its chunks, and what each holds over time."""
    group = SubElement(svg, "g", transform=f"translate({x:.1f} {y:.1f})")
    SubElement(
        group, "text", attrib={"x": f"{CELL_W / 2}", "y": "14", "text-anchor": "middle", "fill": "#222"}
    ).text = f"rank {rank}"
    for chunk in range(seen.ranks):
        top = 22 + chunk * CELL_H
        held = [state[rank][chunk] for state in seen.states]
        begin = 0
        for step in range(1, len(held) + 1):
            if step < len(held) and held[step] == held[begin]:
                continue
            cell = SubElement(group, "g")
            _cell(cell, 0, top, name(held[begin], chunk), _colour(chunk, len(held[begin]), seen.ranks))
            _shown(cell, begin * STEP_S, total if step == len(held) else step * STEP_S, total)
            begin = step


def _token(
    svg: Element, text: str, fill: str, begin: tuple[float, float], end: tuple[float, float], step: int, total: float
) -> None:
    """What travels in a step: it leaves after a fifth of it and arrives at its end."""
    token = SubElement(svg, "g", opacity="0")
    _cell(token, 0, 0, text, fill, stroke="#222222")
    start, stop = (step + 0.2) * STEP_S, (step + 1) * STEP_S
    points = ";".join(f"{x:.1f} {y:.1f}" for x, y in (begin, begin, end, end))
    SubElement(
        token, "animateTransform", attributeName="transform", type="translate", values=points,
        keyTimes=f"0;{start / total:.4f};{stop / total:.4f};1", dur=f"{total:g}s", repeatCount="indefinite",
    )  # fmt: skip
    _shown(token, step * STEP_S, stop, total)


def _cell(parent: Element, x: float, y: float, text: str, fill: str, stroke: str = "#ffffff") -> None:
    SubElement(
        parent,
        "rect",
        x=f"{x:g}",
        y=f"{y:g}",
        width=f"{CELL_W}",
        height=f"{CELL_H - 2}",
        rx="4",
        fill=fill,
        stroke=stroke,
    )
    label = SubElement(
        parent, "text",
        attrib={"x": f"{x + CELL_W / 2:g}", "y": f"{y + CELL_H / 2 + 4:g}", "text-anchor": "middle", "fill": "#111"},
    )  # fmt: skip
    if len(text) > 8:  # many letters in one cell
        label.set("textLength", f"{CELL_W - 6}")
        label.set("lengthAdjust", "spacingAndGlyphs")
    label.text = text


def _shown(element: Element, start: float, stop: float, total: float) -> None:
    """Visible from `start` to `stop` seconds of each round of `total`."""
    values, times = ["0", "1", "0"], [0.0, start / total, stop / total]
    if start == 0:
        values, times = ["1", "0"], [0.0, stop / total]
    if stop >= total:
        values, times = values[:-1], times[:-1]
    element.set("opacity", "1" if start == 0 else "0")
    SubElement(
        element, "animate", attributeName="opacity", calcMode="discrete", values=";".join(values),
        keyTimes=";".join(f"{time:.4f}" for time in times), dur=f"{total:g}s", repeatCount="indefinite",
    )  # fmt: skip


def _colour(chunk: int, inside: int, ranks: int) -> str:
    """A chunk's colour mixed with white: a quarter of it for one rank's own values, all of it for the finished sum."""
    share = 0.25 + 0.6 * (inside - 1) / (ranks - 1)
    base = COLOURS[chunk % len(COLOURS)]
    mixed = (round(255 - share * (255 - int(base[i : i + 2], 16))) for i in (1, 3, 5))
    return "#" + "".join(f"{value:02x}" for value in mixed)
