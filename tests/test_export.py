"""Exports: what the other tool's own reader finds in the files is what the records say."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from bench import export
from bench.comparison import Comparison
from bench.config import ConfigError
from bench.exports import mlperf, pytest_json, tensorboard
from bench.report.rows import groups
from bench.report.table import title
from tests import made

SINGLE = made.record("single")
DDP = made.record("ddp", 2)
VOID = made.changed(made.record("fsdp", 2), "skipped_steps", 3)
LOST = made.failed("ring")
MACRO = {"pixel_auroc": 0.9, "pixel_auroc_classes": 3, "pixel_auroc_error": 1e-7, "pro": None, "pro_reason": "no masks"}
SEEN = DDP | {
    "evaluation": {"seconds": 1, "text": {"images": 24, "macro": MACRO}, "bank": {"images": 24, "macro": MACRO}}
}
SLOWEST = np.max([rank["step_s"] for rank in DDP["ranks"]], axis=0)


def run(folder: Path, *words: str) -> int:
    return export.main([*words, "--results", str(folder)])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    Comparison(
        name="20260102T030405Z_quick", matrix={"name": "quick"}, seed=1, started="s", order=[], unavailable={},
        records=made.write(folder, SINGLE, DDP, VOID, LOST),
    ).write(folder)  # fmt: skip
    return folder


# --- MLPerf logging

# mlperf_logging.mllog.constants 4.1, the keys that RingZero can fill, and NVIDIA's tracked_stats (mlperf-common)
KEYS = {
    "submission_benchmark", "submission_division", "submission_entry", "submission_org", "submission_platform",
    "submission_status", "block_start", "block_stop", "eval_start", "eval_stop", "init_start", "init_stop", "run_start",
    "run_stop", "cache_clear", "eval_accuracy", "eval_samples", "seed", "train_samples", "trained_samples",
    "global_batch_size", "gradient_accumulation_steps", "max_steps", "opt_name", "opt_base_learning_rate",
    "opt_adamw_weight_decay", "opt_weight_decay", "opt_gradient_clip_norm", "lowest_numerical_precision_in_attn",
    "lowest_numerical_precision_in_comm", "lowest_numerical_precision_in_linear", "tensor_parallelism",
    "pipeline_parallelism", "context_parallelism", "expert_parallelism", "micro_batch_size", "config_filename",
    "tracked_stats",
}  # fmt: skip


def events(record: dict) -> list[dict]:
    """As mlperf_logging's parser reads a line: the token, a space, JSON."""
    found = []
    for line in mlperf.lines(record):
        assert line.startswith(":::MLLOG ")
        found.append(json.loads(line.removeprefix(":::MLLOG ")))
    return found


@pytest.mark.parametrize(
    "record", [SINGLE, SEEN, LOST, made.record("ring", 2, training={"optimizer": "sgd", "clip_norm": 0.0})]
)
def test_every_line_has_the_fields_and_a_key_of_mlperf(record: dict) -> None:
    for event in events(record):
        assert list(event) == ["namespace", "time_ms", "event_type", "key", "value", "metadata"]
        assert event["key"] in KEYS
        assert type(event["time_ms"]) is int
        ending = event["key"].rpartition("_")[2]
        kind = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}.get(ending, "POINT_IN_TIME")
        assert event["event_type"] == kind


def test_the_common_rules_of_the_compliance_checker_hold() -> None:
    """training_6.1.0/common.yaml: order and content; what it wants of a submission and a record lacks is in no line."""
    found = events(SEEN)
    keys = [event["key"] for event in found]
    places = [keys.index(key) for key in ("init_start", "init_stop", "run_start", "block_start", "block_stop", "eval_start",
                                          "eval_accuracy", "eval_stop", "run_stop")]  # fmt: skip
    assert places == sorted(places)
    assert keys[-1] == "run_stop"
    assert [event["time_ms"] for event in found] == sorted(event["time_ms"] for event in found)
    once = ("submission_org", "submission_platform", "submission_division", "init_stop", "run_start", "run_stop",
            "eval_samples", "config_filename")  # fmt: skip
    assert {key: keys.count(key) for key in once} == dict.fromkeys(once, 1)
    assert found[places[3]]["metadata"]["samples_count"] == 0
    assert all("samples_count" in found[place]["metadata"] for place in places[4:8])


