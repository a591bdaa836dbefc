"""What is shown of the ring is what the ring did."""

from xml.etree import ElementTree

import pytest

from bench.config import ConfigError
from bench.explain import command
from bench.explain.animation import PAUSE_S, STEP_S, draw
from bench.explain.trace import name, trace

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("ranks", [2, 3, 4, 16])
def test_the_trace_is_that_of_the_schedule(ranks):
    seen = trace(ranks)
    assert len(seen.steps) == 2 * (ranks - 1) == len(seen.states) - 1
    for step, moves in enumerate(seen.steps):
        for move in moves:
            assert move.to == (move.rank + 1) % ranks
            assert move.sent == (move.rank - step) % ranks
            held = seen.states[step][move.to][move.sent]
            after = seen.states[step + 1][move.to][move.sent]
            assert after == (held | move.inside if seen.added(step) else move.inside)
    assert all(inside == frozenset(range(ranks)) for chunks in seen.states[-1] for inside in chunks)
    assert list(seen.sent_values) == [2 * (ranks - 1)] * ranks


def test_partial_sums_are_named():
    assert name(frozenset({2, 0}), 3) == "ac3"


@pytest.mark.parametrize("ranks", [2, 4, 9])
def test_the_animation_shows_every_move_and_every_state_once(ranks):
    seen = trace(ranks)
    root = ElementTree.fromstring(draw(seen))
    moved = root.findall(f".//{SVG}animateTransform")
    assert len(moved) == len(seen.steps) * ranks
    total = len(seen.steps) * STEP_S + PAUSE_S
    for each in root.iter(f"{SVG}animate"):
        times = [float(time) for time in each.attrib["keyTimes"].split(";")]
        assert times[0] == 0
        assert times == sorted(times)
        assert times[-1] < 1
        assert each.attrib["dur"] == f"{total:g}s"
        assert len(times) == len(each.attrib["values"].split(";"))
    finished = [text.text for text in root.iter(f"{SVG}text") if text.text == name(frozenset(range(ranks)), 0)]
    assert len(finished) == ranks + (ranks - 1)  # in every card, and on its way N-1 times


def test_the_command_writes_both(tmp_path, capsys):
    path = tmp_path / "ring.svg"
    assert command.main(["--ranks", "3", "--svg", str(path)]) == 0
    said = capsys.readouterr().out
    assert "step 4, share-only" in said
    assert "[bc1]>" in said
    assert "1.33 S" in said
    assert ElementTree.fromstring(path.read_text()).tag == f"{SVG}svg"


@pytest.mark.parametrize("arguments", [["--ranks", "1"], ["--ranks", "17"], ["--svg", "/no/folder/ring.svg"]])
def test_what_can_not_be_shown_is_refused(arguments):
    with pytest.raises(ConfigError, match=r"2 to 16|give another path"):
        command.main(arguments)
