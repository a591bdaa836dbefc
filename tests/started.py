"""How tests start ranks: with the words that RingZero itself starts them with, and only the engines that are here."""

import os
import platform
from importlib.util import find_spec

import pytest

from backends.world import GPUS
from bench import gpus, launchers

HOROVOD_IS_MISSING = "Horovod is not built here: make horovod"
with_horovod = pytest.mark.skipif(find_spec("horovod") is None, reason=HOROVOD_IS_MISSING)
with_shared_memory = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the ring shares memory on x86-64 only"
)
# DeepSpeed's launcher shows its ranks GPUs 0, 1, ... whatever its own variable says: they read this one.
UNSEEN = {GPUS: os.environ.get(gpus.VISIBLE, "")}


def need(backend: str) -> None:
    """Skip the test that would start an engine which is not built here; tests/test_build.py is red where it could be."""
    if backend == "horovod" and find_spec("horovod") is None:
        pytest.skip(HOROVOD_IS_MISSING)


def mpirun(ranks: int = 2) -> list[str]:
    """mpirun and Python, before a script: where there are fewer cores than ranks, mpirun is told that this is meant."""
    return launchers.under("mpirun", ranks).argv[: -len(["-m", launchers.RUN])]
