"""Who failed first, and where: seen from one rank, with the other ranks as files in a folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench import sight, watch
from bench.failure import CAUSES, Failure, departed, memory_kills, parting
from bench.loop import NonFinite
from bench.sight import BEAT_BYTES, ORDER, SILENT_S, SLOW_PHASES
from bench.watch import Watch

LIMIT_S = 10.0


class Left(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def made() -> Iterator[list[Watch]]:
    """Those that joined; their files are closed with the test."""
    every: list[Watch] = []
    yield every
    for each in every:
        os.close(each.sight._beat)


@pytest.fixture
def ranks(made, tmp_path) -> Callable[..., list[Watch]]:
    """Watches of a run in this process; no thread runs."""

    def build(
        size: int, close: Callable[[Failure, Mapping[int, Any]], None] = lambda failure, measured: None
    ) -> list[Watch]:
        for rank in range(size):
            made.append(Watch(rank, size, LIMIT_S, launched=False))
            made[-1].join(tmp_path, close)
            made[-1].sight.beat()
        return made

    return build


def place(seen: Watch, step: int, phase: str, *, idle_s: float = 0.0, silent_s: float = 0.0) -> None:
    """Put a rank somewhere: without progress for `idle_s`, without any sign of life for `silent_s` seconds."""
    now = time.time()
    seen.sight.place = (now - idle_s, step, phase)
    text = f"{now - silent_s:.3f} {now - idle_s:.3f} {step} {phase}".ljust(BEAT_BYTES)
    os.pwrite(seen.sight._beat, text.encode(), 0)


# --- processes


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def zombie(pid: int) -> tuple[str, str]:
    """`parting` once the process has ended; nobody has asked for its status yet."""
    deadline = time.monotonic() + 30
    while (status := departed(pid)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert status is not None
    return parting(status, memory_kills())


def test_a_live_process_has_notdeparted(child):
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


# --- what is seen


def test_a_run_that_goes_on_has_no_failure(ranks):
    one, two = ranks(2)
    place(one, 3, "forward")
    place(two, 3, "update", idle_s=100)  # it waits for the first, which moves
    assert one.sight.look() is None
    assert two.sight.look() is None


@pytest.mark.parametrize(
    ("places", "late"),
    [
        ([(3, "update"), (3, "forward"), (3, "update")], 1),
        ([(3, "update"), (3, "backward"), (2, "gather")], 2),  # the step counts before the phase
        ([(3, "backward"), (3, "backward"), (3, "forward")], 2),
        ([(3, "data"), (3, "forward"), (3, "forward")], 0),
        ([(3, "update"), (3, "update"), (3, "update")], 0),
    ],
)
def test_the_rank_that_is_furthest_behind_is_named(ranks, places, late):
    watches = ranks(3)
    for each, (step, phase) in zip(watches, places, strict=True):
        place(each, step, phase, idle_s=LIMIT_S + 5)
    for each in watches:
        failure = each.sight.look()
        assert failure is not None
        assert (failure.rank, failure.step, failure.phase, failure.cause) == (late, *places[late], "time limit")
        assert "no progress for 10 s" in failure.message
        assert "the others wait for it" in failure.message


def test_a_frozen_process_is_named_though_it_is_further_on(ranks):
    one, two = ranks(2)
    place(one, 3, "forward", idle_s=LIMIT_S + 5)
    place(two, 3, "update", idle_s=LIMIT_S + 5, silent_s=LIMIT_S)
    failure = one.sight.look()
    assert failure is not None
    assert (failure.rank, failure.phase) == (1, "update")
    assert "its process does not run" in failure.message


def test_a_silent_process_is_named_while_others_move(ranks):
    one, two = ranks(2)
    place(one, 9, "forward")
    silent_s = min(SILENT_S, 3 * LIMIT_S)
    place(two, 3, "update", idle_s=silent_s - 5, silent_s=silent_s - 5)
    assert one.sight.look() is None, "it may be importing something"
    one.sight._beats_due = 0.0
    place(two, 3, "update", idle_s=silent_s + 5, silent_s=silent_s + 5)
    failure = one.sight.look()
    assert failure is not None
    assert (failure.rank, failure.step) == (1, 3)


def test_slow_phases_have_their_own_limit(ranks):
    one, two = ranks(2)
    for idle_s, stuck in ((LIMIT_S + 5, False), (SLOW_PHASES["setup"] + 5, True)):
        place(one, 0, "setup", idle_s=idle_s)
        place(two, 0, "setup", idle_s=idle_s)
        assert (one.sight.look() is not None) == stuck


def test_no_phase_is_slow_without_a_network(ranks, monkeypatch):
    one, two = ranks(2)
    two.sight.interface = "lab0"
    monkeypatch.setattr(sight, "plugged", lambda name: False)
    for each in (one, two):
        place(each, 0, "setup", idle_s=LIMIT_S + 5)
    two.sight.beat()
    assert one.sight.look() is None, "it has only just gone"
    two.sight._out_since = time.time() - LIMIT_S - 1
    two.sight.beat()
    one.sight._beats_due = 0.0
    failure = one.sight.look()
    assert failure is not None
    assert (failure.rank, failure.phase, failure.cause) == (1, "setup", "time limit")
    assert "no link" in failure.message
    monkeypatch.setattr(sight, "plugged", lambda name: True)
    two.sight.beat()
    one.sight._beats_due = 0.0
    assert one.sight.look() is None, "it is in again"


def test_every_slow_phase_is_a_phase():
    assert set(SLOW_PHASES) <= set(ORDER)


def test_a_lone_rank_is_not_told_to_wait_for_others(ranks):
    (one,) = ranks(1)
    place(one, 3, "forward", idle_s=LIMIT_S + 5)
    failure = one.sight.look()
    assert failure is not None
    assert "it is stuck" in failure.message


def test_a_dead_rank_is_found_where_it_was(ranks, child, tmp_path):
    one, two = ranks(2)
    place(two, 5, "backward")
    process = child("sleep", "60")
    two.sight.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    assert one.sight.look() is None
    process.send_signal(signal.SIGKILL)
    zombie(process.pid)
    failure = one.sight.look()
    assert failure is not None
    assert (failure.rank, failure.step, failure.phase, failure.cause) == (1, 5, "backward", "peer lost")
    assert "was killed by SIGKILL" in failure.message
    one.sight._peers.clear()
    two.sight.write("alive", {"pid": process.pid, "host": "elsewhere"})  # a number means nothing on another host
    assert one.sight.look() is None


def failure(rank: int, cause: str = "error", when: float = 1.0) -> Failure:
    return Failure(rank, 4, "forward", cause, f"of rank {rank}", "Traceback", when)


def test_what_another_rank_tells_is_found(ranks):
    one, two, _ = ranks(3)
    two.sight.write("failed", asdict(failure(1)))
    assert one.sight.look() == failure(1)


@pytest.mark.parametrize(("cause", "found"), [("error", (1, "peer lost")), ("non-finite", (0, "non-finite"))])
def test_an_engines_own_error_is_of_the_host_whose_cable_is_out(ranks, monkeypatch, cause, found):
    one, two = ranks(2)
    one.sight.write("failed", asdict(failure(0, cause)))
    told = one.sight.look()
    assert told == failure(0, cause)
    monkeypatch.setattr(sight, "plugged", lambda name: name != "lab0")
    two.sight.interface = "lab0"
    two.sight.beat()
    for each in (one, two):
        told = each.sight.look()
        assert told is not None
        assert (told.rank, told.cause) == found
        assert told.message.endswith("of rank 0")
        assert told.traceback == "Traceback"
        assert ("no link" in told.message) == (cause == "error")


def test_an_engines_own_error_is_of_the_process_that_does_not_run(ranks):
    one, two, three = ranks(3)
    one.sight.write("failed", asdict(failure(0)))
    assert one.sight.look() == failure(0)
    place(three, 2, "forward", silent_s=LIMIT_S)
    for each in (one, two):
        told = each.sight.look()
        assert told is not None
        assert (told.rank, told.cause) == (2, "time limit")
        assert "does not run; of rank 0" in told.message
    three.sight.write("failed", asdict(failure(2, when=0.5)))  # it ran, and left
    told = one.sight.look()
    assert told is not None
    assert (told.rank, told.cause) == (2, "error")


def test_the_first_cause_is_the_earliest_that_is_no_consequence(ranks):
    watches = ranks(3)
    for rank, cause, when in ((0, "interrupted", 1.0), (1, "error", 3.0), (2, "non-finite", 2.0)):
        watches[rank].sight.write("failed", asdict(failure(rank, cause, when)))
    assert watches[0].sight.look() == failure(2, "non-finite", 2.0)


def test_whose_launcher_is_gone_goes_before_who_was_then_ended(ranks):
    watches = ranks(2)
    for rank, cause, when in ((0, "interrupted", 1.0), (1, "launcher", 1.5)):
        watches[rank].sight.write("failed", asdict(failure(rank, cause, when)))
    assert watches[0].sight.look() == failure(1, "launcher", 1.5)


def test_a_death_goes_before_what_the_living_then_met(ranks, child):
    one, two, three = ranks(3)
    process = child("true")
    process.wait()
    two.sight.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    three.sight.write("failed", asdict(failure(2)))
    found = one.sight.look()
    assert found is not None
    assert (found.rank, found.cause) == (1, "peer lost")
    two.sight.write("failed", asdict(failure(1, when=0.5)))  # it had said why before it went
    assert one.sight.look() == failure(1, when=0.5)


# --- leaving


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


# --- the thread, in a process of its own


THREAD = """
import sys, time
from pathlib import Path
from bench import sight, watch
watch.TICK_S = watch.GRACE_S = 0.05
one = watch.Watch(0, 1, 0.5 if sys.argv[2] == "stuck" else 60.0, launched=False)
one.start()
one.join(Path(sys.argv[1]), lambda failure, measured: print(failure.cause, failure.phase, failure.step, flush=True))
one.at(2, "forward")
print("ready", flush=True)
if sys.argv[2] == "finish":
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
