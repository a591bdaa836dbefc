"""The table of runs as files that other programs read: CSV and Parquet, a row a run, units in the column names."""

from importlib.util import find_spec
from pathlib import Path

import pandas

from bench.config import ConfigError

RAW = "record"  # the whole record: JSON of its own, no cell of a table


def write(table: pandas.DataFrame, *, csv: Path | None = None, parquet: Path | None = None) -> list[Path]:
    """Write `bench.frame.frame`'s table to the files that are named; their folders are made. Returns the paths.

    Raises ConfigError where Parquet is asked for without pyarrow (before anything is written), or a file can't be written.
    """
    if parquet is not None and find_spec("pyarrow") is None:
        raise ConfigError(
            "pyarrow is not installed, Parquet needs it; type: pip install -c constraints.txt -e '.[files]'"
        )
    flat = plain(table)
    written = []
    for path, save in ((csv, flat.to_csv), (parquet, flat.to_parquet)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, index=False)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; name another file") from error
        written.append(path)
    return written


def plain(table: pandas.DataFrame) -> pandas.DataFrame:
    """Without the raw record, and with one type a column: a setting that is a number in one run and text in another
    becomes text, a missing value stays missing."""
    flat = table.drop(columns=RAW, errors="ignore")
    for name in (each for each in flat if pandas.api.types.is_object_dtype(flat[each])):
        kinds = {type(value) for value in flat[name].dropna()}
        if len(kinds) > 1 or kinds & {list, dict}:
            flat[name] = flat[name].map(str, na_action="ignore")
    return flat
