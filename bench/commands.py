"""The small subcommands of `ringzero`: their flags, and the call that does the work."""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from bench.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Report:
    """Print the tables of a comparison: engine, throughput with its interval, memory, verdict, and what may be said of pairs."""

    comparison: tyro.conf.Positional[str] = "latest"
    """Name of a comparison or of a study (its file without .compare.json or .tune.json), latest, or the folder of records."""
    results: Path = Path("results")
    """Folder of the records."""
    all: bool = False
    """Every record of the folder, whatever comparison it belongs to; one table an experiment."""
    markdown: Path | None = None
    """Write the same tables as Markdown to this file; each engine's name links its record."""
    html: Path | None = None
    """Write one self-contained HTML page to this file: summary, tables, figures, every record; opens without a network."""
    csv: Path | None = None
    """Write a row a run to this file."""
    parquet: Path | None = None
    """The same as Parquet."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one GPU in the run's precision (of the whole host, where ranks ran on CPUs): gives MFU."""
    price_per_hour: float | None = None
    """Price of one GPU (of the whole host, where ranks ran on CPUs) for an hour: gives the cost of a million samples."""


PAIRED_GROUPS = 20  # above, the bootstraps of all pairs would take minutes


def report(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a record could not be read."""
    from bench.derived import Stated
    from bench.report import costs, scaling, table, verdicts
    from bench.report.rows import groups

    asked = tyro.cli(Report, args=argv, prog="ringzero report")
    stated = Stated(peak_tflops=asked.peak_tflops, price_per_hour=asked.price_per_hour)
    console = Console(highlight=False)
    picked = chosen(asked.comparison, asked.results, asked.all)
    records = picked.records
    made = groups(records)
    files = verdicts.by_file(records)
    found = [verdicts.compare(group, files) for group in made] if len(made) <= PAIRED_GROUPS else []
    study = studied(asked.comparison, picked.folder) if not asked.all else None
    if study:
        console.print(study[0])
        console.print()
    for index, group in enumerate(made):
        console.print(table.terminal(group))
        if found:
            console.print(verdicts.terminal(found[index]))
        console.print()
        console.print(costs.terminal(group, files, stated))
        console.print()
    if (scaled := scaling.terminal(made)) is not None:
        console.print(scaled)
        console.print()
    if asked.markdown:
        pairs = "".join("\n" + "\n".join(verdicts.markdown(each)) + "\n" for each in found)
        ways = scaling.markdown(made)
        meant = "".join("\n".join(costs.markdown(group, files, stated)) + "\n" for group in made)
        tables = table.markdown(made, folder=relative(picked.folder, asked.markdown.parent))
        asked.markdown.write_text(
            (study[1] + "\n" if study else "") + tables + pairs + (f"\n{ways}" if ways else "") + meant
        )
        print(f"wrote {asked.markdown}")
    if asked.html:
        from bench.report import page

        folder = relative(picked.folder, asked.html.parent)
        print(f"wrote {page.write(made, records, asked.html, folder=folder, found=found, stated=stated)}")
    if asked.csv or asked.parquet:
        from bench import frame
        from bench.report import files as written

        for path in written.write(frame.frame(records, stated=stated), csv=asked.csv, parquet=asked.parquet):
            print(f"wrote {path}")
    return 0 if picked.whole else 1


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw figures of a comparison: the overview (throughput and memory), or one subject, or all."""

    figure: tyro.conf.Positional[
        Literal[
            "overview",
            "throughput",
            "efficiency",
            "memory",
            "steps",
            "phases",
            "loss",
            "tuned-loss",
            "wire",
            "detection",
            "auroc",
            "all",
        ]
    ] = "overview"
    """What to draw."""
    comparison: tyro.conf.Positional[str] = "latest"
    """Name of a comparison or of a study (its file without .compare.json or .tune.json), latest, or the folder of records."""
    results: Path = Path("results")
    """Folder of the records."""
    all: bool = False
    """Every record of the folder, whatever comparison it belongs to; one figure an experiment."""
    output: Path | None = None
    """Path of the figure without its ending; beside the records where it is not given."""
    format: str = "png,svg"
    """Endings, separated by commas: png, svg, pdf."""


def plot(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a record could not be read."""
    asked = tyro.cli(Plot, args=argv, prog="ringzero plot")
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed; type: pip install -c constraints.txt -e '.[plots]'")
    from bench.report.plots import catalog
    from bench.report.plots.series import NothingToDraw
    from bench.report.rows import groups

    formats = [each.strip() for each in asked.format.split(",")]
    if unknown := sorted(set(formats) - set(catalog.FORMATS)):
        raise ConfigError(f"--format {', '.join(unknown)}: there are {', '.join(catalog.FORMATS)}")
    picked = chosen(asked.comparison, asked.results, asked.all)
    records = picked.records
    stem = asked.output or picked.folder / picked.name
    if stem.suffix.removeprefix(".") in catalog.FORMATS:
        stem = stem.with_suffix("")
    made = groups(records)
    for figure in catalog.FIGURES if asked.figure == "all" else (asked.figure,):
        try:
            paths = catalog.write(figure, made, records, stem, formats, tell=lambda text: print(text, file=sys.stderr))
        except NothingToDraw as error:
            if asked.figure != "all":
                raise
            print(error, file=sys.stderr)
            continue
        for path in paths:
            print(path)
    return 0 if picked.whole else 1


@dataclass(frozen=True)
class Picked:
    """Records to show. `name` is for files; `whole`: all could be read."""

    name: str
    folder: Path
    records: list[dict[str, Any]]
    whole: bool


def chosen(name: str, results: Path, everything: bool) -> Picked:
    """The records of a comparison; of the latest in a folder, where `name` is one; all, where runs were only started by hand.

    What can't be read is told on stderr. Raises Unreadable or ComparisonError where there is nothing.
    """
    from bench import comparison
    from bench.report import load

    if Path(name).is_dir():
        name, results = "latest", Path(name)
    if name == "latest" and results.is_dir() and not everything and not comparison.names(results):
        everything = True
    if not everything and (path := results / f"{name}{load.STUDY}").is_file():
        from bench.tuning.study import read

        loaded = load.load(results, [*dict.fromkeys(read(path).again)])
    elif everything:
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
    gc.freeze()  # of many records, each full collection would look through millions of objects that stay
    return Picked(name, results, loaded.records, not loaded.unreadable)


def studied(name: str, results: Path) -> tuple[Any, str] | None:
    """The table of a study, for a terminal and as Markdown; None where `name` is no study's."""
    from bench.report import load, tuned, verdicts
    from bench.tuning import outcome
    from bench.tuning.study import read

    if not (path := results / f"{name}{load.STUDY}").is_file():
        return None
    study = read(path)
    loaded = load.load(results, [*dict.fromkeys([*study.references, *study.again])])
    found = outcome.outcomes(study, verdicts.by_file(loaded.records))
    return tuned.terminal(study, found), tuned.markdown(study, found)


def relative(folder: Path, start: Path) -> str:
    """`folder` as seen from `start`."""
    seen = os.path.relpath(folder.resolve(), start.resolve())
    return "" if seen == "." else seen
