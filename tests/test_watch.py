"""How a rank leaves: the record is closed once, every process ends, and the cause is told."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import watch
from bench.failure import CAUSES, Failure
from bench.loop import NonFinite
from bench.watch import EXIT_AGAIN, Watch

LIMIT_S = 10.0


class Left(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def ranks(tmp_path) -> Iterator[Callable[..., list[Watch]]]:
    """ranks(n, close): watches of a run in this process; no thread runs."""
    made: list[Watch] = []

    def build(
        size: int, close: Callable[[Failure, Mapping[int, Any]], None] = lambda failure, measured: None
    ) -> list[Watch]:
        for rank in range(size):
            made.append(Watch(rank, size, LIMIT_S, launched=False))
            made[-1].join(tmp_path, close)
            made[-1].sight.beat()
        return made

    yield build
    for each in made:
        each.sight.close()


@pytest.fixture
def leaves(monkeypatch) -> None:
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(watch.os, "_exit", leave)
    monkeypatch.setattr(watch, "TICK_S", 0.01)
    monkeypatch.setattr(watch, "GRACE_S", 0.1)


@pytest.mark.usefixtures("leaves")
def test_the_lowest_living_rank_closes_the_record_once(ranks, tmp_path):
    closed: list[tuple[Failure, Mapping[int, Any]]] = []
    one, two = ranks(2, lambda failure, measured: closed.append((failure, measured)))
    one.measured["step_s"] = [1.0, 2.0]
    two.at(4, "backward")
    with pytest.raises(Left) as left:
        two.failed(ValueError("wrong shape"))
    assert left.value.args == (1,)
    assert closed == [], "rank 0 lives: it is the one to close"
    seen = one.sight.look()
    assert seen is not None
    with pytest.raises(Left):
        one._leave(seen)
    assert len(closed) == 1
    first, measured = closed[0]
    assert (first.rank, first.step, first.phase, first.cause) == (1, 4, "backward", "error")
    assert first.message == "ValueError: wrong shape"
    assert "ValueError: wrong shape" in str(first.traceback)
    assert measured == {0: {"step_s": [1.0, 2.0]}, 1: {}}
    assert json.loads((tmp_path / "rank_0.failed").read_text())["rank"] == 1


@pytest.mark.usefixtures("leaves")
def test_the_next_rank_closes_where_the_first_is_dead(ranks, child):
    closed: list[int] = []
    one, two = ranks(2, lambda failure, measured: closed.append(failure.rank))
    process = child("true")
    process.wait()
    one.sight.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    seen = two.sight.look()
    assert seen is not None
    with pytest.raises(Left):
        two._leave(seen)
    assert closed == [0]


@pytest.mark.usefixtures("leaves")
def test_what_is_behind_an_error_is_on_the_disk_before_the_record_is_closed(ranks, child, tmp_path):
    """Its launcher may end this rank while it closes the record; whoever does so then needs the cause."""
    seen: list[dict[str, Any]] = []
    one, two = ranks(2, lambda failure, measured: seen.append(json.loads((tmp_path / "rank_1.failed").read_text())))
    process = child("true")
    process.wait()
    one.sight.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    with pytest.raises(Left):
        two.failed(RuntimeError("a collective was lost"))
    assert (seen[0]["rank"], seen[0]["cause"]) == (0, "peer lost")


@pytest.mark.usefixtures("leaves")
def test_a_record_that_can_not_be_closed_still_ends_the_process(ranks):
    def refuse(failure: Failure, measured: Mapping[int, Any]) -> None:
        raise OSError("disk")

    (one,) = ranks(1, refuse)
    with pytest.raises(Left):
        one.failed(ValueError("x"))


@pytest.mark.usefixtures("leaves")
@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (ValueError("wrong"), "error", "ValueError: wrong"),
        (KeyboardInterrupt(), "error", "KeyboardInterrupt: KeyboardInterrupt"),
        (NonFinite("step 3: lm is nan"), "non-finite", "step 3: lm is nan"),
        (MemoryError(), "does not fit", "MemoryError"),
        (RuntimeError("CUDA out of memory. Tried"), "does not fit", "CUDA out of memory. Tried"),
    ],
)
def test_causes_are_told_apart(ranks, error, cause, message):
    closed: list[Failure] = []
    (one,) = ranks(1, lambda failure, measured: closed.append(failure))
    with pytest.raises(Left):
        one.failed(error)
    assert (closed[0].cause, closed[0].message) == (cause, message)
    assert cause in CAUSES


@pytest.mark.usefixtures("leaves")
@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (
            BrokenPipeError(32, "Broken pipe"),
            "launcher",
            "its launcher is gone; BrokenPipeError: [Errno 32] Broken pipe",
        ),
        (NonFinite("step 3: lm is nan"), "non-finite", "step 3: lm is nan"),
    ],
)
def test_an_error_after_the_launcher_is_gone_follows_from_that(ranks, monkeypatch, error, cause, message):
    closed: list[Failure] = []
    (one,) = ranks(1, lambda failure, measured: closed.append(failure))
    one.parent = os.getppid()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(Left):
        one.failed(error)
    assert (closed[0].cause, closed[0].message) == (cause, message)


@pytest.mark.usefixtures("leaves")
@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("lost"), EXIT_AGAIN), (NonFinite("lm is nan"), 1), (MemoryError(), 1)]
)
def test_who_starts_a_rank_anew_is_told_where_that_may_help(ranks, error, status):
    (one,) = ranks(1)
    one.again = True
    with pytest.raises(Left) as left:
        one.failed(error)
    assert left.value.args == (status,)


# --- the thread, in a process of its own


THREAD = """
import json, socket, subprocess, sys, time
from pathlib import Path
from bench import watch
watch.TICK_S = watch.GRACE_S = 0.05
folder, how = Path(sys.argv[1]), sys.argv[2]
one = watch.Watch(0, 2 if how == "peer" else 1, 0.5 if how == "stuck" else 60.0, launched=False)
one.join(folder, lambda failure, measured: print(failure.cause, failure.phase, failure.step, flush=True))
one.at(2, "forward")
if how == "peer":
    peer = subprocess.Popen(["sleep", "60"])
    (folder / "rank_1.alive").write_text(json.dumps({"pid": peer.pid, "host": socket.gethostname()}))
    (folder / "rank_1.beat").write_text(f"{time.time()} {time.time()} 3 update")
    one.sight.look()
    watch.LOOKS = 10**9  # only the kernel's word makes it look again
one.start()
print("ready", flush=True)
if how == "peer":
    peer.kill()
if how == "finish":
    one.finish()
    print("finished", flush=True)
else:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("stuck", 1, "time limit forward 2"),
        ("signal", 1, "interrupted forward 2"),
        ("peer", 1, "peer lost update 3"),
        ("finish", 0, "finished"),
    ],
)
def test_the_thread_ends_a_process_whose_main_thread_can_not(tmp_path, how, code, said):
    root = Path(watch.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", THREAD, str(tmp_path), how], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if how == "signal":
            process.send_signal(signal.SIGTERM)
        text = process.stdout.read()
        assert process.wait(30) == code
    assert text.strip() == said
