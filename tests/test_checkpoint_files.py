"""Checkpoints on the disk: there whole or not at all, believed only byte for byte, and never more than N steps behind."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from backends.base import EngineConfig, StepInfo
from backends.single import Single
from backends.world import World
from bench import checkpoints, restart
from bench.background import Background
from bench.checkpoints import CheckpointError, Damaged
from bench.config import Checkpoints, ConfigError, Engine, Measure, Output, RunConfig, Training, Workload
from bench.keeper import Keeper
from bench.loop import NonFinite, Step, train
from bench.measure.clock import Clock
from bench.restart import Start
from tests.parity.cases import Quiet
from tests.parity.exchange import Net, batches

ROOT = Path(__file__).resolve().parents[1]
EVERY = 2


def config(folder: Path, **changes: Any) -> RunConfig:
    asked = Checkpoints(checkpoint_every=EVERY, checkpoint_folder=folder)
    return replace(RunConfig(engine=Engine(backend="ddp"), checkpoints=asked), **changes)


def write(folder: Path, step: int, ranks: int = 2, asked: RunConfig | None = None) -> Path:
    """A checkpoint of tiny parts."""
    partial = checkpoints.unfinished(folder, step, "test")
    for rank in range(ranks):
        checkpoints.write_part(partial, rank, {"rank": rank, "values": torch.full((999,), float(step))})
    told = restart.identity(asked or config(folder))
    return checkpoints.publish(partial, folder, step=step, ranks=ranks, engine="ddp", run_id="test", experiment=told)


def test_a_checkpoint_is_there_at_once_and_reads_as_written(tmp_path):
    partial = checkpoints.unfinished(tmp_path, 4, "test")
    checkpoints.write_part(partial, 0, {"rank": 0})
    assert checkpoints.found(tmp_path) == []
    path = write(tmp_path, 6)
    assert checkpoints.found(tmp_path) == [path]
    assert checkpoints.check(path).step == 6
    parts = checkpoints.read(path, 2)
    assert [part["rank"] for part in parts] == [0, 1]
    assert parts[1]["values"].eq(6).all()
    checkpoints.clear(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [path.name]


def test_only_the_newest_are_kept(tmp_path):
    paths = [write(tmp_path, step, ranks=1) for step in (2, 4, 6, 100_000_000)]
    checkpoints.prune(tmp_path, 2)
    assert checkpoints.found(tmp_path) == [paths[3], paths[2]]
    assert len(os.listdir(tmp_path)) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "rank_1.pt is not what was written": lambda path: flip(path / "rank_1.pt"),
    "rank_0.pt is missing": lambda path: (path / "rank_0.pt").unlink(),
    "rank_1.pt has": lambda path: os.truncate(path / "rank_1.pt", 100),
    "manifest.json is missing or not whole": lambda path: (path / "manifest.json").unlink(),
    "manifest.json does not belong to it": lambda path: (path / "manifest.json").write_text(
        (path.parent / "step_00000002" / "manifest.json").read_text()
    ),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_taken(tmp_path, capsys, says):
    before, newest = write(tmp_path, 2), write(tmp_path, 4)
    DAMAGE[says](newest)
    with pytest.raises(Damaged, match=f"step_00000004: {says}"):
        checkpoints.check(newest)
    start = restart.pick(config(tmp_path), goes_on=True)
    assert (start.path, start.step) == (str(before), 2)
    assert says in start.refused[0]
    assert says in capsys.readouterr().err
    assert checkpoints.found(tmp_path) == [before]
    assert (tmp_path / "refused_step_00000004").is_dir()


def test_without_any_checkpoint_it_begins_at_step_0_and_says_so(tmp_path, capsys):
    assert restart.pick(config(tmp_path / "new"), goes_on=True) == Start()
    assert "beginning at step 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workload": Workload(seed=1)}, "--seed 0 there, 1 here"),
        ({"workload": Workload(preset="small")}, "--preset tiny there, small here"),
        ({"workload": Workload(data="elpv")}, "--data textures there, elpv here"),
        ({"training": Training(global_batch=16)}, "--global-batch 8 there, 16 here"),
        ({"training": Training(schedule="warmup_decay")}, "--schedule constant there, warmup_decay here"),
    ],
)
def test_another_training_is_refused_with_what_differs(tmp_path, changes, says):
    path = write(tmp_path, 4)
    with pytest.raises(CheckpointError, match=f"step_00000004 is of another training: {says}"):
        restart.pick(config(tmp_path, **changes), goes_on=True)
    assert checkpoints.found(tmp_path) == [path]


def test_what_does_not_change_the_losses_may_change(tmp_path):
    write(tmp_path, 4)
    other = config(tmp_path, engine=Engine(backend="ring"), training=Training(accumulation=1, steps=20))
    assert restart.pick(other, goes_on=True).step == 4


def test_the_number_of_steps_matters_to_a_schedule(tmp_path):
    falling = config(tmp_path, training=Training(schedule="warmup_decay"))
    write(tmp_path, 4, asked=falling)
    longer = config(tmp_path, training=Training(schedule="warmup_decay", steps=20))
    with pytest.raises(CheckpointError, match="--steps 10 there, 20 here"):
        restart.pick(longer, goes_on=True)


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path):
    write(tmp_path, 4)
    with pytest.raises(CheckpointError, match="add --resume auto"):
        restart.pick(config(tmp_path), goes_on=False)


def test_a_folder_belongs_to_one_training_at_a_time(tmp_path):
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / restart.LOCK)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(CheckpointError, match="is in use by"):
            restart.pick(config(tmp_path), goes_on=True)
    finally:
        holder.kill()
        holder.communicate()
    restart.pick(config(tmp_path), goes_on=True)  # gone with its process


# One process that has loaded torch, and no threads: for each line it reads a copy of it writes, until it is killed.
WRITERS = """
import os, sys
from pathlib import Path
from bench import checkpoints
from tests.test_checkpoint_files import write
folder = Path(sys.argv[1])
for line in sys.stdin:
    if not (pid := os.fork()):
        for step in range(int(line), int(line) + 999):
            write(folder, step, ranks=1)
            checkpoints.prune(folder, 2)
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


