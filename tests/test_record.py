"""Records: begun early, replaced whole, kept somewhere in any case."""

import errno
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench import record
from bench.record import RESERVE_BYTES, RecordError, RecordFile, plain, run_id


@pytest.fixture
def file(tmp_path) -> RecordFile:
    return RecordFile(tmp_path / "results", "20260102T030405000Z_ring_np2_abc1234")


def test_begin_finish_read(file):
    file.begin({"status": "running", "path": Path("a/b")})
    assert file.read() == {"status": "running", "path": "a/b"}
    assert file.finish({"status": "done"}) == file.path
    assert file.read() == {"status": "done"}
    assert file.path.parent.name == "results"
    assert file.path.name == "20260102T030405000Z_ring_np2_abc1234.json"
    assert [path.name for path in file.path.parent.glob("*.json*")] == [file.path.name]


def test_room_is_set_aside_and_given_back(file):
    file.begin({})
    assert file.reserve.stat().st_size == RESERVE_BYTES
    assert file.reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "the room must be taken, not only promised"
    assert file.reserve.parent == file.workdir
    file.finish({})
    assert not file.reserve.exists()


def test_the_room_is_free_before_the_end_is_written(file, monkeypatch):
    file.begin({})
    seen = []
    real = RecordFile._write
    monkeypatch.setattr(
        RecordFile, "_write", staticmethod(lambda *given, durable: (seen.append(file.reserve.exists()), real(*given)))
    )
    file.finish({})
    assert seen == [False]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failing_write_leaves_the_old_record(file, monkeypatch):
    file.begin({"status": "running"})
    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.finish({"status": "done"})
    assert file.read() == {"status": "running"}
    assert list(file.path.parent.glob("*.partial")) == []


@pytest.mark.parametrize(("durable", "seen"), [(True, ["running", "done"]), (False, [])])
def test_the_disk_has_a_record_before_it_is_in_its_place_unless_there_is_no_time(file, monkeypatch, durable, seen):
    file.begin({"status": "running"})
    places = []
    monkeypatch.setattr(record.os, "fsync", lambda handle: places.append(file.read()["status"]))
    file.finish({"status": "done"}, durable=durable)
    assert places == seen


def test_a_folder_that_refuses_at_the_end_is_replaced_by_the_temporary_one(file, tmp_path, monkeypatch):
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    file.begin({"status": "running"})
    shutil.rmtree(file.path.parent)
    kept = file.finish({"status": "done"})
    assert kept == spare / file.path.name
    assert json.loads(kept.read_text()) == {"status": "done"}


def test_a_folder_that_can_not_be_made_is_told_with_the_flag():
    with pytest.raises(RecordError, match="--results") as caught:
        RecordFile(Path("/proc/nowhere/results"), "x").begin({})
    assert "/proc/nowhere/results" in str(caught.value)


def test_a_folder_without_room_is_told_at_the_beginning(file, monkeypatch):
    monkeypatch.setattr(record.os, "posix_fallocate", full)
    with pytest.raises(RecordError, match="No space left on device; free some room"):
        file.begin({})


def test_a_number_that_is_none_becomes_its_name(file):
    file.begin({"losses": [{"total": float("nan")}, {"total": float("-inf")}], "pair": (1.0, float("inf")), 3: None})
    assert file.read() == {"losses": [{"total": "nan"}, {"total": "-inf"}], "pair": [1.0, "inf"], "3": None}
    assert "NaN" not in file.path.read_text()
    assert plain({"x": 1.5, "y": [True, "z"]}) == {"x": 1.5, "y": [True, "z"]}


def test_names_sort_by_time(monkeypatch):
    start = datetime(2026, 1, 2, 3, 59, 59, 998_000, tzinfo=UTC)
    times = [start + timedelta(milliseconds=each) for each in (0, 1, 2, 3, 1002, 60_000, 90_000_000)]
    clock = iter(times)

    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(clock)

    monkeypatch.setattr(record, "datetime", Now)
    labels = ["zero-3", "ring", "ddp", "single", "fsdp", "horovod", "ddp"]
    names = [run_id(label, 2, "abc1234") for label in labels]
    assert names == sorted(names)
    assert names[0] == "20260102T035959998Z_zero-3_np2_abc1234"


def test_a_name_without_a_commit_says_so():
    assert run_id("ring", 4, None).endswith("Z_ring_np4_nocommit")
    assert os.sep not in run_id("ring", 4, None)
