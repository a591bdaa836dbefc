"""The frame of a figure with a line for each row: names on the left, a heading for each rank count, an axis below."""

import textwrap
from collections.abc import Callable, Sequence

from bench.report.look import family, hollow, marker
from bench.report.page.figure import Entry
from bench.report.page.svg import Canvas, Scale, label, ticks
from bench.report.table import note

LEFT, RIGHT, TOP, LINE, HEADING = 108, 66, 8, 17, 20
ROOM = 45  # units of the drawing that a tick's number takes
Draw = Callable[[Canvas, Entry, float, float], None]  # the line's middle and height


def chart(
    title: str,
    ident: str,
    entries: Sequence[Entry],
    tall: Callable[[Entry], float],
    draw: Draw,
    scale: Scale,
    top: float,
) -> Canvas:
    """Names on the left under a heading for each rank count; `draw` fills the line."""
    headings = len({entry.row.ranks for entry in entries})
    height = TOP + headings * HEADING + sum(tall(entry) for entry in entries) + 20
    canvas = Canvas(height, title, ident)
    for tick in ticks(0, top, max(2, min(4, int((scale(top) - scale(0)) / ROOM)))):
        canvas.line(scale(tick), TOP, scale(tick), height - 16, "grid")
        canvas.text(scale(tick), height - 4, label(tick), "tick", "middle")
    y, before = float(TOP), None
    for entry in entries:
        if entry.row.ranks != before:
            before = entry.row.ranks
            canvas.text(0, y + 14, f"{before} rank{'s' if before != 1 else ''}", "heading")
            y += HEADING
        size = tall(entry)
        look = "stroke" if hollow(entry.row.label) else "fill"
        canvas.path(marker(entry.row.label, 6, y + size / 2), f"{look} e-{family(entry.row.label)}")
        canvas.text(15, y + size / 2 + 3.5, entry.row.label + ("*" if entry.row.oversubscribed else ""))
        draw(canvas, entry, y + size / 2, size)
        y += size
    return canvas


def bar(canvas: Canvas, entry: Entry, start: float, end: float, y: float) -> None:
    doubtful = entry.row.oversubscribed or entry.status == "unproven"
    canvas.rect(start, y - 5.5, end - start, 11, f"{'pale' if doubtful else 'fill'} e-{family(entry.row.label)}")


def absent(canvas: Canvas, entry: Entry, y: float) -> None:
    """In place of a bar: a cross, the verdict, and as much of the reason as fits."""
    canvas.path(f"M{LEFT} {y - 4:.1f}l8 8m0 -8l-8 8", "cross")
    why = textwrap.shorten(f"{entry.status}: {note(entry.row) or ''}", 46, placeholder=" ...")
    canvas.text(LEFT + 13, y + 3.5, why, "alarm")
