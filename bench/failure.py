"""A failure in words: which rank, where in the run, and why; and how a process of this host is gone."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

CAUSES = ("error", "non-finite", "died", "time limit", "terminated", "does not fit", "launcher")


@dataclass(frozen=True)
class Failure:
    """Who failed first, where in the run, and why. `cause` is one of CAUSES."""

    rank: int
    step: int | None
    phase: str
    cause: str
    message: str
    traceback: str | None = None
    time: float = 0.0


def departed(pid: int) -> str | None:
    """How a process of this host is gone, or None while it lives. A zombie still knows what killed it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "is gone without a word"
    if fields[0] not in "ZX":
        return None
    status = int(fields[-1])
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(number).name}{hint}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"
