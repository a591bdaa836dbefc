"""The small subcommands of `ringzero`: their flags, and the call that does the work."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from bench.config import ConfigError, RunConfig
from bench.flags import defaults


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start all ranks of one run under the engine's own launcher, and wait for its record."""

    run: RunConfig
    ranks: int = 1
    """Processes of this host."""
    dry_run: bool = False
    """Print the exact command, and run nothing."""
    run_limit_s: float = 1800.0
    """A run that lasts longer is ended, with all its processes, and recorded as failed."""


def launch(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where the record says `done`, else 1."""
    from bench import launch as start
    from bench.report import load
    from bench.report.rows import cause

    words = list(sys.argv[1:] if argv is None else argv)
    varied = defaults(words)
    settings = (tyro.conf.OmitArgPrefixes,)
    if varied:
        asked = tyro.cli(Launch, args=words, default=Launch(run=varied), prog="ringzero launch", config=settings)
    else:
        asked = tyro.cli(Launch, args=words, prog="ringzero launch", config=settings)
    if asked.dry_run:
        print(start.command(asked.run, asked.ranks))
        return 0

    def echo(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    path = start.run(asked.run, asked.ranks, limit_s=asked.run_limit_s, echo=echo)
    record = load.read(path)
    print(
        f"{record['status']}: {path}"
        + ("" if record["status"] == "done" else f" ({cause(record)}); log: {path.with_suffix('.log')}")
    )
    return 0 if record["status"] == "done" else 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the table of a comparison: engine, throughput with its interval, memory, verdict."""

    comparison: tyro.conf.Positional[str] = "latest"
    """Name of a comparison (its file without .compare.json), or latest."""
    results: Path = Path("results")
    """Folder of the records."""
    all: bool = False
    """Every record of the folder, whatever comparison it belongs to; one table an experiment."""
    markdown: Path | None = None
    """Write the same tables as Markdown to this file; each engine's name links its record."""


def report(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a record could not be read."""
    from bench.report import table
    from bench.report.rows import groups

    asked = tyro.cli(Report, args=argv, prog="ringzero report")
    console = Console(highlight=False)
    _, records, whole = chosen(asked.comparison, asked.results, asked.all)
    made = groups(records)
    for group in made:
        console.print(table.terminal(group))
        console.print()
    if asked.markdown:
        asked.markdown.write_text(table.markdown(made, folder=relative(asked.results, asked.markdown.parent)))
        print(f"wrote {asked.markdown}")
    return 0 if whole else 1


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw a comparison: throughput with its interval and memory per rank, as PNG and SVG."""

    comparison: tyro.conf.Positional[str] = "latest"
    """Name of a comparison (its file without .compare.json), or latest."""
    results: Path = Path("results")
    """Folder of the records."""
    all: bool = False
    """Every record of the folder, whatever comparison it belongs to; one figure an experiment."""
    output: Path | None = None
    """Path of the figure without its ending; beside the records where it is not given."""


def plot(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a record could not be read."""
    asked = tyro.cli(Plot, args=argv, prog="ringzero plot")
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed; type: pip install -c constraints.txt -e '.[plots]'")
    from bench.report import figures
    from bench.report.rows import groups

    name, records, whole = chosen(asked.comparison, asked.results, asked.all)
    stem = asked.output or asked.results / name
    if stem.suffix in (".png", ".svg"):
        stem = stem.with_suffix("")
    for path in figures.write(groups(records), stem):
        print(path)
    return 0 if whole else 1


def chosen(name: str, results: Path, everything: bool) -> tuple[str, list[dict[str, Any]], bool]:
    """(name for files, records, whether all could be read) of a comparison; what can't be read is told on stderr.

    Raises Unreadable or ComparisonError where there is nothing.
    """
    from bench import comparison
    from bench.report import load

    if everything:
        name, loaded = "all", load.load(results)
    else:
        kept = (
            comparison.latest(results) if name == "latest" else comparison.read(results / f"{name}{comparison.SUFFIX}")
        )
        name, loaded = kept.name, load.load(results, kept.records)
    for _, why in loaded.unreadable:
        print(f"unreadable: {why}", file=sys.stderr)
    if not loaded.records:
        raise load.Unreadable(f"no record to show in {results}; make some with: ringzero compare quick")
    return name, loaded.records, not loaded.unreadable


def relative(folder: Path, start: Path) -> str:
    """`folder` as seen from `start`."""
    seen = os.path.relpath(folder.resolve(), start.resolve())
    return "" if seen == "." else seen
