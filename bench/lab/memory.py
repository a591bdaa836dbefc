"""Out of memory on purpose: a control group in which one process may take next to nothing more."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAME = "ringzero-lab"
LEAVES_BYTES = 1 << 20  # beside what it already has, which stays with its old group
GONE_S = 5.0


def unavailable(root: Path = ROOT) -> str | None:
    """Why memory can't be limited here; None where it can."""
    folder, _ = _place(root)
    if folder is None:
        return f"no memory controller in {root}"
    try:
        (folder / f"{NAME}-try").mkdir()
        (folder / f"{NAME}-try").rmdir()
    except OSError as error:
        return f"{folder} can't be written: {error.strerror}"
    return None


def _place(root: Path) -> tuple[Path | None, str]:
    """Where groups are made, and the file of a group's limit: version 1 of control groups, or 2."""
    if (root / "memory" / "memory.limit_in_bytes").exists():
        return root / "memory", "memory.limit_in_bytes"
    with contextlib.suppress(OSError):
        if "memory" in (root / "cgroup.subtree_control").read_text().split():
            return root, "memory.max"
    return None, ""


def limit(pid: int, root: Path = ROOT) -> None:
    """From now on that process may take LEAVES_BYTES more; the kernel kills it where it needs more. Raises OSError."""
    folder, name = _place(root)
    if folder is None:
        raise OSError(unavailable(root))
    group = folder / f"{NAME}-{pid}"
    group.mkdir()
    (group / name).write_text(str(LEAVES_BYTES))
    (group / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def cleaned(root: Path = ROOT) -> Iterator[None]:
    """Remove the groups that were made meanwhile; their processes must be gone, or nearly."""
    try:
        yield
    finally:
        folder, _ = _place(root)
        end = time.monotonic() + GONE_S
        while (left := list(folder.glob(f"{NAME}-*")) if folder else []) and time.monotonic() < end:
            for group in left:
                with contextlib.suppress(OSError):  # a process in it is not quite gone
                    group.rmdir()
            time.sleep(0.05)
