"""One process at a time works on a comparison: a lock of the kernel's, gone with the process whatever ended it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.comparison import ComparisonError
from bench.exclusive import take


@contextlib.contextmanager
def held(results: Path, name: str) -> Iterator[None]:
    """Hold the lock of comparison `name`. Raises ComparisonError, naming the process, where another one holds it."""
    path = results / f".{name}.lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not take(handle, path):
            holder = os.read(handle, 32).decode() or "another one"
            os.close(handle)
            raise ComparisonError(f"{name} is being run by process {holder}; wait for it, or stop it")
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)  # its holder removed the file between our two calls: what we hold has no name any more
    try:
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        os.ftruncate(handle, len(str(os.getpid())))
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        os.close(handle)
