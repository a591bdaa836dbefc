"""Where a training begins: at its first step, or at the newest checkpoint that is whole and its own."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.base import Backend
from backends.group import RESTARTS
from bench import checkpoints, rejoin
from bench.checkpoints import CheckpointError, Damaged, Manifest
from bench.config import SAME_EXPERIMENT, RunConfig
from bench.exclusive import take
from bench.hosts.sharing import blind

LOCK = ".lock"
_held: list[int] = []  # locks of this process, until it ends


@dataclass(frozen=True)
class Start:
    """Where this run begins. `path`: the checkpoint, None at the first step; the rest tells who wrote it."""

    path: str | None = None
    step: int = 0
    ranks: int = 0
    engine: str | None = None
    run_id: str | None = None
    refused: tuple[str, ...] = ()  # newer ones that were damaged, and how

    def record(self) -> dict[str, Any] | None:
        """The record's `resumed`; None for a run that begins at its first step."""
        return None if self.path is None else asdict(self) | {"refused": list(self.refused)}


def choose(backend: Backend, config: RunConfig) -> Start:
    """What every rank begins from, decided by the first one. Collective. Raises CheckpointError on all ranks, before any step.

    A launcher that starts its ranks again gives them the flags of the first start: they go on all the same.
    """
    asked = config.checkpoints
    if not asked.checkpoint_every and asked.resume == "never":
        return Start()
    goes_on = asked.resume == "auto" or os.environ.get(RESTARTS, "0") != "0" or rejoin.goes_on()
    told: tuple[Start | None, str] = (None, "")
    if backend.world.rank == 0:
        try:
            told = (pick(config, goes_on=goes_on), "")
        except CheckpointError as error:
            told = (None, str(error))
        except OSError as error:
            told = (
                None,
                f"{asked.checkpoint_folder} can't hold checkpoints: {error.strerror}; name another --checkpoint-folder",
            )
    start, problem = backend.gather(told)[0]
    if start is None:
        raise CheckpointError(problem)
    if lost := blind(backend, asked.checkpoint_folder):
        raise CheckpointError(
            f"{asked.checkpoint_folder} is not the same folder on every host: what rank 0 writes there, rank {lost[0]} does "
            "not see. Name one that all hosts share with --checkpoint-folder, or leave --checkpoint-every and --resume out"
        )
    return start


def pick(config: RunConfig, *, goes_on: bool) -> Start:
    """Take the folder for this process, clear what was left unfinished, and find the newest whole checkpoint.

    Damaged ones are set aside and named on stderr. Raises CheckpointError where the folder is another training's or in use.
    """
    folder = config.checkpoints.checkpoint_folder
    folder.mkdir(parents=True, exist_ok=True)
    _hold(folder)
    checkpoints.clear(folder)
    there = checkpoints.found(folder)
    if there and not goes_on:
        raise CheckpointError(
            f"{folder} holds checkpoints up to {there[0].name}; add --resume auto to go on from there, or name an empty "
            "--checkpoint-folder"
        )
    refused = []
    for path in there:
        try:
            manifest = checkpoints.check(path)
        except Damaged as error:
            refused.append(str(error))
            _say(f"{error}; set aside as {checkpoints.set_aside(path).name}, looking at the one before")
            continue
        refuse_other(path, manifest, config)
        _say(f"going on from {path}: step {manifest.step}, written by {manifest.engine} on {manifest.ranks} ranks")
        return Start(str(path), manifest.step, manifest.ranks, manifest.engine, manifest.run_id, tuple(refused))
    if goes_on:
        _say(f"no checkpoint in {folder}: beginning at step 0")
    return Start(refused=tuple(refused))


def identity(config: RunConfig) -> dict[str, Any]:
    """What a training is: the flags that decide its losses. Not how many ranks, not which engine, not how the batch is cut."""
    plain = config.to_dict()
    same = {name: value for group in SAME_EXPERIMENT for name, value in plain[group].items()}
    del same["accumulation"]
    for files in ("weights", "instructions"):  # where files lie may change between two starts
        same[files] = same[files] is not None
    same["engine_adam"] = config.tuning.engine_adam  # DeepSpeed's own update counts its steps in another form
    return same


def refuse_other(path: Path, manifest: Manifest, config: RunConfig) -> None:
    """Raise CheckpointError, telling what differs, where a checkpoint is of another training or has nothing left to do.

    A constant learning rate does not look at how many steps there will be, so their number may change.
    """
    theirs, ours = dict(manifest.experiment), identity(config)
    if ours["schedule"] == "constant":
        ignored = ("steps", "epochs")
        theirs, ours = ({k: v for k, v in each.items() if k not in ignored} for each in (theirs, ours))
    differ = [
        f"--{name.replace('_', '-')} {theirs.get(name)} there, {ours.get(name)} here"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{path} is of another training: {'; '.join(differ)}. Give the same flags, or another --checkpoint-folder"
        )


def _hold(folder: Path) -> None:
    """Lock the folder until this process ends, however it ends."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if not take(handle, folder / LOCK):
        holder = os.read(handle, 32).decode() or "another one"
        os.close(handle)
        raise CheckpointError(f"{folder} is in use by process {holder}; name another --checkpoint-folder")
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    _held.append(handle)


def _say(text: str) -> None:
    print(f"bench.run: {text}", file=sys.stderr, flush=True)
