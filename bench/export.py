"""`ringzero export`: a comparison in the formats of MLPerf logging, pytest-benchmark or TensorBoard."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from bench.config import ConfigError

Format = Literal["mlperf", "pytest-benchmark", "tensorboard"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a comparison in a format that other tools read."""

    format: tyro.conf.Positional[Format]
    """mlperf: a log a run; pytest-benchmark: one JSON file; tensorboard: a folder of scalars a run."""
    comparison: tyro.conf.Positional[str] = "latest"
    """Name of a comparison (its file without .compare.json), latest, or the folder of records."""
    output: Path
    """The JSON file of pytest-benchmark; the folder of the others."""
    results: Path = Path("results")
    """Folder of the records."""
    all: bool = False
    """Every record of the folder, whatever comparison it belongs to."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a record could not be read; it is named on stderr, as are rows that have no speed."""
    from bench.commands import chosen

    asked = tyro.cli(Export, args=argv, prog="ringzero export")
    picked = chosen(asked.comparison, asked.results, asked.all)
    folder = asked.format != "pytest-benchmark"
    if asked.output.exists() and asked.output.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise ConfigError(f"--output {asked.output} is a {found}, {asked.format} writes a {wanted}; name another")
    try:
        written = _write(asked.format, picked.records, asked.output)
    except OSError as error:
        raise ConfigError(f"cannot write {asked.output}: {error.strerror or error}; name another --output") from error
    print(f"wrote {len(written)} file{'s' if len(written) != 1 else ''}: {asked.output}")
    return 0 if picked.whole else 1


def _write(wanted: Format, records: list[dict[str, Any]], output: Path) -> list[Path]:
    if wanted == "mlperf":
        from bench.exports import mlperf

        return mlperf.write(_speaking(records), output)
    if wanted == "tensorboard":
        from bench.exports import tensorboard

        return tensorboard.write(_speaking(records), output)
    from bench.exports import pytest_json
    from bench.report.rows import groups
    from bench.report.table import status

    made = groups(records)
    for row in (row for group in made for row in group.rows if row.throughput is None):
        print(f"left out: {row.label} x{row.ranks} is {status(row)} and has no speed", file=sys.stderr)
    return pytest_json.write(made, records, output)


def _speaking(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All runs but those that are void: a wrong answer has no speed. Raises ConfigError where none is left."""
    from bench.verify import references, verify

    known, kept = references(records), []
    for record in records:
        verdict = verify(record, known.get(record["experiment"]))
        if verdict.status == "void":
            print(f"left out: {record['run_id']} is void: {verdict.why}", file=sys.stderr)
        else:
            kept.append(record)
    if not kept:
        raise ConfigError("every run is void, there is nothing to export")
    return kept
