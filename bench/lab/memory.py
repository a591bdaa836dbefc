"""Out of memory on purpose: a control group without room, one process in it, and another that takes all there is.

The rank alone might go on for ever: it keeps what it frees and needs nothing new. As on a host where somebody else's process
grows, the kernel ends the largest that it may, and that is the rank.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAME = "ringzero-lab"
LEAVES_BYTES = 1 << 20  # beside what it already has, which stays with its old group
GONE_S = 5.0
# Joins the group and grows; the kernel takes any other process of it first.
GROWS = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
open("/proc/self/oom_score_adj", "w").write("-900")
taken = []
while True:
    taken.append(bytes([1]) * 65536)
"""


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
    """That process shares LEAVES_BYTES with one that takes them all, so the kernel kills it. Raises OSError."""
    folder, name = _place(root)
    if folder is None:
        raise OSError(unavailable(root))
    group = folder / f"{NAME}-{pid}"
    group.mkdir()
    (group / name).write_text(str(LEAVES_BYTES))
    members = group / "cgroup.procs"
    members.write_text(str(pid))
    with contextlib.suppress(subprocess.TimeoutExpired):  # alone at last, it is killed too
        subprocess.run([sys.executable, "-S", "-c", GROWS, str(members)], check=False, timeout=GONE_S)


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
