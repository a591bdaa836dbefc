"""Why a run did not finish: the one list of causes, how an error finds its own, and how a process of this host is gone."""

import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Cause = Literal[
    "does not fit",  # memory: an allocation refused, or the kernel killed a rank for it
    "time limit",  # a rank made no progress, or the whole run took too long
    "import",  # a library is missing or can't be loaded
    "launcher",  # it could not start the ranks, or is gone
    "non-finite",  # a loss or gradient is no number
    "peer lost",  # the process of a rank is gone
    "not equivalent",  # it finished, and is not the training that one plain process does: said on reading, never written
    "interrupted",  # ended from outside: Ctrl-C, a signal, a comparison that was killed
    "disk",  # no room, or no right to write
    "configuration",  # what was asked for can't be run
    "error",  # anything else; the message and the traceback tell
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
# What another start may not meet again. Not what would come back: a wrong flag, no memory, a full disk, a loss that is no number.
PASSING: tuple[Cause, ...] = ("peer lost", "interrupted", "time limit", "launcher", "error")

# What torch, the C++ runtime, the dynamic linker and CUDA say where memory is refused, in lower case.
MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
)
WORD = "RINGZERO_WORD"  # variable with the path of that file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
STORE = ("DistNetworkError", "DistStoreError")  # torch's store, where ranks find each other, lies with the launcher
CONFIGURATION = ("ConfigError", "LaunchError", "DataError", "AssetError")  # by name: their modules may not be loaded


@dataclass(frozen=True)
class Failure:
    """Who failed first, where in the run, and why."""

    rank: int
    step: int | None
    phase: str
    cause: Cause
    message: str
    traceback: str | None = None
    time: float = 0.0


def cause_of(error: BaseException) -> Cause:
    """Which cause an error is. An error that knows better says so: `ringzero_cause`."""
    told: Cause | None = getattr(error, "ringzero_cause", None)
    if told is not None:
        return told
    code = error.errno if isinstance(error, OSError) else None
    if (
        isinstance(error, MemoryError)
        or code == errno.ENOMEM
        or any(word in str(error).lower() for word in MEMORY_WORDS)
    ):
        return "does not fit"
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, ImportError) or "BackendUnavailable" in names:
        return "import"
    if names.intersection(STORE):
        return "launcher"
    if code in NO_ROOM or "RecordError" in names:
        return "disk"
    return "configuration" if names.intersection(CONFIGURATION) else "error"


def leave_word(error: BaseException, message: str) -> None:
    """For whoever launched this process: why it refuses to begin, in the file that it named. The first rank's word stays."""
    name = os.environ.get(WORD)
    if name is None:
        return
    try:
        with open(name, "x") as file:
            cause = cause_of(error)
            wrong = cause == "error" and isinstance(
                error, ValueError
            )  # before the first step, a value is what was asked
            json.dump({"cause": "configuration" if wrong else cause, "message": message}, file)
    except OSError:
        pass  # another rank was first, or nothing can be written: the log has the message too


def launched() -> bool:
    """Whether somebody launched this process who keeps its record, and tells where."""
    return WORD in os.environ


def memory_kills(root: Path = Path("/")) -> int | None:
    """Processes that the kernel has killed for memory since it started; None where it does not count them."""
    try:
        lines = (root / "proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def killed(number: int, kills_before: int | None, kills_now: int | None) -> tuple[Cause, str]:
    """(cause, words) of a process that a signal ended. SIGKILL is memory where the kernel counts a kill since then."""
    name = signal.Signals(number).name
    if number != signal.SIGKILL:
        return "peer lost", f"was killed by {name}"
    if kills_before is None or kills_now is None:
        return (
            "peer lost",
            f"was killed by {name}, as the kernel does when memory runs out; it does not count such kills here",
        )
    if kills_now > kills_before:
        return "does not fit", f"was killed by {name}: the kernel ran out of memory"
    return "peer lost", f"was killed by {name}, not by the kernel for memory"


def departed(pid: int) -> int | None:
    """How a process of this host is gone: its wait status, -1 where nobody knows; None while it lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(fields[-1]) if fields[0] in "ZX" else None


def parting(status: int, kills_before: int | None) -> tuple[Cause, str]:
    """(cause, words) of a status that `departed` gave. Nobody knows one: it counts as memory where the kernel killed for it."""
    now = memory_kills()
    if status >= 0 and os.WIFSIGNALED(status):
        return killed(os.WTERMSIG(status), kills_before, now)
    if status >= 0:
        return "peer lost", f"exited with status {os.waitstatus_to_exitcode(status)}"
    if kills_before is not None and now is not None and now > kills_before:
        return "does not fit", "is gone without a word, and the kernel ran out of memory"
    return "peer lost", "is gone without a word"
