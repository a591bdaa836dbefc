"""Causes: every error has one from the list, and memory is told from a kill by the kernel's own count."""

import errno
import signal
from pathlib import Path

import pytest
import torch

from backends.base import BackendUnavailable
from bench.config import ConfigError
from bench.failure import CAUSES, cause_of, killed, memory_kills
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
