"""Every engine is started once, by its own launcher, on two ranks; the tests read what it left."""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.launchers import free_port
from tests.started import UNSEEN, mpirun, need

WORKER, TUNED = (Path(__file__).with_name(name) for name in ("worker.py", "tuned.py"))
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "single": [sys.executable],
    "ddp": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"],
    "fsdp": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"],
    "ring": mpirun(),
    "ring-torch": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"],  # over torch's point-to-point calls
    "horovod": [BIN / "horovodrun", "-np", "2", sys.executable],
    "deepspeed": [BIN / "deepspeed", "--no_local_rank", "--master_port", str(free_port()), "--num_accelerators", "2"],
}
VARIANTS = {
    "ddp": "ddp",
    "fsdp": "fsdp",
    "horovod": "horovod",
    "ring": "ring",
    "ring-torch": "ring-torch",
    "zero-0": "deepspeed",
    "zero-1": "deepspeed",
    "zero-2": "deepspeed",
    "zero-2-offload": "deepspeed",
    "zero-3": "deepspeed-3",
    "zero-3-offload": "deepspeed-3",
}  # label -> backend


def launch(backend: str, *words: object, ranks: int = 2) -> None:
    """Run a script to its end on the ranks of a backend; what it printed is shown if it fails. Skips what is not built here."""
    need(backend)
    env = {**os.environ, **UNSEEN, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launcher = [str(ranks) if word == "2" else word for word in LAUNCHERS[backend.removesuffix("-3")]]
    command = [str(word) for word in [*launcher, *words]]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, cwd=WORKER.parents[2])
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"


@pytest.fixture(scope="session")
def ensured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ensured(backend, part) -> folder of what the worker kept; each backend is launched at most once for each of its parts."""
    folder = tmp_path_factory.mktemp("parity")

    @lru_cache(None)
    def ensure(backend: str, part: str) -> Path:
        if part == "alone":
            launch(backend.partition("-")[0], TUNED, backend, folder)
            return folder
        if part == "fewer":
            ensure(backend, "first")
        if part == "second":
            ensure("single", "first")  # every engine also goes on from what one plain process kept
            ensure(backend, "first")
        launch(backend, WORKER, backend, folder, part, ranks=1 if part == "fewer" else 2)
        return folder

    return ensure


@pytest.fixture(scope="session")
def trained(ensured: Any) -> Any:
    """trained(label, kind) -> what was kept of the cases: nothing, "faults", "resumed" or "fewer"."""

    def read(label: str, kind: str = "") -> Any:
        part = {"resumed": "second", "fewer": "fewer"}.get(kind, "first")
        folder = ensured(VARIANTS.get(label, label), part)
        return torch.load(folder / f"{label}{'.' if kind else ''}{kind}.pt", weights_only=True)

    return read


@pytest.fixture(scope="session")
def found(ensured: Any) -> Any:
    """found(label, kind) -> what was kept for other tests, "held" or "exchange"."""

    def read(label: str, kind: str) -> Any:
        return json.loads((ensured(VARIANTS[label], "second") / f"{label}.{kind}.json").read_text())

    return read
