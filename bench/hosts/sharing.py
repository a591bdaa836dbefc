"""Which files the hosts of a run have in common: found by looking, since nobody says which folders they share."""

import os
import time
import uuid
from pathlib import Path

from backends.base import Backend

PIECE = 4 * 2**20  # bytes that travel at once: every rank holds as many from each
SEEN_S = 2.0  # a network's file system may show a new name a little later elsewhere


def several(backend: Backend) -> bool:
    """Whether the ranks are on more than one host."""
    return backend.world.local_size != backend.world.size


def blind(backend: Backend, folder: Path) -> list[int]:
    """Ranks that do not see what rank 0 writes into a folder; none on one host. Collective."""
    if not several(backend):
        return []
    token = folder / f".seen_{uuid.uuid4().hex}"
    if backend.world.rank == 0:
        token.touch()
    token = backend.gather(token)[0]
    seen = backend.gather(_appears(token))
    if backend.world.rank == 0:
        token.unlink(missing_ok=True)
    return [rank for rank, sees in enumerate(seen) if not sees]


def hand_out(backend: Backend, folder: Path) -> None:
    """Give each host the files of a folder that only ranks elsewhere have; nothing travels where all share it. Collective."""
    if not several(backend):
        return
    own = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    listed = backend.gather(own)
    for name in sorted(set().union(*listed)):
        giver = next(rank for rank, names in enumerate(listed) if name in names)
        if any(name not in names for names in listed):
            _send(backend, folder / name, giver, listed[giver][name], wanted=name not in own)
    backend.gather(None)  # nobody reads before everything has come


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SEEN_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _send(backend: Backend, path: Path, giver: int, size: int, *, wanted: bool) -> None:
    """One file in pieces, from the rank that gives it to the first rank of each host without it."""
    world = backend.world
    partial = path.with_name(f"{path.name}.{world.rank}") if wanted and world.local_rank == 0 else None
    if partial is not None:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")
    for start in range(0, size, PIECE):
        piece = backend.gather(_read(path, start) if world.rank == giver else None)[giver]
        if partial is not None:
            with partial.open("ab") as file:
                file.write(piece)
    if partial is not None:
        partial.replace(path)


def _read(path: Path, start: int) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, PIECE, start)
    finally:
        os.close(handle)
