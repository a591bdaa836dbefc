"""Just enough SVG: elements with classes (colours live in the page's CSS, so light, dark and print share a drawing), axes."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDTH = 380  # units; a phone shows them one to one
Scale = Callable[[float], float]


class Canvas:
    """Collects elements; `markup` is the whole drawing, named for those who can't see it."""

    def __init__(self, height: float, title: str, ident: str) -> None:
        self.height, self.title, self.ident = height, title, ident
        self.parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{look}"/>')

    def rect(self, x: float, y: float, width: float, height: float, look: str, said: str = "") -> None:
        inside = f"><title>{escape(said)}</title></rect>" if said else "/>"
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{look}"{inside}'
        )

    def path(self, outline: str, look: str, said: str = "") -> None:
        inside = f"><title>{escape(said)}</title></path>" if said else "/>"
        self.parts.append(f'<path d="{outline}" class="{look}"{inside}')

    def text(self, x: float, y: float, text: str, look: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{look}" text-anchor="{anchor}">{escape(text)}</text>')

    def polyline(self, points: Sequence[tuple[float, float]], look: str, said: str = "") -> None:
        self.path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), look, said)

    def dots(self, points: Sequence[tuple[float, float]], look: str) -> None:
        """Many small dots as one path of zero-length strokes."""
        self.path("".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), look)

    @property
    def markup(self) -> Markup:
        head = (
            f'<svg viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" aria-labelledby="{self.ident}-title">'
            f'<title id="{self.ident}-title">{escape(self.title)}</title>'
        )
        return Markup(head + "".join(self.parts) + "</svg>")  # every text above went through escape


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """low -> start, high -> end."""
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """The same over logarithms; low and high above zero."""
    inner = linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A tick in words: 1500 -> 1,500; 0.25 -> 0.25; without what a float adds to a round number."""
    return f"{value:,.10g}"


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, at least `gap` apart, kept from `low` to `high` while there is room; same order."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    at = low - gap
    for index in order:
        at = placed[index] = max(wanted[index], at + gap)
    at = max(high, low + gap * (len(wanted) - 1)) + gap
    for index in reversed(order):
        at = placed[index] = min(placed[index], at - gap)
    return placed
