"""What checkpoints of all engines have in common: files that are whole or absent, and each rank's random generators."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` only when all was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # what a failure left half written


def rng_state() -> dict[str, Any]:
    """The generators that a training step may draw from: torch's (CPU and this process's GPUs) and Python's."""
    version, internal, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": [version, list(internal), gauss]}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Undo `rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def write_rng(directory: Path, rank: int, size: int) -> None:
    """Keep this rank's generators in a checkpoint of an engine's own form; those of ranks that are no more are taken away."""
    if rank == 0:
        for path in directory.glob("rng_*.pt"):
            if int(path.stem.removeprefix("rng_")) >= size:
                path.unlink()
    with written_whole(directory / f"rng_{rank}.pt") as path:
        torch.save(rng_state(), path)


def read_rng(directory: Path, rank: int) -> None:
    """Undo `write_rng`; with more ranks than wrote, theirs are taken again from the first on."""
    set_rng_state(torch.load(directory / f"rng_{rank % ranks_of(directory)}.pt", weights_only=True))


def ranks_of(directory: Path) -> int:
    """How many ranks wrote it, each its generators."""
    return len(list(directory.glob("rng_*.pt")))
