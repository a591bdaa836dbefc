"""What a step is made of, phase by phase, and how much communication shows in its length."""

from collections.abc import Sequence

from bench.report.look import PHASES
from bench.report.page import frame
from bench.report.page.figure import Entry, Figure
from bench.report.page.frame import LEFT, LINE, RIGHT
from bench.report.page.svg import WIDTH, Canvas, linear
from bench.report.rows import Row
from bench.report.table import number


def exposed(row: Row) -> str | None:
    """In words, with its interval; None where it was not measured."""
    if row.exposed is None or row.exposed_share is None:
        return None
    share = row.exposed_share
    return (
        f"{number(row.exposed.median * 1e3)} ms, {100 * share.median:.0f} % "
        f"({100 * share.low:.0f} to {100 * share.high:.0f})"
    )


def phases(entries: Sequence[Entry], ident: str) -> Figure:
    """A stacked bar a row; beside it the exposed communication, which has its own steps."""
    title = "Phases of a step, ms"
    tops = [sum(entry.row.phases.values()) * 1e3 for entry in entries if entry.row.phases]
    if not tops:
        return Figure(title, "Not measured: no run took steps for it (--phase-steps).", None)
    scale = linear(0, max(tops), LEFT, WIDTH - RIGHT - 100)

    def draw(canvas: Canvas, entry: Entry, y: float, height: float) -> None:
        if entry.row.phases is None:
            frame.absent(canvas, entry, y) if not entry.spoken else canvas.text(LEFT, y + 3.5, "not measured", "quiet")
            return
        at = 0.0
        for name, seconds in entry.row.phases.items():
            long = seconds * 1e3
            said = f"{entry.name}, {name}: {long:,.2f} ms"
            canvas.rect(scale(at), y - 5.5, scale(at + long) - scale(at), 11, f"fill p-{name}", said)
            at += long
        canvas.text(scale(at) + 5, y + 3.5, exposed(entry.row) or number(at), "value")

    svg = frame.chart(title, ident, entries, lambda entry: LINE, draw, scale, max(tops)).markup
    said = (
        "From perturbed steps after the window, under clocks that wait for the device: mean over ranks, median over steps. "
        "Communication is what the same step takes longer with the exchange than without, waiting for other ranks included. "
    )
    if any(exposed(entry.row) for entry in entries):
        said += (
            "Beside the bar, from other such steps without clocks inside: exposed communication, the slowest rank's median step "
            "with the exchange less that without, and its share of the step with the 95 % interval."
        )
    else:
        said += "Exposed communication was not measured on its own (--exposed-steps)."
    return Figure(title, said, svg, [(f"p-{name}", name) for name in PHASES])
