"""What a comparison shows while it runs: a table that fills in a terminal, a line an event anywhere else."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench import stats
from bench.matrix import Cell
from bench.report.rows import cause
from bench.report.table import STYLE, number
from bench.verify import Verdict


class View(Protocol):
    """Told of every run's start and end; used as `with`."""

    def started(self, index: int, left_s: float) -> None: ...
    def ended(self, index: int, record: Mapping[str, Any], verdict: Verdict, seconds: float) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def outcome(record: Mapping[str, Any], verdict: Verdict) -> tuple[str, str, str]:
    """(samples/s, verdict in a word, what more there is to say) of one run."""
    if record["status"] != "done":
        return "-", "failed", cause(record)
    if verdict.status == "void":
        return "-", "void", f"not equivalent: {verdict.why}"
    speed = number(stats.throughput([record]).median)
    return speed, verdict.status, verdict.why if verdict.status == "unproven" else ""


def clock(seconds: float) -> str:
    """75 -> 1:15"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Lines:
    """A line when a run starts, a line when it ends; for a file, a pipe, or a build server."""

    def __init__(self, plan: Sequence[Cell], console: Console) -> None:
        self.plan, self.console = plan, console

    def started(self, index: int, left_s: float) -> None:
        self.console.print(
            f"[{index + 1}/{len(self.plan)}] {self.plan[index]} ... (about {clock(left_s)} left)",
            markup=False,
            soft_wrap=True,
        )

    def ended(self, index: int, record: Mapping[str, Any], verdict: Verdict, seconds: float) -> None:
        speed, word, more = outcome(record, verdict)
        text = f"[{index + 1}/{len(self.plan)}] {self.plan[index]} {word}, {speed} samples/s, {seconds:.0f} s"
        self.console.print(text + (f": {more}" if more else ""), markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Filling:
    """One table, a row a run, redrawn in place."""

    def __init__(self, plan: Sequence[Cell], console: Console) -> None:
        self.plan = plan
        self.ends: dict[int, tuple[str, str, str, float]] = {}
        self.running: tuple[int, float, float] | None = None  # index, since, seconds left then
        self.live = Live(console=console, get_renderable=self.table, refresh_per_second=4, vertical_overflow="visible")

    def started(self, index: int, left_s: float) -> None:
        self.running = index, time.monotonic(), left_s

    def ended(self, index: int, record: Mapping[str, Any], verdict: Verdict, seconds: float) -> None:
        self.ends[index] = (*outcome(record, verdict), seconds)
        self.running = None

    def table(self) -> Table:
        """The whole plan as it stands."""
        left = ""
        if self.running:
            index, since, left_s = self.running
            left = f", about {clock(max(0.0, left_s - (time.monotonic() - since)))} left"
        table = Table(
            title=f"{len(self.ends)} of {len(self.plan)} runs{left}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
            header_style="dim",
        )
        for heading in ("run", "samples/s", "seconds", "verdict"):
            table.add_column(heading, justify="right" if heading in ("samples/s", "seconds") else "left")
        for index, cell in enumerate(self.plan):
            if index in self.ends:
                speed, word, more, seconds = self.ends[index]
                table.add_row(
                    str(cell), speed, f"{seconds:.0f}", Text(f"{word}{f': {more}' if more else ''}", STYLE[word])
                )
            elif self.running and self.running[0] == index:
                table.add_row(
                    Text(str(cell), "bold"),
                    "",
                    f"{time.monotonic() - self.running[1]:.0f}",
                    Text("running", "bold cyan"),
                )
            else:
                table.add_row(Text(str(cell), "dim"), "", "", "")
        return table

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running = None
        self.live.stop()


def view(plan: Sequence[Cell], console: Console) -> View:
    """The one that suits where the console writes to."""
    return Filling(plan, console) if console.is_terminal else Lines(plan, console)
