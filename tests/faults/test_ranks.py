"""A rank that dies, hangs, freezes, raises or meets a NaN: every rank ends within seconds, the record names the first and why."""

from pathlib import Path

import pytest

from tests.faults.conftest import SECONDS, Outcome, fail

ENGINES = ["ddp", "fsdp", "deepspeed", "horovod", "ring"]


def check(outcome: Outcome, cause: str, words: str) -> None:
    """One message, no traceback of ours, a record of the failure."""
    assert outcome.code != 0
    assert outcome.record["status"] == "failed"
    failure = outcome.record["failure"]
    assert (failure["rank"], failure["step"], failure["cause"]) == (1, 2, cause)
    assert words in failure["message"]
    assert outcome.output.count("bench.run: ") == 1, outcome.output[-3000:]
    assert "failed on rank 1 of 2, step 2" in outcome.output
    assert 'bench/run.py", line' not in outcome.output  # no bare traceback of this project
    assert outcome.after < SECONDS
    assert any(rank["step_s"] for rank in outcome.record["ranks"] if rank["rank"] == 0)  # what was measured is kept


@pytest.mark.parametrize("backend", ENGINES)
def test_killed_rank(backend: str, folder: Path) -> None:
    outcome = fail(backend, folder, "kill")
    check(outcome, "peer lost", "process ")
    said = outcome.record["failure"]["message"]  # how it ended can be read until its launcher has collected it
    assert said.endswith("is gone without a word") or "not by the kernel for memory" in said


@pytest.mark.parametrize("backend", ["fsdp", "deepspeed", "horovod", "ring"])
def test_non_finite_loss_on_one_rank(backend: str, folder: Path) -> None:
    check(fail(backend, folder, "nan"), "non-finite", "nan")


@pytest.mark.parametrize("backend", ["ddp", "horovod", "ring"])
def test_hanging_rank(backend: str, folder: Path) -> None:
    check(fail(backend, folder, "hang", "--limit-s", "4"), "time limit", "no progress for 4 s")


@pytest.mark.parametrize("backend", ["ring"])
def test_frozen_rank(backend: str, folder: Path) -> None:
    outcome = fail(backend, folder, "freeze", "--limit-s", "4")
    assert outcome.code != 0
    assert outcome.record["failure"]["cause"] == "time limit"
    assert (outcome.record["failure"]["rank"], outcome.record["failure"]["step"]) == (1, 2)


@pytest.mark.parametrize("backend", ["ddp"])
def test_error_of_one_rank(backend: str, folder: Path) -> None:
    outcome = fail(backend, folder, "raise")
    check(outcome, "error", "planted: the disk of this rank is gone")
    assert "planted" in outcome.record["failure"]["traceback"]


def test_non_finite_loss_of_a_single_process(folder: Path) -> None:
    outcome = fail("single", folder, "nan")
    assert outcome.code == 1
    assert outcome.record["failure"]["cause"] == "non-finite"
    assert len(outcome.record["ranks"][0]["step_s"]) == 3
