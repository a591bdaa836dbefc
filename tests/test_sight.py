"""Who failed first, and where: seen from one rank, with the other ranks as files in a folder."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench import sight
from bench.failure import Failure
from bench.sight import BEAT_BYTES, ORDER, SILENT_S, SLOW_PHASES, Sight

LIMIT_S = 10.0


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Callable[[int], list[Sight]]]:
    """ranks(n): what each rank of a run sees, all in this process."""
    made: list[Sight] = []

    def build(size: int) -> list[Sight]:
        for rank in range(size):
            made.append(Sight(rank, size, LIMIT_S))
            made[-1].open(tmp_path)
            made[-1].beat()
        return made

    yield build
    for each in made:
        each.close()


def place(seen: Sight, step: int, phase: str, *, idle_s: float = 0.0, silent_s: float = 0.0) -> None:
    """Put a rank somewhere: without progress for `idle_s`, without any sign of life for `silent_s` seconds."""
    now = time.time()
    seen.place = (now - idle_s, step, phase)
    text = f"{now - silent_s:.3f} {now - idle_s:.3f} {step} {phase}".ljust(BEAT_BYTES)
    os.pwrite(seen._beat, text.encode(), 0)


def test_a_run_that_goes_on_has_no_failure(ranks):
    one, two = ranks(2)
    place(one, 3, "forward")
    place(two, 3, "update", idle_s=100)  # it waits for the first, which moves
    assert one.look() is None
    assert two.look() is None


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
    sights = ranks(3)
    for each, (step, phase) in zip(sights, places, strict=True):
        place(each, step, phase, idle_s=LIMIT_S + 5)
    for each in sights:
        failure = each.look()
        assert failure is not None
        assert (failure.rank, failure.step, failure.phase, failure.cause) == (late, *places[late], "time limit")
        assert "no progress for 10 s" in failure.message
        assert "the others wait for it" in failure.message


def test_a_frozen_process_is_named_though_it_is_further_on(ranks):
    one, two = ranks(2)
    place(one, 3, "forward", idle_s=LIMIT_S + 5)
    place(two, 3, "update", idle_s=LIMIT_S + 5, silent_s=LIMIT_S)
    failure = one.look()
    assert failure is not None
    assert (failure.rank, failure.phase) == (1, "update")
    assert "its process does not run" in failure.message


def test_a_silent_process_is_named_while_others_move(ranks):
    one, two = ranks(2)
    place(one, 9, "forward")
    silent_s = min(SILENT_S, 3 * LIMIT_S)
    place(two, 3, "update", idle_s=silent_s - 5, silent_s=silent_s - 5)
    assert one.look() is None, "it may be importing something"
    one._beats_due = 0.0
    place(two, 3, "update", idle_s=silent_s + 5, silent_s=silent_s + 5)
    failure = one.look()
    assert failure is not None
    assert (failure.rank, failure.step) == (1, 3)


def test_slow_phases_have_their_own_limit(ranks):
    one, two = ranks(2)
    for idle_s, stuck in ((LIMIT_S + 5, False), (SLOW_PHASES["setup"] + 5, True)):
        place(one, 0, "setup", idle_s=idle_s)
        place(two, 0, "setup", idle_s=idle_s)
        assert (one.look() is not None) == stuck


def test_no_phase_is_slow_without_a_network(ranks, monkeypatch):
    one, two = ranks(2)
    two.interface = "lab0"
    monkeypatch.setattr(sight, "plugged", lambda name: False)
    for each in (one, two):
        place(each, 0, "setup", idle_s=LIMIT_S + 5)
    two.beat()
    assert one.look() is None, "it has only just gone"
    two._out_since = time.time() - LIMIT_S - 1
    two.beat()
    one._beats_due = 0.0
    failure = one.look()
    assert failure is not None
    assert (failure.rank, failure.phase, failure.cause) == (1, "setup", "time limit")
    assert "no link" in failure.message
    monkeypatch.setattr(sight, "plugged", lambda name: True)
    two.beat()
    one._beats_due = 0.0
    assert one.look() is None, "it is in again"


def test_every_slow_phase_is_a_phase():
    assert set(SLOW_PHASES) <= set(ORDER)


def test_a_lone_rank_is_not_told_to_wait_for_others(ranks):
    (one,) = ranks(1)
    place(one, 3, "forward", idle_s=LIMIT_S + 5)
    failure = one.look()
    assert failure is not None
    assert "it is stuck" in failure.message


def test_a_dead_rank_is_found_where_it_was(ranks, child, tmp_path):
    one, two = ranks(2)
    place(two, 5, "backward")
    process = child("sleep", "60")
    two.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    assert one.look() is None
    assert not one.ended()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert one.ended()
    failure = one.look()
    assert failure is not None
    assert (failure.rank, failure.step, failure.phase, failure.cause) == (1, 5, "backward", "peer lost")
    assert "was killed by SIGKILL" in failure.message
    one._peers.clear()
    two.write("alive", {"pid": process.pid, "host": "elsewhere"})  # a number means nothing on another host
    assert one.look() is None


def failure(rank: int, cause: str = "error", when: float = 1.0) -> Failure:
    return Failure(rank, 4, "forward", cause, f"of rank {rank}", "Traceback", when)


def test_what_another_rank_tells_is_found(ranks):
    one, two, _ = ranks(3)
    two.write("failed", asdict(failure(1)))
    assert one.look() == failure(1)


@pytest.mark.parametrize(("cause", "found"), [("error", (1, "peer lost")), ("non-finite", (0, "non-finite"))])
def test_an_engines_own_error_is_of_the_host_whose_cable_is_out(ranks, monkeypatch, cause, found):
    one, two = ranks(2)
    one.write("failed", asdict(failure(0, cause)))
    told = one.look()
    assert told == failure(0, cause)
    monkeypatch.setattr(sight, "plugged", lambda name: name != "lab0")
    two.interface = "lab0"
    two.beat()
    for each in (one, two):
        told = each.look()
        assert told is not None
        assert (told.rank, told.cause) == found
        assert told.message.endswith("of rank 0")
        assert told.traceback == "Traceback"
        assert ("no link" in told.message) == (cause == "error")


def test_an_engines_own_error_is_of_the_process_that_does_not_run(ranks):
    one, two, three = ranks(3)
    one.write("failed", asdict(failure(0)))
    assert one.look() == failure(0)
    place(three, 2, "forward", silent_s=LIMIT_S)
    for each in (one, two):
        told = each.look()
        assert told is not None
        assert (told.rank, told.cause) == (2, "time limit")
        assert "does not run; of rank 0" in told.message
    three.write("failed", asdict(failure(2, when=0.5)))  # it ran, and left
    told = one.look()
    assert told is not None
    assert (told.rank, told.cause) == (2, "error")


def test_a_connection_that_was_closed_is_of_no_process_that_does_not_run(ranks):
    """A process that is stopped closes nothing: that one was killed, on a host whose processes can't be seen from here."""
    one, two = ranks(2)
    told = replace(failure(0), message="RuntimeError: [pair.cc:553] Connection closed by peer [10.77.0.2]:37009.")
    one.write("failed", asdict(told))
    place(two, 0, "setup", silent_s=LIMIT_S)
    assert one.look() == told


