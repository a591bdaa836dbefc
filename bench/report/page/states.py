"""What each engine holds of parameters, gradients and optimizer state, beside what it must hold and what the ZeRO paper says."""

from collections.abc import Sequence

from bench.memory_model import STATES, reason
from bench.report.page.figure import Entry
from bench.report.table import MIB, NONE

HEADINGS = (
    "run",
    "category",
    "held, MiB",
    "derived, MiB",
    "ZeRO paper, MiB",
    "derived exactly",
    "why the paper's differs",
)


def states(entries: Sequence[Entry]) -> list[Sequence[str]]:
    """A row for each category of each row of the table that recorded it, largest rank of the first run; see HEADINGS."""
    found: list[Sequence[str]] = []
    for entry in entries:
        ranks = [rank["memory"] for record in entry.done[:1] for rank in record["ranks"] if rank.get("memory")]
        ranks = [memory for memory in ranks if memory.get("paper") and memory.get("parameters") is not None]
        if not ranks:
            continue
        for place, name in enumerate(STATES):
            memory = max(ranks, key=lambda each: each[name])
            held, paper = memory[name], memory["paper"][name]
            derived = (memory["derived"] or {}).get(name)
            exact = NONE if derived is None else "yes" if derived == held else f"no: {held - derived:+,} bytes"
            shown = [NONE if size is None else f"{size / MIB:,.3f}" for size in (held, derived, paper)]
            found.append((entry.name, name, *shown, exact, reason(entry.row.label) if not place else ""))
    return found