def test_the_timed_window_is_as_long_as_the_slowest_ranks_steps() -> None:
    found = {event["key"]: event for event in events(SEEN)}
    assert found["run_start"]["time_ms"] == datetime.fromisoformat(DDP["started"]).timestamp() * 1000
    assert found["run_stop"]["time_ms"] - found["run_start"]["time_ms"] == pytest.approx(SLOWEST.sum() * 1000, abs=1)
    assert found["run_stop"]["metadata"]["status"] == "success"
    assert "set-up and warm-up are left out" in found["run_start"]["metadata"]["timeline"]
    steps = [event for event in events(SEEN) if event["key"] == "tracked_stats"]
    assert [event["value"]["throughput"] for event in steps] == (8 / SLOWEST).tolist()
    assert [event["metadata"]["samples_count"] for event in steps] == [8 * step for step in range(1, 11)]
    assert [event["value"]["total_loss"] for event in steps] == [each["total"] for each in DDP["losses"]]


def test_accuracy_is_logged_where_it_was_measured() -> None:
    accuracy = [event for event in events(SEEN) if event["key"] == "eval_accuracy"]
    assert [(event["metadata"]["metric"], event["value"]) for event in accuracy] == [("pixel_auroc", 0.9)]
    assert not {event["key"] for event in events(DDP)} & {"eval_accuracy", "eval_start", "eval_samples"}


def test_a_failed_run_is_aborted_after_the_steps_that_all_ranks_measured() -> None:
    lost = LOST | {"ranks": [{"rank": 0, "step_s": [0.5, 0.25]}, {"rank": 1, "step_s": [1.0]}]}
    found = events(lost)
    assert found[-1]["metadata"]["status"] == "aborted"
    assert [event["value"]["throughput"] for event in found if event["key"] == "tracked_stats"] == [8.0]
    assert events(LOST)[-1]["metadata"]["status"] == "aborted"


# --- pytest-benchmark