def test_the_first_cause_is_the_earliest_that_is_no_consequence(ranks):
    sights = ranks(3)
    for rank, cause, when in ((0, "interrupted", 1.0), (1, "error", 3.0), (2, "non-finite", 2.0)):
        sights[rank].write("failed", asdict(failure(rank, cause, when)))
    assert sights[0].look() == failure(2, "non-finite", 2.0)


def test_whose_launcher_is_gone_goes_before_who_was_then_ended(ranks):
    sights = ranks(2)
    for rank, cause, when in ((0, "interrupted", 1.0), (1, "launcher", 1.5)):
        sights[rank].write("failed", asdict(failure(rank, cause, when)))
    assert sights[0].look() == failure(1, "launcher", 1.5)


def test_a_death_goes_before_what_the_living_then_met(ranks, child):
    one, two, three = ranks(3)
    process = child("true")
    process.wait()
    two.write("alive", {"pid": process.pid, "host": socket.gethostname()})
    three.write("failed", asdict(failure(2)))
    found = one.look()
    assert found is not None
    assert (found.rank, found.cause) == (1, "peer lost")
    two.write("failed", asdict(failure(1, when=0.5)))  # it had said why before it went
    assert one.look() == failure(1, when=0.5)


def test_a_rank_that_sees_no_file_of_a_lower_one_speaks_for_its_host(tmp_path):
    """Ranks of a host whose folder rank 0's host does not share."""
    other = Sight(1, 2, LIMIT_S)
    other.open(tmp_path)
    assert other.lowest()
    other.close()
