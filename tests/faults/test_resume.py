"""A rank is killed at a random moment of a training: it goes on by itself, and ends as if nothing had been.

RINGZERO_RESUMES: kills of each engine; with it all engines take part, without it two of different kinds.
"""

import dataclasses
import json
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import elastic, launch, launchers
from bench.config import Checkpoints, Engine, Measure, Output, RunConfig, Training
from bench.matrix import engine
from bench.restarts import Restarts
from tests.parity.test_parity import LOSS

RESUMES = int(os.environ.get("RINGZERO_RESUMES", "0"))
ENGINES = ("ring", "ddp", "fsdp", "horovod", "zero-0", "zero-1", "zero-2", "zero-3") if RESUMES else ("ring", "fsdp")
STEPS, EVERY, RANKS = 9, 3, 2
NOTHING = Measure(warmup=0, proof_steps=0, phase_steps=0)


def training(folder: Path, label: str, every: int = EVERY, **changes: Any) -> RunConfig:
    """Few steps of the smallest model, under a falling learning rate."""
    return RunConfig(
        engine=Engine(**engine(label)),
        training=Training(
            steps=STEPS, global_batch=4, accumulation=1, lr=0.005, optimizer="sgd", schedule="warmup_decay"
        )
        if changes.pop("sgd", False)
        else Training(steps=STEPS, global_batch=4, accumulation=1, schedule="warmup_decay"),
        measure=NOTHING,
        output=Output(results=folder / "results"),
        checkpoints=Checkpoints(checkpoint_every=every, checkpoint_folder=folder / "kept", **changes),
    )


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks under their real launchers, one of which is killed."""
    monkeypatch.setattr(launchers, "under", partial(launchers.under, module="tests.dying_rank"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.timeout(120 * max(5, RESUMES))
@pytest.mark.parametrize("label", ENGINES)
def test_killed_and_gone_on(tmp_path: Path, label: str, dying: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("RINGZERO_SEED", "0")) or time.time_ns() % 10**6
    print(f"RINGZERO_SEED={seed}")
    draw = random.Random(seed)
    sgd = label == "fsdp"
    monkeypatch.setenv("DIE", "-1:0")
    monkeypatch.setenv("DIED", str(tmp_path / "never"))
    straight = read(launch.run(training(tmp_path / "straight", label, every=0, sgd=sgd), RANKS))
    assert straight["status"] == "done", straight["failure"]
    for kill in range(max(1, RESUMES)):
        folder = tmp_path / str(kill)
        folder.mkdir()
        at, seconds = draw.randrange(1, STEPS), draw.uniform(0, 0.2)
        monkeypatch.setenv("DIE", f"{at}:{seconds:.3f}")
        monkeypatch.setenv("DIED", str(folder / "died"))
        asked = training(folder, label, sgd=sgd)
        said: list[str] = []
        record = read(elastic.run(asked, RANKS, Restarts(elastic=True), limit_s=300, echo=said.append))
        print(label, at, f"{seconds:.3f}", record["resumed"])
        assert record["status"] == "done", record["failure"]
        killed = [each for each in map(read, (folder / "results").glob("*.json")) if each["status"] == "failed"]
        assert len(killed) == 1
        assert killed[0]["failure"]["cause"] == "peer lost"
        begun = (record["resumed"] or {"step": 0})["step"]
        again = max(len(rank["step_s"]) for rank in killed[0]["ranks"]) - begun
        assert 0 <= again <= EVERY  # steps that were taken twice
        assert all(len(rank["step_s"]) == STEPS - begun for rank in record["ranks"])
        for field in ("losses", "grad_norms", "parameters", "experiment"):
            assert record[field] == straight[field], field
    if sgd:
        monkeypatch.setenv("DIE", "-1:0")
        fewer = dataclasses.replace(asked, checkpoints=dataclasses.replace(asked.checkpoints, resume="auto"))
        record = read(launch.run(fewer, 1))
        assert record["status"] == "done", record["failure"]
        assert (record["resumed"]["step"], record["resumed"]["ranks"]) == (6, RANKS)
        pairs = zip(record["losses"], straight["losses"], strict=True)
        assert max(abs(mine["total"] / its["total"] - 1) for mine, its in pairs) <= LOSS
        assert record["losses"][-1] != record["losses"][0]
