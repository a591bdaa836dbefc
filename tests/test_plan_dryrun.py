"""The real model on fake tensors: against the closed form, against what real ranks held, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch.distributed as dist

from bench.config import ConfigError
from bench.plan.memory.closed_form import predict
from bench.plan.memory.dryrun import dry_run
from bench.plan.memory.network import Anomaly, anomaly
from bench.plan.memory.transformer import Transformer
from bench.plan.setup import Setup
from bench.plan.validation import measured
from model import preset

RESULTS = Path(__file__).parents[1] / "results" / "reference"


def setup(engine: str, ranks: int = 8, **settings: object) -> Setup:
    return Setup(engine=engine, ranks=ranks, **{"recipe": "fp32", "micro_batch": 2, **settings})


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def reference(request):
    """(record of a real run on two ranks, its network, its setup, the dry run of it)."""
    record = json.loads(next(RESULTS.glob(f"*{request.param}_np2*.json")).read_text())
    network, how = measured.network(record), measured.setup(record)
    return record, network, how, dry_run(network, how)


def test_what_real_ranks_held_is_held_in_the_dry_run(reference):
    """To the byte: no rank of that run was ever here."""
    record, _, how, found = reference
    held = record["ranks"][0]["memory"]
    named = ("Parameter", "Optstate") if how.engine == "ddp" else ("Sharded Param", "OptState")
    assert (found.parts[named[0]], found.parts[named[1]]) == (held["parameters"], held["optimizer"])
    assert found.parts["Buffer"] == held["buffers"]


def test_the_closed_form_is_within_one_percent_of_the_dry_run(reference):
    _, network, how, found = reference
    assert predict(network, how).peak == pytest.approx(found.total, rel=0.01)
    assert not dist.is_initialized()


def test_at_64_ranks_nobody_has_to_be_there():
    config = dataclasses.replace(preset("tiny"), vision_blocks=4, taps=(1, 2, 3, 4), llm_layers=2, text_blocks=1)
    network, how = Anomaly(config=config, text_tokens=64, answer_tokens=16), setup("fsdp", 64)
    found = dry_run(network, how)
    assert found.parts["Sharded Param"] == predict(network, how).parameters
    assert predict(network, how).peak == pytest.approx(found.total, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "zero-2"}, "knows ddp and fsdp"),
        ({"engine": "ddp", "recipe": "mixed_fp16"}, "own precisions"),
        ({"engine": "ddp", "checkpointing": "full"}, "recomputes nothing"),
    ],
)
def test_what_cannot_be_dry_run_is_told(settings, said):
    with pytest.raises(ConfigError, match=said):
        dry_run(anomaly("tiny"), setup(**settings))


def test_a_process_of_a_group_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="process group"):
        dry_run(anomaly("tiny"), setup("ddp"))


def test_a_plain_transformer_is_refused():
    from bench.plan.memory.dryrun import report

    with pytest.raises(ConfigError, match="preset"):
        report([setup("ddp")], Transformer(hidden=8, layers=1, heads=1, sequence=4, vocabulary=8))
