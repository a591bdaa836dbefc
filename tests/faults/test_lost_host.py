"""A host is lost in the middle of a training, and it goes on without: it ends as if nothing had been.

Without RINGZERO_RESUMES: the ring, with a host that stands in. With it every engine, and with fewer ranks too.
"""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import elastic, launch
from bench.config import Checkpoints, Engine, Measure, Output, RunConfig, Training
from bench.lab import breaking, faults, laboratory, start
from bench.lab.lab import Lab
from bench.lab.link import Link
from bench.matrix import engine
from bench.restarts import Restarts
from tests.faults.test_resume import ENGINES, RESUMES, difference, read
from tests.labs import needs_lab
from tests.parity.test_parity import LOSS

pytestmark = needs_lab
STEPS, EVERY, AT = 30, 4, 5  # far more than are taken until the cable is out


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with laboratory.laboratory(3, Link.read("none")) as made:
        yield made


def training(folder: Path, label: str, every: int) -> RunConfig:
    """SGD, of which a mistake in the sums of ranks can't be hidden."""
    return RunConfig(
        engine=Engine(**engine(label)),
        training=Training(steps=STEPS, global_batch=4, accumulation=1, optimizer="sgd", lr=5e-3),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0, limit_s=5.0),
        output=Output(results=folder / "results"),
        checkpoints=Checkpoints(checkpoint_every=every, checkpoint_folder=folder / "kept"),
    )


CASES = [(label, spare) for label in ENGINES for spare in (True, False)] if RESUMES else [("ring", True)]


@pytest.mark.parametrize(("label", "spare"), CASES)
def test_a_training_outlives_a_host(label: str, spare: bool, lab: Lab, tmp_path: Path) -> None:
    hosts = start.named(lab, 3 if spare else 2)
    undisturbed = read(launch.run(training(tmp_path / "straight", label, 0), 2, build=start.builder(lab, hosts)))
    asked = training(tmp_path, label, EVERY)
    scene = faults.Scene(lab, lab.hosts[1], asked.output.results, port=0)
    restarts, ended, said = Restarts(elastic=True, min_ranks=None if spare else 1), [], []

    def run() -> None:
        build, place = start.builder(lab, hosts, restarts), partial(start.place, lab, hosts)
        ended.append(elastic.run(asked, 2, restarts, limit_s=200, echo=said.append, build=build, place=place))

    running = threading.Thread(target=run, daemon=True)
    running.start()
    try:
        breaking.wait(scene, AT, running)
        faults.cut(scene)
        running.join(200)
    finally:
        faults.plug(scene)
    record: dict[str, Any] = read(ended[0])
    assert record["status"] == "done", "".join(said)
    assert record["world"]["hosts"] == (["host1", "host3"] if spare else ["host1"])
    (first,) = [each for each in map(read, asked.output.results.glob("*.json")) if each["status"] == "failed"]
    assert first["world"]["hosts"] == ["host1", "host2"]
    assert 0 <= max(len(rank["step_s"]) for rank in first["ranks"]) - record["resumed"]["step"] <= EVERY
    if label == "horovod":  # moved by its own driver: nothing was started again
        assert not any("start 2 of at most" in text for text in said)
    if spare:  # as many ranks: bit for bit
        for field in ("losses", "grad_norms", "parameters", "experiment"):
            assert record[field] == undisturbed[field], field
    else:
        assert difference(record, undisturbed) <= LOSS
