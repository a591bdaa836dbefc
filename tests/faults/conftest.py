"""Runs that go wrong, under their real launchers, with what a user sees: output, exit status, record, and time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.started import UNSEEN, mpirun, need

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FAULTY = Path(__file__).with_name("faulty.py")
SECONDS = 15  # "within seconds": what a failure may take to end every rank, on a machine that does other things too


def environment(**more: str) -> dict[str, str]:
    """What a user's shell has with the venv active."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "OMPI_", "HOROVOD_"))}
    env |= UNSEEN | {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return env


LAUNCH: dict[str, list[Any]] = {
    "ddp": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"],
    "fsdp": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"],
    "ring": mpirun(),
    "horovod": [BIN / "horovodrun", "-np", "2", sys.executable],
    "deepspeed": [BIN / "deepspeed", "--num_accelerators", "2"],
    "single": [sys.executable],
}
QUICK = ["--steps", "2", "--warmup", "0", "--proof-steps", "0", "--phase-steps", "0"]


def command(backend: str, script: Path, *flags: Any) -> list[str]:
    """The launcher, the script, and flags of a short run. Skips the test of an engine that is not built here."""
    need(backend)
    return [str(word) for word in [*LAUNCH[backend], script, "--backend", backend, *QUICK, *flags]]


@dataclass
class Outcome:
    """How a command ended. `after`: seconds from the fault to the end of the launcher."""

    code: int
    output: str
    record: dict[str, Any]
    after: float


def ranks(launcher: psutil.Process) -> list[psutil.Process]:
    """The Python processes that run the script, launchers and wrappers left out."""
    found = []
    for process in launcher.children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if any(word.endswith("faulty.py") for word in line) and "python" in line[0] and not process.children():
            found.append(process)
    return found


def fail(backend: str, folder: Path, fault: str, *flags: Any) -> Outcome:
    """Run with a fault in it: `nan`, `raise`, `hang` happen on rank 1 at step 2; `kill` and `freeze` are done to it from outside."""
    mark = folder / "here"  # the faulty rank touches it when it has come to the place
    with open(folder / "output.txt", "w+") as output:
        started = subprocess.Popen(
            command(backend, FAULTY, "--results", folder / "results", "--steps", "4", *flags),
            stdout=output,
            stderr=output,
            env=environment(FAULT=fault, FAULT_MARK=str(mark)),
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            deadline = time.time() + 90
            while not mark.exists() and started.poll() is None and time.time() < deadline:
                time.sleep(0.05)
            time.sleep(0.6)  # ranks tell where they are a few times a second
            begin = time.time()
            if fault in ("kill", "freeze"):
                os.kill(int(mark.read_text()), {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}[fault])
            code = started.wait(timeout=90)
            after = time.time() - begin
            left = [
                process.pid
                for process in psutil.process_iter(["environ"])
                if (process.info["environ"] or {}).get("FAULT_MARK") == str(mark)
                and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
            ]
        finally:
            for process in psutil.process_iter(["environ"]):
                if (process.info["environ"] or {}).get("FAULT_MARK") == str(mark):
                    process.kill()
        output.seek(0)
        text = output.read()
    assert not left, f"still running: {left}\n{text[-2000:]}"
    records = sorted((folder / "results").glob("*.json"))
    assert len(records) == 1, f"{records}\n{text[-3000:]}"
    return Outcome(code, text, json.loads(records[0].read_text()), after)


def refused(words: Sequence[Any], *, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and all output of a command that is wrong from the start."""
    ended = subprocess.run(
        [str(word) for word in words],
        env=env or environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    return ended.returncode, ended.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    return tmp_path
