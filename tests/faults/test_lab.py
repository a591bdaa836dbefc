"""Faults on one of two hosts: found within the limit, every process of every host gone, a record that names cause and host.

A handful of kinds; RINGZERO_FAULTS=100 takes so many, at random steps, over engines and kinds.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from bench import checkpoints
from bench.config import Checkpoints, Engine, Measure, Output, RunConfig, Training
from bench.lab import breaking, laboratory, left, memory
from bench.lab.faults import KINDS
from bench.lab.lab import ROOT
from bench.lab.link import Link
from bench.lab.rights import LabError, tool
from bench.launchers import launcher
from bench.matrix import engine
from tests.labs import needs_lab
from tests.started import need

pytestmark = needs_lab
LIMIT_S = 4.0
GOES_ON_S = 30.0  # where the run is to go on: over a slow link FSDP2 takes seconds for a step
ENGINES = ("ddp", "fsdp", "zero-0", "zero-1", "zero-2", "zero-3", "horovod", "ring")
FAULTS = int(os.environ.get("RINGZERO_FAULTS", "0"))
STEPS = 8


def config(label: str, results: Path, steps: int = STEPS, limit_s: float = LIMIT_S) -> RunConfig:
    """A short run that writes a checkpoint after every other step, beside its results."""
    return RunConfig(
        engine=Engine(**engine(label)),
        training=Training(steps=steps),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0, limit_s=limit_s),
        output=Output(results=results),
        checkpoints=Checkpoints(checkpoint_every=2, checkpoint_folder=results.with_suffix(".kept")),
    )


@pytest.mark.parametrize(
    ("kind", "label"), [("kill", "ring"), ("cut", "ddp"), ("memory", "ring"), ("ssh", "horovod"), ("port", "ddp")]
)
def test_a_fault_ends_as_it_must(kind: str, label: str, tmp_path: Path) -> None:
    need(label)
    if kind == "memory" and (why := memory.unavailable()):
        pytest.skip(why)
    found = breaking.fault(kind, config(label, tmp_path / "results", steps=400), at_step=1)
    assert found.wrong == [], found
    assert found.record.with_suffix(".log").exists()


def test_a_fault_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"there are: cut, flap, slow, kill"):
        breaking.fault("fire", config("ddp", tmp_path))
    with pytest.raises(LabError, match="it is for engines that torchrun or deepspeed starts"):
        breaking.fault("port", config("ring", tmp_path))


def test_what_is_left_is_found(tmp_path: Path) -> None:
    with laboratory.laboratory(2, Link.read("1gbit")) as lab:
        standing = left.of_lab(lab)
        tool("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
        try:
            mounted = left.of_lab(lab, tmp_path)
        finally:
            tool("umount", str(tmp_path))
    for what in [*(f"process {each.pid} of" for each in lab.hosts), f"process {lab.switch} of", f"file {lab.state}"]:
        assert any(line.startswith(what) for line in standing), what
    assert set(mounted) - set(standing) == {f"mount {tmp_path}"}
    assert left.of_lab(lab, tmp_path) == []


def test_half_a_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (2, 4):
        partial = checkpoints.unfinished(tmp_path, step, "try")
        checkpoints.write_part(partial, 0, {"step": step})
        if step == 2:
            done = checkpoints.publish(partial, tmp_path, step=2, ranks=1, engine="ring", run_id="r", experiment={})
    assert left.checkpoints(tmp_path) == (1, [])  # one that was being written is nobody's
    (done / "rank_0.pt").write_bytes((done / "rank_0.pt").read_bytes()[:-1])
    whole, (wrong,) = left.checkpoints(tmp_path)
    assert whole == 0
    assert wrong.startswith("no whole checkpoint: ")
    assert "rank_0.pt" in wrong


@pytest.mark.skipif(not FAULTS, reason="RINGZERO_FAULTS=100 breaks a hundred runs")
@pytest.mark.timeout(90 * max(1, FAULTS))
def test_random_faults_leave_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("RINGZERO_SEED", "0")) or time.time_ns() % 10**6
    print(f"RINGZERO_SEED={seed}")
    draw, ends, wrong, whole = random.Random(seed), Counter[str](), [], 0
    for number in range(FAULTS):
        label = draw.choice(ENGINES)
        kinds = [name for name, kind in KINDS.items() if launcher(config(label, tmp_path)) in kind.launchers]
        kind, step = draw.choice(kinds), draw.randrange(STEPS)
        goes_on = "done" in KINDS[kind].ends
        steps, limit_s = (STEPS + 6, GOES_ON_S) if goes_on else (2000, LIMIT_S)
        try:
            asked = config(label, tmp_path / str(number), steps, limit_s)
            found = breaking.fault(kind, asked, at_step=step)
        except LabError as error:
            print(number, kind, label, f"step {step}", error, flush=True)
            wrong += [(number, kind, label, step, [str(error)])]
            continue
        told = f"{found.seconds:.1f} s, {found.checkpoints} checkpoints: {found.said[:150]}"
        print(number, kind, label, f"step {step}", told, found.wrong, flush=True)
        whole += found.checkpoints
        ends[found.said.partition(":")[0]] += 1
        wrong += [(number, kind, label, step, found.wrong)] if found.wrong else []
    print(dict(ends), whole, "whole checkpoints")
    assert wrong == []
    assert whole > 0
    assert len(list(tmp_path.glob("*/*.json"))) == FAULTS
    assert list(ROOT.glob("*")) == []
