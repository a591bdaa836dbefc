"""A lock is refused where another process holds it, and nowhere else: some file systems have none."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import exclusive, lock, restart
from bench.checkpoints import CheckpointError
from bench.comparison import ComparisonError

HOLDS = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("77"); file.flush()
print(flush=True)
sys.stdin.read()
"""


def test_what_another_process_holds_is_refused_by_its_number(tmp_path: Path) -> None:
    (tmp_path / restart.LOCK).write_text("")
    for name in (".m.lock", restart.LOCK):
        argv = [sys.executable, "-c", HOLDS, str(tmp_path / name)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            if name == restart.LOCK:
                with pytest.raises(CheckpointError, match="in use by process 77"):
                    restart._hold(tmp_path)
            else:
                with pytest.raises(ComparisonError, match="being run by process 77"), lock.held(tmp_path, "m"):
                    pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_once_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(exclusive, "_told", set())
    for _ in range(2):
        with lock.held(tmp_path, "m"):
            assert (tmp_path / ".m.lock").read_text() == str(os.getpid())
        restart._hold(tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path} has no file locks ({os.strerror(number)})" in said
