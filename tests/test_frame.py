"""Records as tables: what a column holds, what is missing, and that nothing is lost or made up on the way."""

import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest

import bench.record
from bench import frame, stats
from bench.report.load import Unreadable
from tests import made

SINGLE = made.record("single")
DDP = made.record("ddp", 2)


def one(*records: dict) -> pandas.Series:
    """The row of the last record."""
    return frame.frame(records).iloc[-1]


def test_three_lines_are_enough_for_a_plot(tmp_path: Path) -> None:
    made.write(tmp_path, SINGLE, *(made.record("ring", ranks, speed=ranks) for ranks in (1, 2, 4)))
    df = bench.record.load(tmp_path)
    axes = df[df.engine == "ring"].plot(x="ranks", y="samples_per_s")
    assert axes.lines[0].get_ydata().tolist() == df[df.engine == "ring"].samples_per_s.tolist()
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 4]


def test_a_row_says_what_the_record_says() -> None:
    run = made.record("zero-2", 2, training={"lr": 0.25})
    run["traffic"] = {"sent_bytes": [7.0, 9.0]}
    run["workload"] = {"cost": {"gradient_bytes": 12}}
    run["ranks"][0]["memory"] |= {"parameters": 5, "activations": 3}
    run["ranks"][1]["memory"] |= {"parameters": 4, "activations": 8}
    run["ranks"][1]["memory"]["at_peak"] = {"workspace": 2, "runtime": 0}
    run |= made.perturbed(2, exposed_s=0.05)
    row = one(made.record("single", training={"lr": 0.25}), run)
    assert (row.run_id, row.engine, row.ranks, row.status, row.verdict) == (
        run["run_id"],
        "zero-2",
        2,
        "done",
        "verified",
    )
    assert (row.machine, row.device, row["commit"], row.hosts) == ("Made-up CPU", "cpu", "abc1234def", 1)
    assert row.peak_bytes == 300_000_000
    assert (row.memory_parameters_bytes, row.memory_activations_bytes) == (5, 8)
    assert (row.at_peak_workspace_bytes, row.at_peak_runtime_bytes) == (2, 0)
    assert np.isnan(row.at_peak_mapped_bytes)
    assert row.exposed_s == pytest.approx(0.05)
    assert (row.sent_bytes, row.gradient_bytes) == (9.0, 12)
    assert row.final_loss == run["losses"][-1]["total"]
    assert row["config.training.lr"] == 0.25
    assert row["config.engine.zero_stage"] == 2
    assert row.started == pandas.Timestamp("2026-01-02T03:00:00Z")
    assert row["record"] is run


def test_speed_is_of_the_slowest_rank() -> None:
    run = made.record("ddp", 2)
    run["ranks"][0]["step_s"] = [1.0, 2.0, 3.0] + [2.0] * 7
    run["ranks"][1]["step_s"] = [4.0] * 10
    run["ranks"][1]["data_s"] = [0.5] * 10
    row = one(SINGLE, run)
    assert (row.step_s, row.step_s_low, row.step_s_high, row.data_s) == (4.0, 4.0, 4.0, 0.5)
    assert row.samples_per_s == 8 / 4.0


def test_intervals_are_those_of_the_report() -> None:
    """Other draws, the same distribution: the ends differ by what 2000 resamples leave open."""
    draw = np.random.default_rng(0)
    for count in (9, 10, 51, 200):
        samples = draw.lognormal(0, 0.2, count)
        quick, slow = frame.interval(samples), stats.median_interval([samples])
        assert quick.median == slow.median == np.median(samples)
        width = slow.high - slow.low
        assert abs(quick.low - slow.low) < 0.12 * width
        assert abs(quick.high - slow.high) < 0.12 * width


def test_the_interval_is_that_of_every_resample_there_is() -> None:
    """Six samples have 46656 resamples, five 3125: the ends are known exactly."""
    for count in (5, 6):
        samples = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])[:count]
        every = samples[np.indices((count,) * count).reshape(count, -1)]
        found = frame.interval(samples)
        assert [found.low, found.high] == np.quantile(np.median(every, axis=0), [0.025, 0.975]).tolist()


def test_what_was_not_measured_is_missing_not_zero() -> None:
    run = made.changed(DDP, "ranks/1/memory", {"peak_bytes": None, "peak_bytes_reason": "--warmup 0"})
    run["traffic"] = {"sent_bytes": None, "sent_bytes_reason": "ddp does not tell"}
    run["energy"] = {"joules": None, "joules_reason": "no counter"}
    table = frame.frame([SINGLE, run])
    row = table.iloc[1]
    for name in ("peak_bytes", "sent_bytes", "joules", "memory_parameters_bytes", "gradient_bytes"):
        assert math.isnan(row[name]), name
        assert table[name].dtype == float, name


