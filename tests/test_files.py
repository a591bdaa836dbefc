"""CSV and Parquet: what was written is what is read."""

from pathlib import Path

import pandas
import pytest

from bench import frame
from bench.config import ConfigError
from bench.report import files
from tests import made

SINGLE = made.record("single")
DDP = made.record("ddp", 2)
TABLE = frame.frame([SINGLE, DDP, made.failed("ring")], [(Path("x/bad.json"), "bad.json is not whole JSON")])


def test_both_files_hold_every_row_and_every_column_but_the_raw_record(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    csv, parquet = tmp_path / "deep" / "runs.csv", tmp_path / "runs.parquet"
    assert files.write(TABLE, csv=csv, parquet=parquet) == [csv, parquet]
    for read in (pandas.read_csv(csv), pandas.read_parquet(parquet)):
        assert list(read) == [name for name in TABLE if name != "record"]
        assert read.run_id.tolist() == TABLE.run_id.tolist()
        assert read.samples_per_s.iloc[1] == TABLE.samples_per_s.iloc[1]
        assert read.samples_per_s.isna().tolist() == [False, False, True]
        assert pandas.to_datetime(read.started).tolist() == TABLE.started.tolist()
    assert pandas.read_parquet(parquet).attrs["unreadable"] == [["bad.json", "bad.json is not whole JSON"]]


def test_a_setting_of_two_types_becomes_text(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    mixed = frame.frame([made.changed(SINGLE, "config/training/lr", 0.5), made.changed(DDP, "config/training/lr", "auto"),
                         made.changed(DDP, "config/training/lr", None), made.changed(DDP, "config/training/lr", [1, 2])])  # fmt: skip
    files.write(mixed, parquet=tmp_path / "x.parquet")
    read = pandas.read_parquet(tmp_path / "x.parquet")["config.training.lr"]
    assert read.fillna("missing").tolist() == ["0.5", "auto", "missing", "[1, 2]"]
    assert "record" in mixed, "the caller's table is left as it is"


def test_without_pyarrow_nothing_is_written_and_the_command_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .*\.\[files\]"):
        files.write(TABLE, csv=tmp_path / "a.csv", parquet=tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
    assert files.write(TABLE, csv=tmp_path / "a.csv") == [tmp_path / "a.csv"]


def test_a_place_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"taken/a\.csv.*name another file"):
        files.write(TABLE, csv=tmp_path / "taken" / "a.csv")
