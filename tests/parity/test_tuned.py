"""Settings of one engine leave what it computes as it is, but for 16 bits on the wire, which halve the bytes."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.cases import CASES, difference
from tests.parity.conftest import BIN, LAUNCHERS
from tests.parity.tuned import TRIED

WORKER = Path(__file__).with_name("tuned.py")
SAME = {"sgd": (1e-6, 1e-6), "adamw": (1e-5, 1e-4)}  # relative loss, absolute parameter: test_parity.py says why
HALF_LOSS = 1e-3  # fp16 keeps 11 bits of a gradient: 5e-4, seen again in the loss of the step after
EACH = [(part, name) for part, tried in TRIED.items() if part != "single" for name in tried]
EXACT = [each for each in EACH if not each[1].endswith("fp16")]
HALF = [each for each in EACH if each[1].endswith("fp16")]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """tuned(part) -> what its worker kept; each is launched once."""
    folder = tmp_path_factory.mktemp("tuned")

    @lru_cache(None)
    def found(part: str) -> Any:
        env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        if os.geteuid() == 0:
            env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        command = [str(word) for word in [*LAUNCHERS[part.partition("-")[0]], WORKER, part, folder]]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, cwd=WORKER.parents[2])
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return torch.load(folder / f"{part}.pt", weights_only=True)

    return found


@pytest.mark.parametrize(("part", "name"), EXACT)
def test_a_setting_of_speed_alone_computes_what_one_process_does(tuned: Any, part: str, name: str) -> None:
    kind = "adamw" if TRIED[part][name][0] is CASES["adamw"] else "sgd"
    loss, parameter = difference(tuned(part)[name], tuned("single")[kind])
    assert loss <= SAME[kind][0]
    assert parameter <= SAME[kind][1]
    assert tuned(part)[name]["half_bytes"] == 0


@pytest.mark.parametrize(("part", "name"), HALF)
def test_16_bits_on_the_wire_are_half_the_bytes_and_nearly_the_same_training(tuned: Any, part: str, name: str) -> None:
    found = tuned(part)[name]
    loss, parameter = difference(found, tuned("single")["sgd"])
    assert 2e-8 < loss <= HALF_LOSS
    assert parameter > 1e-8
    whole = 4 * found["values"]  # bytes of the gradients in fp32
    assert 0.5 * whole <= found["half_bytes"] <= 0.51 * whole  # the rest is padding
