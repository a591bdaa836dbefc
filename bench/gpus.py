"""How many GPUs the ranks of a run will find on this host, known before torch is loaded."""

import contextlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
CUDA_LIBRARY = "lib/libtorch_cuda.so"  # in the folder of a torch that is built for GPUs


def visible(env: Mapping[str, str] = os.environ) -> int:
    """GPUs that torch will count: those of the driver, as far as the variable shows them; none for a torch without CUDA."""
    there = _installed() if _torch_has_cuda() else 0
    shown = env.get(VISIBLE)
    if shown is None:
        return there
    count = 0
    for name in shown.split(","):  # as CUDA reads it: nothing counts behind the first name that is none
        name = name.strip()
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdigit() and int(name) < there)):
            break
        count += 1
    return count if there else 0


def takes(device: str, ranks: int) -> bool:
    """Whether `--device` means GPUs for so many ranks of this host: `auto` does where each has its own."""
    return device == "cuda" or (device == "auto" and visible() >= ranks)


@cache
def _installed() -> int:
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:  # no driver, or one that does not answer
        return 0
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # it did not begin
            pynvml.nvmlShutdown()


@cache
def _torch_has_cuda() -> bool:
    found = find_spec("torch")
    return found is not None and found.origin is not None and (Path(found.origin).parent / CUDA_LIBRARY).exists()
