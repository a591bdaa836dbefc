"""Settings of one engine: whose they are, a track of their own, and a verdict that does not claim too much."""

import dataclasses
from typing import Any

import pytest

from backends.base import EngineConfig
from backends.tuning import OWNERS, Tuning, words
from bench import launchers, matrix
from bench.config import ConfigError, Engine, RunConfig
from bench.flags import parse
from bench.report import table, verdicts
from bench.report.rows import groups
from bench.verify import verify
from tests import made

FP16 = {"tuning": {"compression": "fp16"}}
OTHER = {
    "own_bucket_mb": 2.0,
    "fused_optimizer": True,
    "compression": "fp16",
    "gradient_as_bucket_view": False,
    "static_graph": True,
    "cycle_ms": 0.5,
    "autotune": True,
    "overlap_comm": False,
    "multi_rank_allreduce": False,
    "engine_adam": True,
    "reshard": False,
    "one_unit": True,
}


def config(label: str, **tuning: Any) -> RunConfig:
    return RunConfig.from_dict({"engine": matrix.engine(label), "tuning": tuning, "training": {"accumulation": 1}})


def test_every_setting_is_tried_here_and_has_an_owner() -> None:
    assert set(OTHER) == set(OWNERS) == {each.name for each in dataclasses.fields(Tuning)}


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_accepted_by_its_engines_and_refused_by_others(name: str) -> None:
    for label in ("single", "ddp", "fsdp", "zero-0", "zero-1", "zero-2", "zero-3", "horovod", "ring"):
        if label in OWNERS[name]:
            assert config(label, **{name: OTHER[name]}).track == "tuned"
        else:
            with pytest.raises(ConfigError, match=rf"--(no-)?{name.replace('_', '-')} belongs to .*, not to {label}"):
                config(label, **{name: OTHER[name]})


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_reaches_a_run_by_its_flag(name: str) -> None:
    told = config(OWNERS[name][0], **{name: OTHER[name]})
    assert parse(launchers.flags(told)) == told


def test_without_settings_a_run_is_controlled_and_the_experiment_is_the_same() -> None:
    plain, tuned = config("ddp"), config("ddp", compression="fp16")
    assert (plain.track, tuned.track) == ("controlled", "tuned")
    assert plain.experiment_id() == tuned.experiment_id()
    assert launchers.flags(plain) == ["--backend", "ddp", "--accumulation", "1"]


@pytest.mark.parametrize(
    ("label", "tuning", "message"),
    [
        ("horovod", {"autotune": True, "cycle_ms": 3.0}, "leave --own-bucket-mb and --cycle-ms out"),
        ("fsdp", {"one_unit": True, "reshard": False}, "leave --no-reshard out"),
        ("zero-1", {"engine_adam": True, "fused_optimizer": True}, "leave --fused-optimizer out"),
        ("ddp", {"own_bucket_mb": 0.0}, "must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_say_what_to_leave_out(label: str, tuning: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(label, **tuning)


@pytest.mark.parametrize(("label", "tuning"), [("ddp", {"static_graph": True}), ("fsdp", {"compression": "fp16"})])
def test_what_can_not_accumulate_says_so(label: str, tuning: Any) -> None:
    with pytest.raises(ConfigError, match="needs --accumulation 1"):
        RunConfig.from_dict({"engine": {"backend": label}, "tuning": tuning})


@pytest.mark.parametrize("name", ["fused_optimizer", "engine_adam"])
def test_an_adamw_needs_adamw(name: str) -> None:
    with pytest.raises(ConfigError, match="needs --optimizer adamw"):
        RunConfig.from_dict(
            {"engine": matrix.engine("zero-1"), "tuning": {name: True}, "training": {"optimizer": "sgd"}}
        )


def test_the_engines_bucket_stands_in_for_the_common_one() -> None:
    told = EngineConfig(accumulation=1, micro_batch=1, bucket_mb=25, tuning=Tuning(own_bucket_mb=0.5))
    assert told.bucket_bytes == 2**19
    assert dataclasses.replace(told, tuning=Tuning()).bucket_bytes == 25 * 2**20


def test_settings_in_words() -> None:
    changed = Tuning(own_bucket_mb=0.5, static_graph=True, overlap_comm=False, compression="fp16").changed()
    assert words(changed) == "own bucket mb 0.5, compression fp16, static graph, no overlap comm"


def test_tuned_and_controlled_rows_are_never_in_one_table() -> None:
    records = [
        made.record(),
        made.record("ddp", 2),
        made.record("ddp", 2, repeat=1, tuning={"own_bucket_mb": 1.0}),
        made.record("ddp", 2, repeat=2, tuning={"own_bucket_mb": 5.0}),
        made.record("ring", 2, repeat=3),
    ]
    controlled, tuned = groups(records)
    assert (controlled.track, tuned.track) == ("controlled", "tuned")
    assert [row.name for row in controlled.rows] == ["single", "ddp", "ring"]
    assert [row.name for row in tuned.rows] == ["ddp (own bucket mb 1)", "ddp (own bucket mb 5)"]
    assert {row.verdict.status for row in tuned.rows if row.verdict} == {"verified"}
    assert all(row.vs_single is not None for row in tuned.rows)
    assert "tuned track" in table.title(tuned)
    assert "tuned track" not in table.title(controlled)
    files = verdicts.by_file(records)
    (pair,) = verdicts.compare(tuned, files).pairs
    assert pair.first.label == "ddp (own bucket mb 1)"
    names = {each.first.label for each in verdicts.compare(controlled, files).pairs}
    assert names == {"ddp"}


def test_a_failed_tuned_run_is_a_row_of_its_own_track() -> None:
    lost = made.failed("ddp") | {"config": config("ddp", own_bucket_mb=1.0).to_dict()}
    plain = made.record("ddp", 2, training={"accumulation": 1})
    assert lost["experiment"] == plain["experiment"]
    assert [(group.track, [len(row.failures) for row in group.rows]) for group in groups([plain, lost])] == [
        ("controlled", [0]),
        ("tuned", [1]),
    ]


def test_16_bits_on_the_wire_are_never_verified_and_their_loss_is_told() -> None:
    single, run = made.record(), made.record("ddp", 2, **FP16)
    apart = made.changed(run, "losses/3/total", lambda loss: loss * 1.01)
    for record in (run, apart):
        verdict = verify(record, single)
        assert verdict.status == "unproven"
        assert "compression fp16 changes what is computed" in verdict.why
    assert verify(apart, single).difference == pytest.approx(0.01)
    assert verify(apart, single).first_step == 3
    assert verify(made.changed(run, "losses/3/total", "nan"), single).status == "void"
    assert verify(made.changed(run, "config/tuning/compression", "none"), single).status == "verified"


def test_a_label_of_an_engine_is_its_own() -> None:
    assert Engine(backend="ddp").label == "ddp" == made.record("ddp", 2, **FP16)["engine"]["label"]