@pytest.mark.parametrize(
    ("path", "value", "verdict"),
    [("skipped_steps", 2, "void"), ("losses/3/total", "nan", "void"), ("proof", [], "unproven")],
)
def test_a_void_run_has_no_speed_and_keeps_its_samples(path: str, value: object, verdict: str) -> None:
    row = one(SINGLE, made.changed(DDP, path, value))
    assert row.verdict == verdict
    assert math.isnan(row.samples_per_s) == math.isnan(row.step_s_low) == (verdict == "void")
    assert row["record"]["ranks"][1]["step_s"] == DDP["ranks"][1]["step_s"]


def test_a_failed_run_is_a_row_with_its_cause() -> None:
    row = one(SINGLE, made.changed(made.failed("ring"), "environment", None))
    assert (row.status, row.verdict) == ("failed", "failed")
    assert "no route to rank 1" in row.why
    assert math.isnan(row.samples_per_s)
    assert math.isnan(row.final_loss)


def test_step_times_that_can_not_be_are_told_in_their_row_only() -> None:
    table = frame.frame([SINGLE, made.changed(DDP, "ranks/1/step_s", [1.0]), made.record("ring", 2)])
    assert "different numbers of steps" in table.why[1]
    assert table.samples_per_s.isna().tolist() == [False, True, False]


def test_evaluations_are_columns_only_where_a_run_has_one() -> None:
    assert not [name for name in frame.frame([SINGLE, DDP]) if name.startswith("text_")]
    macro = {
        "pixel_auroc": 0.9,
        "pixel_auroc_classes": 3,
        "pixel_auroc_error": 1e-7,
        "pro": None,
        "pro_reason": "no masks",
    }
    seen = DDP | {
        "evaluation": {"seconds": 1, "text": {"images": 24, "macro": macro}, "bank": {"images": 24, "macro": macro}}
    }
    table = frame.frame([SINGLE, seen])
    assert table.text_pixel_auroc.tolist()[1] == table.bank_pixel_auroc.tolist()[1] == 0.9
    assert table.evaluation_images.tolist()[1] == 24
    assert table[["text_pixel_auroc", "text_pro"]].isna().values.tolist() == [[True, True], [False, True]]
    assert [name for name in table if name.endswith(("_reason", "_error", "_classes"))] == []


def test_steps_are_every_raw_sample(tmp_path: Path) -> None:
    lost = made.failed("ring")
    lost["ranks"] = [{"rank": 1, "step_s": [0.5, 0.25], "data_s": [0.125]}]
    made.write(tmp_path, SINGLE, DDP, lost)
    table = bench.record.steps(tmp_path)
    assert len(table) == 10 + 20 + 2
    ours = table[(table.run_id == DDP["run_id"]) & (table["rank"] == 1)]
    assert ours.step.tolist() == list(range(10))
    assert ours.step_s.tolist() == DDP["ranks"][1]["step_s"]
    assert ours.loss_total.tolist() == [each["total"] for each in DDP["losses"]]
    end = table[table.engine == "ring"]
    assert end["rank"].tolist() == [1, 1]
    assert end.data_s.fillna(-1).tolist() == [0.125, -1]
    assert end.loss_total.isna().all()


def test_unreadable_files_are_warned_of_by_name_and_kept_in_attrs(tmp_path: Path) -> None:
    made.write(tmp_path, SINGLE)
    (tmp_path / "half.json").write_text('{"schema": 1, "run')
    (tmp_path / "other.json").write_text(json.dumps(SINGLE | {"schema": 99}))
    for read in (bench.record.load, bench.record.steps):
        with pytest.warns(UserWarning, match=r"(half|other)\.json") as caught:
            table = read(tmp_path)
        assert len(caught) == 2
        assert all(each.filename == __file__ for each in caught), "the warning points at the caller"
        assert [name for name, _ in table.attrs["unreadable"]] == ["half.json", "other.json"]
        assert "schema 99" in table.attrs["unreadable"][1][1]
        assert set(table.run_id) == {SINGLE["run_id"]}


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="ringzero compare quick"):
        bench.record.load(tmp_path / "none")
    assert bench.record.load(tmp_path).empty
    assert bench.record.steps(tmp_path).empty


def test_the_reference_records_are_read_as_their_table_says() -> None:
    folder = Path(__file__).parents[1] / "results" / "reference"
    df = bench.record.load(folder)
    (line,) = [
        line
        for line in (folder / "quick.md").read_text().splitlines()
        if line.startswith("| [ring]") and "_np2_" in line
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    row = df[(df.engine == "ring") & (df.ranks == 2)].iloc[0]
    assert f"{row.samples_per_s:.1f} {row.step_s * 1e3:.0f} {row.final_loss:.4f}" == " ".join(
        cells[i] for i in (2, 4, 7)
    )
    assert row.sent_bytes == row.gradient_bytes == 2383040
    assert df.verdict.value_counts().to_dict() == {"verified": 16, "reference": 1}
