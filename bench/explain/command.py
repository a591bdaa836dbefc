"""`ringzero ring`: the steps in the terminal, the animation in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.config import ConfigError
from bench.explain.animation import draw
from bench.explain.trace import Trace, name, trace


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Watch a ring all-reduce: which chunk moves where in each step, with the partial sums."""

    ranks: int = 4
    """Ranks in the ring, 2 to 16."""
    explain: bool = True
    """Print every step; --no-explain only writes the animation."""
    svg: Path | None = Path("ring.svg")
    """Animated picture, for a browser; None writes none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0. Raises ConfigError for a ring that can't be shown or a file that can't be written."""
    asked = tyro.cli(Ring, args=argv, prog="ringzero ring")
    try:
        seen = trace(asked.ranks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    console = Console(highlight=False)
    if asked.explain:
        explain(console, seen)
    if asked.svg is not None:
        try:
            asked.svg.write_text(draw(seen))
        except OSError as error:
            raise ConfigError(f"--svg {asked.svg} can't be written ({error.strerror}); give another path") from error
        console.print(f"animation  {asked.svg}", soft_wrap=True)
    return 0


def explain(console: Console, seen: Trace) -> None:
    """Each step as a table of ranks and chunks; what leaves is in brackets, what just came in is bold."""
    ranks = seen.ranks
    console.print(
        f"Ring all-reduce of {ranks} ranks: {ranks} chunks each, 2({ranks}-1) = {2 * (ranks - 1)} steps. a0 is chunk 0 of rank 0, "
        "b0 that of rank 1; abc0 is their sum over three ranks. \\[x]> leaves to the right; bold came in in the step before."
    )
    for step, moves in enumerate(seen.steps):
        phase = "share-reduce: add what comes in" if seen.added(step) else "share-only: keep what comes in"
        console.print(Text(f"\nstep {step + 1}, {phase}", "italic"))
        console.print(_state(seen, step, {move.rank: move.sent for move in moves}))
    console.print(Text("\nafter the last step: every rank holds every sum", "italic"))
    console.print(_state(seen, len(seen.steps), {}))
    share = seen.sent_values[0] / ranks
    console.print(
        f"\nEach rank sent {seen.sent_values[0]} chunks = {share:.3g} S of a buffer of S bytes: 2(N-1)/N S, "
        "the least that any all-reduce can send."
    )


def _state(seen: Trace, step: int, leaving: dict[int, int]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("")
    for chunk in range(seen.ranks):
        table.add_column(f"chunk {chunk}", justify="center")
    for rank, chunks in enumerate(seen.states[step]):
        cells = []
        for chunk, inside in enumerate(chunks):
            text = name(inside, chunk)
            came = step > 0 and seen.states[step - 1][rank][chunk] != inside
            style = "bold green" if len(inside) == seen.ranks else "bold" if came else "dim" if len(inside) == 1 else ""
            cells.append(Text(f"[{text}]>" if leaving.get(rank) == chunk else f" {text}  ", style))
        table.add_row(f"rank {rank}", *cells)
    return table
