"""AUROC while training goes on: what the clock leaves out, when a target counts as reached, and that training is the same."""

import json

import pytest

from bench import launch
from bench.config import ConfigError, Engine, Measure, Output, RunConfig, Training
from bench.curve import time_to_target, timed
from bench.stats import slowest

POINTS = [{"step": step, "pixel_auroc": value, "image_auroc": None, "image_auroc_reason": "no defective image"}
          for step, value in ((0, 0.5), (2, 0.8), (4, 0.7), (5, 0.9))]  # fmt: skip
RANKS = [{"step_s": [1.0, 2.0, 1.0, 1.0, 1.0]}, {"step_s": [2.0, 1.0, 1.0, 1.0, 4.0]}]


def test_seconds_are_those_of_the_slowest_rank_in_each_step():
    assert [point["seconds"] for point in timed(POINTS, RANKS)] == [0, 4, 6, 10]


@pytest.mark.parametrize(("target", "seconds", "steps"), [(0.5, 0, 0), (0.8, 4, 2), (0.81, 10, 5)])
def test_the_first_point_at_the_target_counts(target, seconds, steps):
    found = time_to_target(timed(POINTS, RANKS), "pixel_auroc", target)
    assert found == {"time_to_target_s": seconds, "steps_to_target": steps}


@pytest.mark.parametrize(
    ("metric", "target", "why"),
    [
        ("pixel_auroc", 0.95, "was not reached: the best was 0.9000"),
        ("pixel_auroc", None, "no target was given"),
        ("image_auroc", 0.9, "could not be measured: no defective image"),
    ],
)
def test_a_target_without_a_time_has_a_reason(metric, target, why):
    found = time_to_target(timed(POINTS, RANKS), metric, target)
    assert found["time_to_target_s"] is None
    assert why in found["time_to_target_s_reason"]


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        ({"evaluate_every": 2}, "add --evaluate 60"),
        ({"evaluate_every": -1}, "can't be negative"),
        ({"evaluate": 4, "target_auroc": 0.9}, "add --evaluate-every"),
        ({"evaluate": 4, "evaluate_every": 2, "target_auroc": 90.0}, "fraction of 1"),
    ],
)
def test_flags_that_make_no_curve_are_refused(measure, says):
    with pytest.raises(ConfigError, match=says):
        RunConfig(engine=Engine(backend="single"), measure=Measure(**measure))


def test_training_is_the_same_with_looks_in_between(tmp_path):
    records = []
    for every, target in ((0, None), (2, 0.2)):
        config = RunConfig(
            engine=Engine(backend="ddp"),
            training=Training(steps=3),
            measure=Measure(
                warmup=0, proof_steps=1, phase_steps=0, evaluate=4, evaluate_every=every, target_auroc=target
            ),
            output=Output(results=tmp_path),
        )
        records.append(json.loads(launch.run(config, 2).read_text()))
    plain, looked = records
    assert plain["curve"] is None
    for field in ("losses", "grad_norms", "parameters", "proof"):
        assert looked[field] == plain[field], field
    assert [point["step"] for point in looked["curve"]["points"]] == [0, 2, 3]
    assert looked["curve"]["points"][-1]["pixel_auroc"] == looked["evaluation"]["text"]["macro"]["pixel_auroc"]
    assert looked["curve"]["points"][-1]["seconds"] == pytest.approx(float(slowest(looked["ranks"]).sum()))
    assert len(looked["ranks"][0]["step_s"]) == 3
    assert looked["curve"]["steps_to_target"] == 0
