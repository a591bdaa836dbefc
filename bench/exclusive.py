"""The kernel's lock on a file, which is gone with the process whatever ended it; not every file system has one."""

import errno
import fcntl
import sys
from pathlib import Path

HELD = (errno.EACCES, errno.EAGAIN)  # POSIX allows either; all else is a file system that can't lock
_told: set[Path] = set()


def take(handle: int, path: Path) -> bool:
    """Lock an open file until it is closed. False where another process holds it.

    A file system without locks is told once on stderr, and counts as not held.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if path.parent not in _told:
            _told.add(path.parent)
            print(
                f"! {path.parent} has no file locks ({error.strerror}): see to it that no other process works there",
                file=sys.stderr,
                flush=True,
            )
    return True
