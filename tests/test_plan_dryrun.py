"""The real model on fake tensors: against the closed form, against what real ranks held, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from bench.config import ConfigError
from bench.plan import measured
from bench.plan.dryrun import dry_run
from bench.plan.memory import predict
from bench.plan.network import anomaly
from bench.plan.setup import Setup
from bench.plan.transformer import Transformer

RESULTS = Path(__file__).parents[1] / "results" / "reference"


def setup(engine: str, ranks: int = 8, **settings: object) -> Setup:
    return Setup(engine=engine, ranks=ranks, **{"recipe": "fp32", "micro_batch": 2, **settings})


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_the_closed_form_is_near_the_dry_run(engine):
    network = anomaly("tiny", text_tokens=64, answer_tokens=16)
    found, closed = dry_run(network, setup(engine)), predict(network, setup(engine))
    assert closed.peak == pytest.approx(found.total, rel=0.15)
    assert not dist.is_initialized()


def test_fsdp_holds_a_share_and_ddp_all():
    network = anomaly("tiny", text_tokens=64, answer_tokens=16)
    whole = dry_run(network, setup("ddp", 8)).parts["Parameter"]
    assert whole == predict(network, setup("ddp", 8)).parameters
    for ranks in (2, 64):
        share = dry_run(network, setup("fsdp", ranks)).parts["Sharded Param"]
        assert share == predict(network, setup("fsdp", ranks)).parameters


def test_what_real_ranks_held_is_held_in_the_dry_run():
    """States of the reference runs, on two ranks: the same bytes."""
    for engine, name in (("ddp", "Parameter"), ("fsdp", "Sharded Param")):
        record = json.loads(next(RESULTS.glob(f"*{engine}_np2*.json")).read_text())
        found = dry_run(measured.network(record), measured.setup(record))
        held = record["ranks"][0]["memory"]
        assert found.parts[name] == held["parameters"]
        assert found.parts.get("Optstate", found.parts.get("OptState")) >= held["optimizer"]


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
    from bench.plan.dryrun import report

    with pytest.raises(ConfigError, match="preset"):
        report([setup("ddp")], Transformer(hidden=8, layers=1, heads=1, sequence=4, vocabulary=8))
