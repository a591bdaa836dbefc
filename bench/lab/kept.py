"""The laboratories of this machine: read from their files, found, and removed where whoever owned them is gone."""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import psutil

from bench.lab.host import Host
from bench.lab.lab import ROOT, STATE, Lab
from bench.lab.rights import LabError

BUSY_S = 5.0  # between a folder and its first file


def read(state: Path) -> Lab:
    """A laboratory from its file. Raises LabError."""
    try:
        values = json.loads(state.read_text())
        owner = tuple(values.pop("owner") or ()) or None
        hosts = [Host(**{**each, "cores": tuple(each["cores"])}) for each in values.pop("hosts")]
        return Lab(**values, owner=owner, hosts=hosts)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"{state} is not the file of a laboratory: {error}") from error


def standing() -> list[Lab]:
    """Every laboratory of this machine whose hosts and owner are there. Raises LabError for a user who could not tell."""
    if not _root() and os.path.lexists(ROOT.parent):  # its last laboratory takes that folder along
        raise LabError(
            "a laboratory was made here, and it needs root to be seen or used; type: sudo -E $(command -v ringzero) lab ..."
        )
    found = []
    for state in sorted(ROOT.glob(f"*/{STATE}")):
        with contextlib.suppress(LabError):
            found.append(read(state))
    return [lab for lab in found if not stale(lab)]


def find(number: int | None = None) -> Lab:
    """That laboratory, or the only one that stands by itself: one that a running command has made is that command's.

    Raises LabError.
    """
    labs = [lab for lab in standing() if (lab.owner is None if number is None else lab.number == number)]
    if not labs:
        which = "laboratory stands" if number is None else f"laboratory {number}"
        raise LabError(f"no {which}; type: ringzero lab up --hosts 2 --link 1gbit")
    if len(labs) > 1:
        raise LabError(f"several laboratories stand; add --lab {' or '.join(str(lab.number) for lab in labs)}")
    return labs[0]


def stale(lab: Lab) -> bool:
    """Whoever owned it is gone, or its hosts are."""
    if lab.owner is not None:
        return not _same(*lab.owner)
    return not all(each.alive() for each in lab.hosts)


def sweep() -> list[int]:
    """Remove what a process that was killed has left; returns the numbers. A user without root leaves everything alone."""
    if not _root():
        return []
    removed = []
    for folder in sorted(ROOT.glob("[0-9]*")):
        try:
            lab = read(folder / STATE)
        except LabError:  # killed before its first file was whole; nothing runs before that
            if not _busy(folder):
                shutil.rmtree(folder, ignore_errors=True)
            continue
        if stale(lab):
            lab.down()
            removed.append(lab.number)
    return removed


def _root() -> bool:
    """To others the kernel does not tell the namespaces of root's processes: every laboratory would look as if it were gone."""
    return os.geteuid() == 0


def _same(pid: int, began: float) -> bool:
    """The process of that id is the one that began then."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - began) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _busy(folder: Path) -> bool:
    """A folder without a file yet belongs to somebody who makes it just now, for some seconds."""
    try:
        return time.time() - folder.stat().st_mtime < BUSY_S
    except OSError:
        return False
