"""The progress line, on a terminal and on a pipe."""

import io

import pytest

from bench import progress
from bench.progress import EVERY_S, Progress


class Hands:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hands(monkeypatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(progress, "time", made)
    return made


def go(
    hands: Hands, stream: io.StringIO, seconds: float, steps: int = 10, *, show: bool = True, loss: float | None = 0.5
) -> str:
    """What is written while each step takes `seconds`."""
    told = Progress("ring x2", steps, 8, show=show, stream=stream)
    for _ in range(steps):
        hands.now += seconds
        told.step(None if loss is None else lambda: loss)
    return stream.getvalue()


def test_a_pipe_gets_lines_now_and_then(hands):
    text = go(hands, io.StringIO(), 4 * EVERY_S)
    assert text.count("\n") == len(text.splitlines()) == 10
    assert "\r" not in text
    assert "\x1b" not in text
    assert text.splitlines()[3] == "ring x2  step 4/10  loss 0.5000  4.0 samples/s  12 s left"
    assert text.splitlines()[-1].endswith("  0 s left")


def test_a_pipe_gets_fewer_lines_than_a_terminal(hands):
    piped = go(hands, io.StringIO(), EVERY_S)
    assert [line.split()[3] for line in piped.splitlines()] == ["4/10", "8/10", "10/10"]


def test_a_terminal_gets_one_line_that_is_rewritten(hands):
    text = go(hands, Terminal(), EVERY_S)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.count("\r\x1b[2K") == 10


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_fast_steps_write_the_end_alone(hands, kind):
    text = go(hands, kind(), EVERY_S / 100)
    assert text.count("step ") == 1
    assert "step 10/10" in text


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_ranks_that_do_not_show_are_silent(hands, kind):
    assert go(hands, kind(), 10.0, show=False) == ""


def test_a_loss_that_nobody_waits_for_is_left_out(hands):
    text = go(hands, io.StringIO(), 10.0, steps=1, loss=None)
    assert text == "ring x2  step 1/1  0.8 samples/s  0 s left\n"


class Closed(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_is_gone_ends_no_training(hands):
    assert "step 10/10" in go(hands, Closed(), 4 * EVERY_S)
