"""What is trained and what is frozen: parameters of each part of the model, two bars apart."""

from collections.abc import Mapping, Sequence

from bench.report.page.figure import Entry, Figure
from bench.report.page.svg import WIDTH, Canvas, label, linear, ticks

LEFT, RIGHT, LINE, HEADING = 108, 62, 17, 20
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def parameters(entries: Sequence[Entry], ident: str) -> Figure:
    """Of the first finished run: every row of a group has the same model."""
    title = "Parameters, trained and frozen"
    cost = next((c for e in entries for r in e.done if (c := (r.get("workload") or {}).get("cost"))), None)
    if not cost or not cost.get("trainable"):
        return Figure(title, "Not measured: no finished run holds the model's cost.", None)
    kinds: list[tuple[str, Mapping[str, int]]] = [("trained", cost["trainable"]), ("frozen", cost.get("frozen") or {})]
    top = max(count for _, parts in kinds for count in parts.values()) or 1
    scale = linear(0, top, LEFT, WIDTH - RIGHT)
    height = 28 + sum(HEADING + LINE * len(parts) for _, parts in kinds)
    canvas = Canvas(height, title, ident)
    for tick in ticks(0, top, 3):
        canvas.line(scale(tick), 8, scale(tick), height - 16, "grid")
        canvas.text(scale(tick), height - 4, short(tick), "tick", "middle")
    y = 8.0
    for kind, parts in kinds:
        canvas.text(0, y + 14, f"{kind}, {short(sum(parts.values()))} in all", "heading")
        y += HEADING
        for name, count in sorted(parts.items(), key=lambda each: -each[1]):
            canvas.text(0, y + 12, name)
            canvas.rect(scale(0), y + 3, scale(count) - scale(0), 11, f"{kind} part", f"{name}: {count:,}")
            canvas.text(scale(count) + 5, y + 12, short(count), "value")
            y += LINE
    said = (
        "Only the trained ones have gradients, go over the wire and into the optimizer; frozen ones cost forward time."
    )
    if (size := cost.get("gradient_bytes")) is not None:
        said += f" Gradients: {size / 2**20:.2f} MiB."
    if (flops := cost.get("flops_per_sample")) is not None:
        said += f" Work: {flops / 1e9:.2f} GFLOP a sample."
    return Figure(title, said, canvas.markup)


def short(count: float) -> str:
    """579120 -> 579 k"""
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return label(count)
