"""What one run is: its flags, its JSON, and which runs must compute the same."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from backends.tuning import Tuning
from bench.config import Checkpoints, ConfigError, Engine, Measure, Output, RunConfig, Training, Workload
from bench.flags import cut, parse

FLAGS = {  # users type these and scripts hold them: a name that changes here breaks both
    "--checkpoint-every",
    "--checkpoint-folder",
    "--checkpoint-keep",
    "--resume",
    "--backend",
    "--zero-stage",
    "--offload-optimizer",
    "--no-offload-optimizer",
    "--transport",
    "--bucket-mb",
    "--device",
    "--preset",
    "--data",
    "--images",
    "--weights",
    "--variant",
    "--shots",
    "--rotations",
    "--no-rotations",
    "--instructions",
    "--precision",
    "--seed",
    "--global-batch",
    "--accumulation",
    "--optimizer",
    "--lr",
    "--schedule",
    "--weight-decay",
    "--clip-norm",
    "--steps",
    "--epochs",
    "--warmup",
    "--proof-steps",
    "--evaluate",
    "--evaluate-every",
    "--target-auroc",
    "--target-metric",
    "--exposed-steps",
    "--phase-steps",
    "--limit-s",
    "--bind",
    "--no-bind",
    "--own-bucket-mb",
    "--fused-optimizer",
    "--no-fused-optimizer",
    "--compression",
    "--gradient-as-bucket-view",
    "--no-gradient-as-bucket-view",
    "--static-graph",
    "--no-static-graph",
    "--cycle-ms",
    "--autotune",
    "--no-autotune",
    "--overlap-comm",
    "--no-overlap-comm",
    "--multi-rank-allreduce",
    "--no-multi-rank-allreduce",
    "--engine-adam",
    "--no-engine-adam",
    "--reshard",
    "--no-reshard",
    "--one-unit",
    "--no-one-unit",
    "--results",
    "--save",
    "--export",
    "--load",
}


def config(backend: Any = "ring", **groups: Any) -> RunConfig:
    return RunConfig(engine=Engine(backend=backend), **groups)


FULL = RunConfig(
    engine=Engine(backend="deepspeed", zero_stage=3, offload_optimizer=True, bucket_mb=1.5, device="cpu"),
    workload=Workload(
        preset="small",
        data="elpv",
        images=Path("some/where"),
        precision="amp_bf16",
        seed=7,
        weights=Path("w"),
        variant="V3",
        instructions=Path("i"),
        shots=2,
        rotations=False,
    ),
    training=Training(
        global_batch=16,
        accumulation=4,
        optimizer="sgd",
        lr=0.1,
        weight_decay=0.0,
        clip_norm=0.0,
        steps=3,
        schedule="warmup_decay",
        epochs=1.5,
    ),
    measure=Measure(
        warmup=0,
        proof_steps=0,
        phase_steps=3,
        exposed_steps=8,
        evaluate=5,
        evaluate_every=2,
        target_auroc=0.9,
        target_metric="image_auroc",
        limit_s=9.0,
        bind=False,
    ),
    output=Output(results=Path("there"), save=Path("a"), export=Path("e"), load=Path("b")),
    checkpoints=Checkpoints(checkpoint_folder=Path("c"), checkpoint_keep=5),
)
GOES_ON = Checkpoints(checkpoint_every=5, resume="auto")  # not with what else FULL has


@pytest.mark.parametrize(
    "whole", [config(), FULL, config(checkpoints=GOES_ON)], ids=["defaults", "nothing left to defaults", "goes on"]
)
def test_json_and_back(whole):
    plain = json.loads(json.dumps(whole.to_dict()))
    assert plain == whole.to_dict()
    assert RunConfig.from_dict(plain) == whole
    assert set(plain) == {"engine", "workload", "training", "measure", "tuning", "output", "checkpoints"}


def test_full_differs_from_the_defaults_everywhere():
    """Else the round trip above would not see a field that is lost."""
    for group in dataclasses.fields(RunConfig):
        for each in dataclasses.fields(getattr(FULL, group.name)):
            excused = each.name in ("transport", "checkpoint_every", "resume") or group.name == "tuning"
            if not excused:  # what no run has together: test_tuning.py, and GOES_ON
                assert getattr(getattr(FULL, group.name), each.name) != each.default, each.name


def test_paths_come_back_as_paths_and_what_is_missing_is_the_default():
    read = RunConfig.from_dict(
        {"engine": {"backend": "ddp"}, "output": {"results": "there"}, "workload": {"images": None}}
    )
    assert read == config("ddp", output=Output(results=Path("there")))
    assert isinstance(read.output.results, Path)


def test_a_whole_number_is_the_same_experiment_as_its_float():
    """A matrix says 1 where the command line of its runs reads 1.0."""
    read = RunConfig.from_dict({"engine": {"backend": "ddp"}, "training": {"clip_norm": 1}})
    assert read.experiment_id() == config("ddp", training=Training(clip_norm=1.0)).experiment_id()


def test_unknown_groups_and_fields_are_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"unknown group \['model'\].*workload"):
        RunConfig.from_dict({"engine": {"backend": "ddp"}, "model": {}})
    with pytest.raises(ConfigError, match=r"unknown field \['rate'\] in training.*weight_decay"):
        RunConfig.from_dict({"engine": {"backend": "ddp"}, "training": {"rate": 1}})


def test_the_flags_are_these(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # wider, and boxes stand side by side
    with pytest.raises(SystemExit) as leaving:
        parse(["--help"])
    assert leaving.value.code == 0
    lines = re.findall(r"^[^\w\n-]*(--[a-z][a-z-]*(?:, --[a-z-]+)*)", capsys.readouterr().out, re.MULTILINE)
    shown = {flag for line in lines for flag in line.split(", ")}
    assert shown == FLAGS


def test_every_field_is_read_from_its_flag():
    words = [
        "--backend deepspeed --zero-stage 3 --offload-optimizer --bucket-mb 1.5 --device cpu",
        "--preset small --data elpv --images some/where --precision amp_bf16 --seed 7",
        "--weights w --variant V3 --instructions i --shots 2 --no-rotations --schedule warmup_decay --epochs 1.5",
        "--global-batch 16 --accumulation 4 --optimizer sgd --lr 0.1 --weight-decay 0 --clip-norm 0 --steps 3",
        "--warmup 0 --proof-steps 0 --limit-s 9 --evaluate 5 --evaluate-every 2 "
        "--target-auroc 0.9 --target-metric image_auroc --no-bind --export e --results there --save a --load b",
        "--warmup 0 --proof-steps 0 --phase-steps 3 --exposed-steps 8 "
        "--limit-s 9 --evaluate 5 --no-bind --export e --results there --save a --load b",
        "--checkpoint-folder c --checkpoint-keep 5",
    ]
    assert parse(" ".join(words).split()) == FULL
    assert parse(["--backend", "ring"]) == config()
    assert parse(["--backend", "ring", "--checkpoint-every", "5", "--resume", "auto"]) == config(checkpoints=GOES_ON)
    assert parse(["--backend", "ring", "--transport", "torch"]).engine.transport == "torch"


@pytest.mark.parametrize("local", ["--local_rank=1", "--local-rank=1"])
def test_the_flag_that_launchers_add_is_passed_over(local):
    assert parse([local, "--backend", "deepspeed"]) == config("deepspeed")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--backend", "gloo"],
        ["--backend", "ddp", "--zero", "2"],
        ["--backend", "ddp", "--lr", "much"],
        ["--backend", "deepspeed", "--zero-stage", "4"],
    ],
)
def test_what_can_not_be_read_leaves_with_2(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(words)
    assert leaving.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("training", "global_batch", 0),
        ("training", "accumulation", 0),
        ("training", "steps", 0),
        ("workload", "shots", 0),
        ("training", "epochs", 0.0),
        ("measure", "evaluate", -1),
        ("measure", "phase_steps", -1),
        ("measure", "exposed_steps", -1),
        ("training", "lr", 0.0),
        ("training", "lr", float("nan")),
        ("training", "weight_decay", -0.1),
        ("training", "clip_norm", -1.0),
        ("measure", "warmup", -1),
        ("measure", "proof_steps", -1),
        ("measure", "limit_s", 0.0),
        ("engine", "bucket_mb", 0.0),
    ],
)
def test_values_that_can_not_be_run_are_refused_by_their_flag(group, field, value):
    values = config().to_dict()
    values[group][field] = value
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} is "):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    "engine",
    [
        {"backend": "ddp"},
        {"backend": "deepspeed", "zero_stage": 0},
        {"backend": "single", "zero_stage": 3},
    ],
)
def test_offloading_needs_an_engine_that_can(engine):
    with pytest.raises(ConfigError, match="--offload-optimizer needs --backend deepspeed"):
        RunConfig(engine=Engine(**engine, offload_optimizer=True))


@pytest.mark.parametrize(
    ("batch", "accumulation", "ranks", "share"), [(8, 2, 1, 4), (8, 2, 2, 2), (8, 2, 4, 1), (12, 1, 3, 4)]
)
def test_the_batch_is_shared_evenly(batch, accumulation, ranks, share):
    assert config(training=Training(global_batch=batch, accumulation=accumulation)).micro_batch(ranks) == share


@pytest.mark.parametrize(
    ("batch", "accumulation", "ranks", "near"),
    [
        (8, 2, 3, "--global-batch 6 or 12,"),
        (5, 1, 2, "--global-batch 4 or 6,"),
        (2, 2, 2, "--global-batch 4,"),
    ],
)
def test_a_batch_that_can_not_be_shared_is_answered_with_sizes_that_can(batch, accumulation, ranks, near):
    asked = config(training=Training(global_batch=batch, accumulation=accumulation))
    with pytest.raises(ConfigError) as caught:
        asked.micro_batch(ranks)
    text = str(caught.value)
    assert near in text
    assert f"{batch} can't be cut into {ranks} ranks x {accumulation} micro-batches" in text
    assert "--accumulation" in text
    for size in re.findall(r"\d+", near):
        config(training=Training(global_batch=int(size), accumulation=accumulation)).micro_batch(ranks)


def test_labels_tell_the_stages_apart():
    labels = [Engine(backend="deepspeed", zero_stage=stage).label for stage in (0, 1, 2, 3)]
    assert labels == ["zero-0", "zero-1", "zero-2", "zero-3"]
    assert Engine(backend="deepspeed", offload_optimizer=True).label == "zero-2-offload"
    assert Engine(backend="fsdp", zero_stage=3).label == "fsdp"


SAME = [
    ("engine", "backend", "deepspeed"),
    ("engine", "bucket_mb", 1.0),
    ("engine", "device", "cpu"),
    ("engine", "transport", "mpi"),
    ("training", "accumulation", 4),
    ("measure", "warmup", 9),
    ("measure", "limit_s", 1.0),
    ("measure", "bind", False),
    ("output", "results", "x"),
    ("output", "save", "x"),
    ("output", "export", "x"),
    ("checkpoints", "checkpoint_every", 5),
    ("checkpoints", "checkpoint_folder", "x"),
    ("checkpoints", "checkpoint_keep", 1),
    ("checkpoints", "resume", "auto"),
    ("measure", "evaluate", 9),
    ("measure", "evaluate_every", 3),
    ("measure", "target_auroc", 0.8),
    ("measure", "target_metric", "pixel_auroc"),
    ("measure", "phase_steps", 9),
    ("measure", "exposed_steps", 9),
]
OTHER = [
    ("workload", "preset", "small"),
    ("workload", "data", "elpv"),
    ("workload", "precision", "amp_bf16"),
    ("workload", "seed", 1),
    ("workload", "images", "else/where"),  # it decides what mvtec, visa and aebad are
    ("workload", "weights", "x"),
    ("workload", "variant", "V2"),
    ("workload", "shots", 4),
    ("workload", "rotations", False),
    ("workload", "instructions", "x"),
    ("training", "global_batch", 16),
    ("training", "optimizer", "sgd"),
    ("training", "lr", 2e-3),
    ("training", "weight_decay", 0.0),
    ("training", "clip_norm", 0.5),
    ("training", "steps", 11),
    ("training", "epochs", 2.0),
    ("training", "schedule", "warmup_decay"),
    ("measure", "proof_steps", 1),
    ("output", "load", "x"),
]


@pytest.mark.parametrize(("group", "field", "value"), SAME + OTHER)
def test_runs_that_compute_the_same_are_one_experiment(group, field, value):
    values = config().to_dict()
    values["measure"] |= {"evaluate": 4, "evaluate_every": 2 * (group != "checkpoints")}  # which others of these need
    values[group][field] = value
    same = RunConfig.from_dict(values).experiment_id() == config().experiment_id()
    assert same == ((group, field, value) in SAME)


def test_every_field_was_asked_about():
    groups = {group.name: getattr(FULL, group.name) for group in dataclasses.fields(RunConfig)}
    fields = {(name, each.name) for name, group in groups.items() for each in dataclasses.fields(group)}
    asked = {(group, field) for group, field, _ in SAME + OTHER}
    fields -= {("tuning", each.name) for each in dataclasses.fields(Tuning)}  # no engine has all: test_tuning.py
    assert fields - asked == {("engine", "zero_stage"), ("engine", "offload_optimizer")}  # of deepspeed alone
    assert FULL.experiment_id() == dataclasses.replace(FULL, engine=Engine(backend="single")).experiment_id()


@pytest.mark.parametrize(
    ("flags", "ranks", "accumulation"),
    [
        ([], 2, 2),
        ([], 8, 1),  # a sample a rank
        (["--global-batch", "16"], 8, 2),
        (["--accumulation", "2"], 8, 2),  # asked for: an error, told elsewhere
        (["--accumulation=2"], 8, 2),
        ([], 3, 2),
        (["--global-batch", "7"], 1, 2),
    ],
)
def test_a_batch_that_leaves_a_rank_one_sample_is_one_micro_batch(flags, ranks, accumulation):
    words = ["--backend", "ddp", *flags]
    assert cut(parse(words), words, ranks).training.accumulation == accumulation
