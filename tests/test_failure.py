"""Causes: every error has one from the list, and memory is told from a kill by the kernel's own count."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from backends.base import BackendUnavailable
from bench.config import ConfigError
from bench.failure import CAUSES, cause_of, departed, killed, memory_kills, parting
from bench.loop import NonFinite
from bench.record import RecordError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), "does not fit"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "does not fit"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            "does not fit",
        ),
        (RuntimeError("std::bad_alloc"), "does not fit"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "does not fit"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "does not fit"),
        (ImportError("libmpi.so.40: cannot open shared object file"), "import"),
        (BackendUnavailable("Horovod is not installed"), "import"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (RecordError("cannot write records"), "disk"),
        (ConfigError("--steps is 0"), "configuration"),
        (NonFinite("lm is nan"), "non-finite"),
        (torch.distributed.DistNetworkError("failed to recv, got 0 bytes"), "launcher"),
        (ValueError("wrong shape"), "error"),
    ],
)
def test_an_error_finds_its_cause(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
    assert cause in CAUSES


def test_torch_s_own_words_for_no_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**58, dtype=torch.uint8)
    assert cause_of(refused.value) == "does not fit"


def test_a_kill_is_memory_where_the_kernel_counted_one() -> None:
    assert killed(signal.SIGKILL, 3, 4)[0] == "does not fit"
    assert killed(signal.SIGKILL, 3, 3) == ("peer lost", "was killed by SIGKILL, not by the kernel for memory")
    cause, words = killed(signal.SIGKILL, None, None)
    assert cause == "peer lost"
    assert "as the kernel does when memory runs out" in words
    assert killed(signal.SIGSEGV, 3, 4) == ("peer lost", "was killed by SIGSEGV")


def test_the_kernel_s_count_is_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert memory_kills(tmp_path) is None
    (tmp_path / "proc/vmstat").write_text("pgfault 1\noom_kill 7\nother 2\n")
    assert memory_kills(tmp_path) == 7


def zombie(pid: int) -> tuple[str, str]:
    """`parting` once the process has ended; nobody has asked for its status yet."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    status = departed(pid)
    assert status is not None
    return parting(status, memory_kills())


def test_a_live_process_has_not_departed(child):
    assert departed(child("sleep", "60").pid) is None
    assert departed(os.getpid()) is None


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGTERM, "was killed by SIGTERM"),
    ],
)
def test_a_zombie_still_knows_what_killed_it(child, number, said):
    process = child("sleep", "60")
    process.send_signal(number)
    cause, how = zombie(process.pid)
    assert cause == "peer lost"
    assert how.startswith(said)


def test_a_zombie_still_knows_its_status(child):
    assert zombie(child("sh", "-c", "exit 7").pid) == ("peer lost", "exited with status 7")


def test_a_process_that_was_waited_for_is_gone_without_a_word(child):
    process = child("true")
    process.wait()
    status = departed(process.pid)
    assert status is not None
    assert parting(status, memory_kills()) == ("peer lost", "is gone without a word")


def test_a_name_with_brackets_and_blanks_is_no_obstacle(child, tmp_path):
    tool = tmp_path / "a) Z 1 (b"
    tool.write_text("#!/bin/sh\nread -r line\n")
    tool.chmod(0o755)
    process = child(str(tool))
    deadline = time.monotonic() + 30
    while "a) Z 1 (b" not in Path(f"/proc/{process.pid}/stat").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert departed(process.pid) is None
