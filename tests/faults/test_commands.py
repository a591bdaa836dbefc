"""Commands that can't be run: one clear message, from one rank, and a non-zero exit within seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import BIN, LAUNCH, QUICK, ROOT, command, environment, refused
from tests.started import with_horovod

SCRIPT = ROOT / "bench" / "run.py"
TORCHRUN, MPIRUN, PYTHON = LAUNCH["ddp"], LAUNCH["ring"], [sys.executable]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*PYTHON, "-m", "bench.run", "--backend", "ddp"], "torchrun --nproc-per-node 2 -m bench.run --backend ddp"),
        (
            [*PYTHON, "-m", "bench.run", "--backend", "horovod"],
            "horovodrun -np 2 python -m bench.run --backend horovod",
        ),
        ([*PYTHON, "-m", "bench.run", "--backend", "ring"], "mpirun -np 2 python -m bench.run --backend ring"),
        ([*MPIRUN, SCRIPT, "--backend", "fsdp"], "torchrun --nproc-per-node 2 -m bench.run --backend fsdp"),
        ([*MPIRUN, SCRIPT, "--backend", "single"], "python -m bench.run --backend single"),
        ([*PYTHON, "-m", "bench.run", "--backend", "ddpp"], "invalid choice 'ddpp'"),
        ([*PYTHON, "-m", "bench.run", "--backend", "single", "--stepz", "3"], "--stepz"),
        ([*PYTHON, "-m", "bench.run", "--backend", "deepspeed", "--zero-stage", "4"], "invalid choice '4'"),
        (
            [*PYTHON, "-m", "bench.run", "--backend", "single", "--preset", "huge"],
            "unknown preset 'huge'; there are: tiny",
        ),
        (
            [*PYTHON, "-m", "bench.run", "--backend", "single", "--data", "cats"],
            "unknown data set 'cats'; there are: textures",
        ),
        ([*PYTHON, "-m", "bench.run", "--backend", "single", "--global-batch", "7"], "try --global-batch 6 or 8"),
        ([*PYTHON, "-m", "bench.run", "--backend", "single", "--device", "cuda"], "--device cuda needs a GPU"),
        ([*MPIRUN, SCRIPT, "--backend", "ring", "--global-batch", "6"], "try --global-batch 4 or 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_with_what_to_type(words: list[object], says: str) -> None:
    code, output = refused(words)
    assert code != 0
    assert says in output.replace("\u2502", " ")
    assert "Traceback" not in output
    assert output.count("bench.run:") <= 1


def test_engine_that_is_not_installed(folder: Path) -> None:
    """A finder in front of the others hides Horovod, as on a machine where it was not built."""
    (folder / "sitecustomize.py").write_text(
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'horovod': raise ModuleNotFoundError(name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'horovod' else real(name, package)\n"
    )
    env = environment()
    env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"
    code, output = refused([*MPIRUN, SCRIPT, "--backend", "horovod"], env=env)
    assert code != 0
    assert output.count("Horovod is not installed; type: make horovod") == 1
    assert "Traceback" not in output


def test_results_folder_that_takes_nothing() -> None:
    """/proc refuses new files to everyone, root too, as a read-only mount does."""
    code, output = refused(command("ring", SCRIPT, "--results", "/proc/ringzero"))
    assert code != 0
    assert output.count("bench.run: cannot write records to /proc/ringzero") == 1
    assert "--results" in output
    assert "Traceback" not in output


@pytest.fixture
def small_disk(folder: Path) -> Path:
    """A file system of 3 MiB. Needs the right to mount, which a user without root has not."""
    disk = folder / "results"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this user may not mount a small file system: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_results_folder_without_room(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * int(2.5 * 2**20))
    code, output = refused(command("single", SCRIPT, "--results", small_disk))
    assert code == 2
    assert "cannot write records to" in output
    assert "No space left on device" in output


def test_disk_that_fills_up_during_the_run_loses_nothing(small_disk: Path, folder: Path) -> None:
    """The record was promised room at the beginning."""
    from tests.faults.conftest import FAULTY

    env = environment(FAULT="fill", FAULT_MARK=str(folder / "here"))
    code, output = refused(command("single", FAULTY, "--results", small_disk, "--steps", "4"), env=env)
    assert "No space left on device" in output
    records = list(small_disk.glob("*.json"))
    assert len(records) == 1
    assert '"status": "failed"' in records[0].read_text()
    assert code == 1


def test_broken_image_names_the_file(folder: Path) -> None:
    """The record says so too; a whole skimage with one file cut short stands in for a broken download."""
    import skimage

    source = Path(skimage.__file__).parent / "data"
    copy = folder / "images"
    copy.mkdir()
    for name in ("brick.png", "grass.png", "gravel.png"):
        (copy / name).write_bytes((source / name).read_bytes()[: 2000 if name == "grass.png" else None])
    code, output = refused(command("single", SCRIPT, "--results", folder / "results", "--images", copy))
    assert code == 1
    assert output.count("bench.run: ") == 1
    assert "grass.png" in output
    record = next((folder / "results").glob("*.json")).read_text()
    assert '"status": "failed"' in record
    assert "grass.png" in record


@with_horovod
def test_ranks_on_fewer_cores_are_marked(folder: Path) -> None:
    one = {min(os.sched_getaffinity(0))}
    words = [BIN / "horovodrun", "-np", "2", sys.executable, "-m", "bench.run", "--backend", "horovod", *QUICK]
    ended = subprocess.run(
        [str(word) for word in (*words, "--results", folder)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        preexec_fn=lambda: os.sched_setaffinity(0, one),
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    record = json.loads(next(folder.glob("*.json")).read_text())
    assert record["world"]["size"] == len(record["ranks"]) == 2
    assert record["world"]["oversubscribed"] is True
    assert [rank["threads"] for rank in record["ranks"]] == [1, 1]
    assert [rank["cores"] for rank in record["ranks"]] == [list(one)] * 2
