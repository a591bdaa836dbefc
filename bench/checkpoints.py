"""Checkpoints on the disk: a folder a step, complete by one rename, believed only where every byte is what was written.

    FOLDER/step_00000010/manifest.json  what it is of, and the digest of each file that it needs
    FOLDER/step_00000010/rank_0.pt      a part from each rank
    FOLDER/.step_00000020.NAME/         being written: a dot in front, so nobody takes it for one
    FOLDER/refused_step_00000010/       found damaged, and set aside

All ranks see the folder; on several hosts it lies on a file system that they share.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch

from bench.record import sync

FORM = 1  # of a manifest
MANIFEST = "manifest.json"
STEP = "step_"
POLL_S = 0.005


class CheckpointError(ValueError):
    """No training can go on from, or be kept in, what was named; the message says why and what would do."""

    ringzero_cause = "configuration"


class Damaged(CheckpointError):
    """A checkpoint is not what was written; the message names it and the file."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is of. `files`: name -> `sha256` and `bytes` of each part; `run_id`: of the run that wrote it."""

    form: int
    step: int
    ranks: int
    engine: str
    run_id: str
    experiment: dict[str, Any]
    files: dict[str, dict[str, Any]]


class _Digested:
    """A file that knows the digest of what was written to it, whatever the disk makes of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{STEP}{step:08d}"


def unfinished(folder: Path, step: int, name: str) -> Path:
    """Where it is written: `name` tells starts of a training apart, so that no part of an earlier one gets in."""
    return folder / f".{STEP}{step:08d}.{name}"


def write_part(partial: Path, rank: int, content: Mapping[str, Any]) -> None:
    """Put one rank's part on the disk, and beside it, last, the note that says so."""
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _part(rank)).open("wb") as file:
        kept = _Digested(file)
        torch.save(content, kept)  # type: ignore[arg-type] # it asks for write and flush alone
        file.flush()
        os.fsync(file.fileno())
    note = partial / f"rank_{rank}.note"
    _write(note, {"sha256": kept.digest.hexdigest(), "bytes": kept.bytes})


def publish(
    partial: Path, folder: Path, *, step: int, ranks: int, engine: str, run_id: str, experiment: Mapping[str, Any]
) -> Path:
    """Wait for the parts of all ranks, then make them one checkpoint: it is there from one moment to the next."""
    notes = [partial / f"rank_{rank}.note" for rank in range(ranks)]
    while not all(note.exists() for note in notes):  # a rank that never writes is found by the watch
        time.sleep(POLL_S)
    files = {_part(rank): json.loads(note.read_text()) for rank, note in enumerate(notes)}
    _write(partial / MANIFEST, asdict(Manifest(FORM, step, ranks, engine, run_id, dict(experiment), files)))
    for note in notes:
        note.unlink()
    sync(partial)
    target = place(folder, step)
    partial.rename(target)
    sync(folder)
    return target


def wait_for(target: Path) -> None:
    """Until another rank has made the checkpoint complete."""
    while not target.exists():
        time.sleep(POLL_S)


def found(folder: Path) -> list[Path]:
    """Whatever stands where a complete checkpoint would, the newest first."""
    return sorted((path for path in folder.glob(f"{STEP}*") if path.name[len(STEP) :].isdigit()), reverse=True)


def check(path: Path) -> Manifest:
    """The manifest of a checkpoint of which every byte was read. Raises Damaged, naming the first file that is not as written."""
    try:
        told = json.loads((path / MANIFEST).read_text())
        if told["form"] != FORM:
            raise CheckpointError(f"{path} has form {told['form']}; this version reads {FORM}")
        manifest = Manifest(**told)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise Damaged(f"{path}: {MANIFEST} is missing or not whole") from error
    if place(path.parent, manifest.step) != path or set(manifest.files) != set(map(_part, range(manifest.ranks))):
        raise Damaged(f"{path}: {MANIFEST} does not belong to it")
    for name, kept in manifest.files.items():
        try:
            with (path / name).open("rb") as file:
                size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise Damaged(f"{path}: {name} is missing") from None
        if size != kept["bytes"]:
            raise Damaged(f"{path}: {name} has {size} bytes, {kept['bytes']} were written")
        if digest != kept["sha256"]:
            raise Damaged(f"{path}: {name} is not what was written (its SHA-256 differs)")
    return manifest


def read(path: Path, ranks: int) -> list[dict[str, Any]]:
    """The parts of all ranks that wrote a checkpoint, mapped: a value is read from the disk where it is needed."""
    return [torch.load(path / _part(rank), weights_only=True, mmap=True, map_location="cpu") for rank in range(ranks)]


def set_aside(path: Path) -> Path:
    """Move a damaged checkpoint out of the way, to be looked at."""
    aside = path.with_name(f"refused_{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep`; each loses its name first, so that half of one is never taken for a checkpoint."""
    for path in found(folder)[keep:]:
        gone = path.with_name(f".{path.name}.gone")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove what earlier starts left unfinished."""
    for path in folder.glob(f".{STEP}*"):
        shutil.rmtree(path, ignore_errors=True)


def _part(rank: int) -> str:
    return f"rank_{rank}.pt"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