def test_pytest_benchmark_compares_the_exported_file(results: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "0001_quick.json"
    assert run(results, "pytest-benchmark", "--output", str(path)) == 0
    assert "left out: fsdp x2 is void" in capsys.readouterr().err
    table = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--csv", str(tmp_path / "out"), "--columns=median,rounds"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert "step[ddp-np2]" in table.stdout + table.stderr
    rows = (tmp_path / "out.csv").read_text().splitlines()
    cells = dict(zip(rows[0].split(","), next(row for row in rows if "ddp" in row).split(","), strict=True))
    assert float(cells["median"]) == pytest.approx(np.median(SLOWEST), rel=1e-12)
    assert cells["rounds"] == "10"
    assert len(rows) == 1 + 2


def test_repeats_are_rounds_of_one_benchmark_and_experiments_are_apart() -> None:
    longer = made.record("single", training={"steps": 20}) | {"run_id": "another"}
    records = [SINGLE, DDP, made.record("ddp", 2, repeat=1), longer]
    benchmarks = pytest_json.document(groups(records), records)["benchmarks"]
    assert [(each["name"], each["stats"]["rounds"]) for each in benchmarks] == [
        ("step[single-np1]", 10), ("step[ddp-np2]", 20), ("step[single-np1]", 20)]  # fmt: skip
    assert len({each["fullname"] for each in benchmarks}) == 3
    assert benchmarks[1]["extra_info"]["verdict"] == "verified"
    assert benchmarks[1]["extra_info"]["records"] == [f"{record['run_id']}.json" for record in records[1:3]]


def test_only_void_rows_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row has a speed"):
        pytest_json.write(groups([LOST]), [LOST], tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


# --- TensorBoard


def test_scalars_are_the_records_numbers_at_their_seconds() -> None:
    found = list(tensorboard.scalars(SEEN))
    start = datetime.fromisoformat(DDP["started"]).timestamp()
    took = [(value, step, when) for tag, value, step, when in found if tag == "time/step_s"]
    assert took == list(zip(SLOWEST.tolist(), range(1, 11), (start + np.cumsum(SLOWEST)).tolist(), strict=True))
    assert [value for tag, value, *_ in found if tag == "loss/total"] == [each["total"] for each in DDP["losses"]]
    once = {tag: (value, step) for tag, value, step, _ in found if not tag.startswith(("time", "loss", "gradient"))}
    assert once == {"memory/peak_bytes": (300_000_000, 10), "evaluation/text/pixel_auroc": (0.9, 10),
                    "evaluation/bank/pixel_auroc": (0.9, 10)}  # fmt: skip


def test_a_run_that_ended_early_has_what_it_measured() -> None:
    assert list(tensorboard.scalars(LOST)) == []
    lost = LOST | {"ranks": [{"rank": 1, "step_s": [0.5]}], "grad_norms": []}
    assert [(tag, value) for tag, value, *_ in tensorboard.scalars(lost)] == [
        ("time/step_s", 0.5),
        ("time/samples_per_s", 16.0),
    ]


def test_tensorboards_reader_finds_every_scalar(results: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # again: the files of before are replaced
        assert run(results, "tensorboard", "--output", str(tmp_path / "tb")) == 0
    assert f"left out: {VOID['run_id']} is void: 3 optimizer steps were skipped" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "tb").iterdir()) == sorted(
        each["run_id"] for each in (SINGLE, DDP, LOST)
    )
    events = EventAccumulator(str(tmp_path / "tb" / DDP["run_id"]))
    events.Reload()
    read = events.Scalars("time/step_s")
    assert [each.step for each in read] == list(range(1, 11))
    assert [each.value for each in read] == pytest.approx(SLOWEST.tolist(), rel=1e-6)
    assert set(events.Tags()["scalars"]) == {tag for tag, *_ in tensorboard.scalars(DDP)}


# --- the command


@pytest.mark.parametrize(("module", "words", "extra"), [
    (tensorboard, ("tensorboard",), "exports"), (pytest_json, ("pytest-benchmark",), "test")])  # fmt: skip
def test_a_missing_library_is_named_with_what_to_type(
    module, words, extra, results: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"not installed.*pip install .*\.\[{extra}\]"):
        run(results, *words, "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_mlperf_writes_a_log_a_run_and_leaves_void_ones_out(results: Path, tmp_path: Path, capsys) -> None:
    assert run(results, "mlperf", "--output", str(tmp_path / "logs")) == 0
    said = capsys.readouterr()
    assert f"wrote 3 files: {tmp_path / 'logs'}" in said.out
    assert f"left out: {VOID['run_id']} is void" in said.err
    text = (tmp_path / "logs" / f"{DDP['run_id']}.txt").read_text()
    assert text.splitlines() == list(mlperf.lines(DDP))


def test_records_that_can_not_be_read_are_told_and_the_rest_exported(results: Path, tmp_path: Path, capsys) -> None:
    (results / f"{DDP['run_id']}.json").write_text("{")
    assert run(results, "mlperf", "20260102T030405Z_quick", "--output", str(tmp_path / "logs")) == 1
    assert f"{DDP['run_id']}.json is not whole JSON" in capsys.readouterr().err
    assert (tmp_path / "logs" / f"{SINGLE['run_id']}.txt").exists()


def test_an_output_of_the_wrong_kind_is_told(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, pytest-benchmark writes a file"):
        run(results, "pytest-benchmark", "--output", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, mlperf writes a folder"):
        run(results, "mlperf", "--output", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot write"):
        run(results, "mlperf", "--output", str(tmp_path / "file" / "deeper"))


def test_what_a_run_did_is_told_not_what_its_flags_stand_at() -> None:
    asked = {"training": {"epochs": 50.0}, "tuning": {"compression": "fp16"}}
    long = made.record("ddp", 2, **asked)
    told = mlperf.settings(long | {"losses": made.losses(37, 1.0)})
    assert told["max_steps"] == 37
    assert told["lowest_numerical_precision_in_comm"] == "fp16"
    assert "max_steps" not in mlperf.settings(made.failed("ddp") | {"config": long["config"]})
    assert mlperf.settings(made.failed("ddp"))["max_steps"] == 10
    assert "50 epochs" in title(groups([long])[0])


def test_rows_under_other_conditions_have_names_of_their_own() -> None:
    cut = made.changed(made.record("ring", 2, repeat=1), "config/training/accumulation", 1)
    records = [made.record("ring", 2), cut]
    names = [each["fullname"] for each in pytest_json.document(groups(records), records)["benchmarks"]]
    assert len(set(names)) == 2
    assert any("micro_batch=4" in name for name in names)
