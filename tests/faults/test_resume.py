"""A rank is killed at a random moment of a training: it goes on by itself, and ends as if nothing had been.

Without RINGZERO_RESUMES: the ring, started again by us, and FSDP2, started again by torchrun. With it all engines, so many kills
each, and on one rank after that.
"""

import dataclasses
import json
import os
import random
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest

from bench import elastic, launchers
from bench.config import Checkpoints, Engine, Measure, Output, RunConfig, Training
from bench.matrix import engine
from bench.restarts import Restarts
from tests.parity.test_parity import ADAMW_LOSS, LOSS

RESUMES = int(os.environ.get("RINGZERO_RESUMES", "0"))
ENGINES = ("ring", "ddp", "fsdp", "horovod", "zero-0", "zero-1", "zero-2", "zero-3") if RESUMES else ("ring", "fsdp")
STEPS, EVERY, RANKS = 7, 3, 2
Record = dict[str, Any]


def training(folder: Path, label: str, optimizer: str, every: int = EVERY, **kept: Any) -> RunConfig:
    """Few steps of the smallest model, under a falling learning rate."""
    return RunConfig(
        engine=Engine(**engine(label)),
        training=Training(
            steps=STEPS,
            global_batch=4,
            accumulation=1,
            optimizer=optimizer,  # type: ignore[arg-type]
            lr={"adamw": 1e-3, "sgd": 5e-3}[optimizer],
            schedule="warmup_decay",
        ),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0),
        output=Output(results=folder / "results"),
        checkpoints=Checkpoints(checkpoint_every=every, checkpoint_folder=folder / "kept", **kept),
    )


def read(path: Path) -> Record:
    record: Record = json.loads(path.read_text())
    return record


def difference(mine: Record, its: Record) -> float:
    """Largest relative difference of a loss."""
    pairs = zip(mine["losses"], its["losses"], strict=True)
    return max(abs(a["total"] / b["total"] - 1) for a, b in pairs)


@pytest.fixture(scope="module")
def start() -> Any:
    """Ranks under their real launchers, of which the last is killed where DIE says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launchers, "under", partial(launchers.under, module="tests.dying_rank"))
        patch.setenv("OMP_NUM_THREADS", "1")

        def run(asked: RunConfig, ranks: int, die: str = "-1:0") -> Record:
            """`die`: step and seconds into it; once, then the run is started again."""
            folder = asked.output.results.parent
            folder.mkdir(parents=True, exist_ok=True)
            patch.setenv("DIE", die)
            patch.setenv("DIED", str(folder / "died"))
            again = Restarts(elastic=die != "-1:0")
            record = read(elastic.run(asked, ranks, again, limit_s=300, echo=lambda text: None))
            assert record["status"] == "done", record["failure"]
            return record

        yield run


@pytest.fixture(scope="module")
def straight(start: Callable[..., Record], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """straight(label, optimizer): the record of a run in which nothing happens."""

    @lru_cache(None)
    def run(label: str, optimizer: str) -> Record:
        return start(training(tmp_path_factory.mktemp("straight"), label, optimizer, every=0), RANKS)

    return run


def check(record: Record, folder: Path) -> None:
    """One start was lost, at most EVERY of its steps were taken again, and the seconds are those of the last start alone."""
    (killed,) = [each for each in map(read, (folder / "results").glob("*.json")) if each["status"] == "failed"]
    assert killed["failure"]["cause"] == "peer lost"
    begun = record["resumed"]["step"] if record["resumed"] else 0
    assert 0 <= max(len(rank["step_s"]) for rank in killed["ranks"]) - begun <= EVERY
    assert all(len(rank["step_s"]) == STEPS - begun for rank in record["ranks"])
    assert len(record["losses"]) == len(record["grad_norms"]) == STEPS


@pytest.mark.timeout(120 * max(5, RESUMES))
@pytest.mark.parametrize("label", ENGINES)
def test_killed_and_gone_on(tmp_path: Path, start: Any, straight: Any, label: str) -> None:
    seed = int(os.environ.get("RINGZERO_SEED", "0")) or time.time_ns() % 10**6
    print(f"RINGZERO_SEED={seed}")
    draw = random.Random(seed)
    for kill in range(max(1, RESUMES)):
        optimizer, folder = ("sgd" if kill % 2 else "adamw"), tmp_path / str(kill)
        undisturbed = straight(label if RESUMES else ENGINES[0], optimizer)
        # within the step, on a quick machine too: after the last one there is nothing left to lose
        shortest = min(second for rank in undisturbed["ranks"] for second in rank["step_s"])
        at, seconds = draw.randrange(1 if RESUMES else EVERY, STEPS), draw.uniform(0, 0.9) * shortest
        asked = training(folder, label, optimizer)
        record = start(asked, RANKS, f"{at}:{seconds:.3f}")
        print(label, optimizer, f"killed at step {at} + {seconds:.3f} s, gone on from", record["resumed"])
        check(record, folder)
        if label == ENGINES[0] or RESUMES:
            for field in ("losses", "grad_norms", "parameters", "experiment"):
                assert record[field] == undisturbed[field], field
        else:  # the same training under another engine: a start less
            assert difference(record, undisturbed) <= ADAMW_LOSS
        if RESUMES and optimizer == "sgd":
            less = dataclasses.replace(asked, checkpoints=dataclasses.replace(asked.checkpoints, resume="auto"))
            record = start(less, 1)
            assert (record["resumed"]["step"], record["resumed"]["ranks"]) == (6, RANKS)
            assert difference(record, undisturbed) <= LOSS
