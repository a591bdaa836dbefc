"""`ringzero collectives`: measure, keep, show."""

import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro
from rich.console import Console
from rich.text import Text

from bench.collectives import catalog, kept, nccl, table
from bench.collectives.catalog import LIBRARIES, OPERATIONS, Operation
from bench.collectives.hall import Hall, opened
from bench.collectives.measure import measure
from bench.collectives.plan import VALUE_BYTES, Plan, size, sizes
from bench.config import ConfigError
from bench.record import now

MOST_RANKS = 16


@dataclass(frozen=True, kw_only=True)
class Collectives:
    """Measure all-reduce, reduce-scatter, all-gather and broadcast of every library: latency, algbw and busbw as the NCCL tests
    define them, results verified, under the ceiling that this machine's copies set."""

    ranks: int = 2
    """Processes of this host, 2 to 16; one thread each."""
    min_bytes: str = "8"
    """Smallest buffer: bytes, or K, M, G behind them (powers of 1024)."""
    max_bytes: str = "256M"
    """Largest buffer."""
    factor: int = 8
    """From one size to the next."""
    operations: tuple[Operation, ...] = OPERATIONS
    """What is measured."""
    libraries: tuple[str, ...] = ()
    """Whose; all where none is named."""
    repeats: int = 5
    """Rounds: in each every library has a turn at a size, in an order drawn anew."""
    turn_s: float = 0.03
    """Seconds of timed iterations in a turn, 100 iterations at the most, one at the least."""
    limit_s: float = 60.0
    """A turn that lasts longer ends the library's processes; the record says so, and the others go on."""
    seed: int | None = None
    """Order of the turns; drawn and recorded where it is not given."""
    results: Path = Path("results/collectives")
    """Folder of the record, its Markdown and its figures."""
    format: Literal["table", "nccl"] = "table"
    """What is printed: a table, or lines in the columns of the NCCL tests."""
    record: Path | None = None
    """Show this record again, and draw its figures; measure nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a result was wrong or nothing was measured. Raises ConfigError for what can't be measured."""
    asked = tyro.cli(Collectives, args=argv, prog="ringzero collectives")
    console = Console(highlight=False)
    if asked.record is not None:
        record, path = kept.read(asked.record), asked.record
    else:
        chosen = plan(asked)
        record, path = take(chosen, asked.results / kept.name(chosen.ranks), Console(stderr=True, highlight=False))
    if asked.format == "nccl":
        print(nccl.show(record))
    else:
        console.print(table.show(record, console.width))
        for written in beside(record, path):
            console.print(f"{written.suffix[1:]:<9} {written}", soft_wrap=True)
    measured = [row for row in record["rows"] if row["rounds"]]
    return 0 if measured and not any(row["wrong"] for row in measured) else 1


def plan(asked: Collectives) -> Plan:
    """What follows from the flags. Raises ConfigError for what can't be measured here."""
    if not 2 <= asked.ranks <= MOST_RANKS:
        raise ConfigError(f"--ranks {asked.ranks}: a collective has 2 to {MOST_RANKS} ranks here")
    if asked.repeats < 1:
        raise ConfigError(f"--repeats {asked.repeats} measures nothing; give 1 or more")
    for name in ("turn_s", "limit_s"):
        if not getattr(asked, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(asked, name):g} is no time; give seconds above 0")
    made = Plan(
        ranks=asked.ranks,
        sizes=sizes(size(asked.min_bytes, "--min-bytes"), size(asked.max_bytes, "--max-bytes"), asked.factor),
        operations=tuple(dict.fromkeys(asked.operations)) or OPERATIONS,
        libraries=catalog.choose(asked.libraries),
        repeats=asked.repeats,
        turn_s=asked.turn_s,
        limit_s=asked.limit_s,
        seed=secrets.randbelow(2**32) if asked.seed is None else asked.seed,
    )
    need, free = memory(made), psutil.virtual_memory().available
    if need > free:
        raise ConfigError(
            f"buffers of {asked.max_bytes} on {made.ranks} ranks of each library need {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} are free; give a smaller --max-bytes, or fewer --libraries"
        )
    return made


def memory(plan: Plan) -> int:
    """Bytes of all buffers at once: each rank of a pool has one of S and one of S/N, the ring one of S of its own, and a
    library may need another S while it works."""
    pools = len({library.pool for library in plan.libraries})
    own = sum(library.name in ("ring", "nccl") for library in plan.libraries)
    each = plan.longest * VALUE_BYTES
    return plan.ranks * each * (pools * (plan.ranks + 1) // plan.ranks + own + 1)


def take(plan: Plan, path: Path, console: Console) -> tuple[dict[str, Any], Path]:
    """Measure, and keep the record after each size; Ctrl-C keeps what there is and is raised again."""
    record = kept.opening(plan, len(psutil.Process().cpu_affinity()))
    kept.write(path, record)  # before anything starts: the folder takes it
    shown = console.status("starting") if console.is_terminal else nullcontext()

    def tell(text: str) -> None:
        if console.is_terminal and text.partition(" ")[0] not in LIBRARIES:
            shown.update(text)  # type: ignore[union-attr]
        else:
            console.print(Text(text, "dim"))

    try:
        with shown, Hall(plan, opened(plan), tell) as hall:

            def keep(rows: list[dict[str, Any]], copies: list[Any]) -> None:
                record.update(rows=rows, libraries=kept.libraries(plan, hall), pools=hall.told)
                record["copy"]["turns"] = copies
                kept.write(path, record)

            measure(plan, hall, keep, tell)
        record["status"] = "done"
    except KeyboardInterrupt:
        record["status"] = "interrupted"
        raise
    except Exception:
        record["status"] = "failed"
        raise
    finally:
        record["finished"] = now()
        kept.write(path, record)
    return record, path


def beside(record: dict[str, Any], path: Path) -> list[Path]:
    """The files beside a record: itself, Markdown, figures where matplotlib is installed."""
    stem = path.with_name(path.name.removesuffix(kept.SUFFIX))
    written = [path, stem.with_suffix(".md")]
    written[1].write_text(table.markdown(record))
    if find_spec("matplotlib") is not None:
        from bench.collectives import figure
        from bench.report.plots.series import NothingToDraw

        try:
            written += figure.write(record, stem)
        except NothingToDraw:
            pass  # the table has said so
    return written