def newer(folder: Path, step: int) -> list[Path]:
    """The checkpoints that are there of `step` and later ones."""
    return [path for path in checkpoints.found(folder) if path.name >= f"step_{step:08}"]


def test_a_kill_at_any_moment_of_writing_leaves_no_half_checkpoint(tmp_path):
    draw = random.Random(seed := time.time_ns() % 10**6)
    print(f"seed {seed}")
    complete = 0
    words = [sys.executable, "-c", WRITERS, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for first in range(1000, 13_000, 1000):
            print(first, file=writers.stdin, flush=True)
            pid = int(writers.stdout.readline())
            while not newer(tmp_path, first):  # however slow the disk; the test's own limit ends it
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            assert writers.stdout.readline() == "ended\n"
            for path in checkpoints.found(tmp_path):
                checkpoints.check(path)
            complete += bool(newer(tmp_path, first))
        writers.stdin.close()
    assert complete == 12  # none lost what it had


@pytest.fixture
def backend(one_thread) -> Single:
    made = Single(World(), EngineConfig(accumulation=1, micro_batch=4))
    made.setup(Net(), lambda params: AdamW(params, lr=0.01))
    return made


def take(backend: Single, keeper: Keeper, steps: int, after: Any = lambda step: None) -> None:
    hooks = {"before_update": keeper.before_update, "after_update": keeper.after_update, "after_step": after}
    train(backend, batches, steps=steps, accumulation=1, clock=Clock(backend.device), watch=Quiet(), **hooks)


def test_at_most_n_steps_lie_behind_the_newest_however_slow_the_disk(tmp_path, backend, monkeypatch):
    """Also while it is written: the update that would be one too many waits. And it is written beside the step, not before it."""
    publish = checkpoints.publish

    def slow(*given: Any, **named: Any) -> Path:
        time.sleep(0.1)
        return publish(*given, **named)

    monkeypatch.setattr(checkpoints, "publish", slow)
    keeper = Keeper(backend, config(tmp_path), Quiet(), Start(), "slow")
    keeper.go_on(9)
    behind, running = [], []

    def look(step: Any) -> None:
        there = checkpoints.found(tmp_path)
        newest = checkpoints.check(there[0]).step if there else 0
        behind.append(backend.steps - newest)
        running.append(keeper.writer.busy)

    take(backend, keeper, 9, look)
    told = keeper.close()
    assert max(behind) <= EVERY
    assert running == [False, True] * 4 + [False]  # not waited for in the step that took the snapshot
    assert told is not None
    assert told["steps"] == [2, 4, 6, 8]
    assert min(told["waited_s"]) > 0.01


def test_what_goes_wrong_in_writing_is_raised_at_the_next_update(tmp_path, backend, monkeypatch):
    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_part", full)
    keeper = Keeper(backend, config(tmp_path), Quiet(), Start(), "full")
    keeper.go_on(9)
    with pytest.raises(OSError, match="No space left"):
        take(backend, keeper, 9)
    assert backend.steps == EVERY
    assert checkpoints.found(tmp_path) == []


def test_nobody_goes_on_from_a_loss_that_is_no_number(tmp_path, backend):
    keeper = Keeper(backend, config(tmp_path), Quiet(), Start(), "nan")
    keeper.go_on(9)
    backend.steps = 1
    keeper.after_update(Step(0, [{"total": 1.0}], StepInfo(False, None)))
    backend.steps = EVERY
    with pytest.raises(NonFinite):
        keeper.after_update(Step(1, [{"total": float("nan")}], StepInfo(False, None)))
    assert checkpoints.found(tmp_path) == []
    assert not keeper.writer.busy


def test_a_training_that_goes_on_has_all_its_losses_and_nothing_left_is_an_error(tmp_path, backend):
    keeper = Keeper(backend, config(tmp_path), Quiet(), Start(), "first")
    keeper.go_on(6)
    losses: list[float] = []
    take(backend, keeper, 6, lambda step: losses.append(step.losses["total"]))
    keeper.close()
    state = backend.full_state()
    start = restart.pick(config(tmp_path), goes_on=True)
    assert start.step == 4
    again = Keeper(backend, config(tmp_path), Quiet(), start, "second")
    again.go_on(6)
    assert backend.steps == 4
    assert [each["total"] for each in again.losses] == losses[:4]
    take(backend, again, 2, lambda step: losses.append(step.losses["total"]))
    assert losses[6:] == losses[4:6]
    assert all(torch.equal(value, state[name]) for name, value in backend.full_state().items())
    with pytest.raises(CheckpointError, match="has taken 4 of 4 steps"):
        Keeper(backend, config(tmp_path), Quiet(), start, "third").go_on(4)


def test_one_job_at_a_time():
    background = Background("test")
    background.begin(lambda: None)
    with pytest.raises(RuntimeError, match="one job at a time"):
        background.begin(lambda: None)
    background.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output": Output(load=Path("x"))}, "leave one out"),
        ({"measure": Measure(evaluate=4, evaluate_every=2)}, "leave out --checkpoint-every"),
        ({"checkpoints": Checkpoints(checkpoint_keep=0)}, "at least 1"),
        ({"checkpoints": Checkpoints(checkpoint_every=-1)}, "can't be negative"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, **changes)
