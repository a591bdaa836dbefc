"""The network experiment: its order, what it goes on with, and what it says of records whose answer is known."""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import comparison, matrix
from bench.comparison import Comparison
from bench.lab import experiment, network_figure, network_table, outlook
from bench.lab.link import Link
from bench.lab.network import Network, chosen_of
from bench.lab.rights import LabError

RATES = (1e8, 1e9, 1e10)


def record(label: str, rate: float | None, step_s: float, *, hosts: int = 2, shows: float = 0.0) -> dict[str, Any]:
    """What a run over hosts leaves, as far as it is read here; its steps differ by a hundredth of a millisecond."""
    steps = [step_s + k * 1e-5 for k in (-1, 0, 1)]
    kinds = {"with_exchange": {"step": [0.1 + shows] * 8}, "without_exchange": {"step": [0.1] * 8}}
    carried = {"payload_bytes": 1_000_000.0, "sent_bytes": 1_002_000.0}
    link = Link(rate)
    return {
        "status": "done",
        "engine": {"label": label},
        "config": {"engine": {"backend": label, "zero_stage": 2}, "training": {"accumulation": 1}},
        "experiment": "e",
        "run_id": label,
        "world": {"size": hosts},
        "workload": None,
        "lab": {"rate_bits": rate, "payload_rate_bits": link.payload_rate(1500), "shared_cores": hosts > 2},
        "ranks": [{"step_s": steps} for _ in range(hosts)],
        "exposed": {"ranks": [kinds] * hosts},
        "traffic": {"interface": {"hosts": {"host1": carried, "host2": carried}}},
    }


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[outlook.Point]:
    """`slim` takes 1, 0.4, 0.4 s on the three links, `wide` 4, 0.5, 0.1 s: wide is shorter above some 1.2 Gbit/s."""
    monkeypatch.setattr(outlook, "verify", lambda record, known: type("V", (), {"status": "verified"}))
    monkeypatch.setattr(outlook, "plain", lambda records: {})
    steps = {"slim": (1.0, 0.4, 0.4), "wide": (4.0, 0.5, 0.1)}
    records = [record(label, rate, s) for label, all_s in steps.items() for rate, s in zip(RATES, all_s, strict=True)]
    return outlook.points([*records, record("slim", None, 0.3), {**records[0], "lab": None}])


def test_engines_cross_where_their_lines_do(found: list[outlook.Point]) -> None:
    made = outlook.lines(found, 2)
    ((rate, seconds),) = outlook.crossings(made["slim"], made["wide"])
    share = math.log(0.5 / 0.4) / (math.log(0.5 / 0.4) + math.log(0.4 / 0.1))
    assert rate == pytest.approx(1e9 * 10**share)
    assert seconds == pytest.approx(0.4)
    assert outlook.at(made["wide"], rate) == pytest.approx(0.4)
    assert outlook.best(made) == [("slim", 1e8, pytest.approx(rate)), ("wide", pytest.approx(rate), 1e10)]
    assert outlook.sentence(found, 2) == (
        "Over 2 hosts, by the length of a step: from 100 Mbit/s to 1.38 Gbit/s use slim; from 1.38 Gbit/s to 10 Gbit/s use wide."
    )


def test_a_link_that_is_not_shaped_is_a_point_and_no_place_on_a_line(found: list[outlook.Point]) -> None:
    (unshaped,) = (point for point in found if point.rate is None)
    assert (unshaped.label, unshaped.step.median, unshaped.busy_s, unshaped.hidden_s) == ("slim", 0.3, None, None)
    assert len(found) == 7


def test_engines_that_noise_does_not_tell_apart_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "verify", lambda record, known: type("V", (), {"status": "verified"}))
    monkeypatch.setattr(outlook, "plain", lambda records: {})
    pairs = [
        record(label, rate, 0.2 + plus)
        for rate in RATES
        for label, plus in (("one", 0.0), ("same", 5e-6), ("far", 0.1))
    ]
    said = outlook.sentence(outlook.points(pairs), 2)
    assert "from 100 Mbit/s to 10 Gbit/s use one (not told apart from it: same)" in said


def made_of(
    monkeypatch: pytest.MonkeyPatch, steps: dict[str, dict[float, float]], void: str = ""
) -> list[outlook.Point]:
    """Points of engines on links, seconds of a step each; `void`: the engine whose answers are wrong on the fastest link."""
    monkeypatch.setattr(outlook, "plain", lambda records: {})

    def verdict(record: dict[str, Any], known: Any) -> type:
        wrong = record["engine"]["label"] == void and record["lab"]["rate_bits"] == RATES[-1]
        return type("V", (), {"status": "void" if wrong else "verified"})

    monkeypatch.setattr(outlook, "verify", verdict)
    return outlook.points([record(label, rate, s) for label, line in steps.items() for rate, s in line.items()])


def test_engines_with_no_link_in_common_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = made_of(monkeypatch, {"one": {1e9: 0.2}, "two": {1e10: 0.1}})
    assert outlook.best(outlook.lines(apart, 2)) == []
    assert outlook.sentence(apart, 2) == (
        "Over 2 hosts no engine has a valid run on two neighbouring links, so none is named. "
        "Left out next to a link that they have no valid run on: one at 10 Gbit/s; two at 1 Gbit/s."
    )


def test_an_engine_that_lacks_a_link_counts_between_its_others_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"fast": dict.fromkeys(RATES, 0.1), "slow": dict.fromkeys(RATES, 0.2)}
    partial = made_of(monkeypatch, steps, void="fast")
    assert outlook.best(outlook.lines(partial, 2)) == [("fast", 1e8, 1e9), ("slow", 1e9, 1e10)]
    assert outlook.turns(outlook.lines(partial, 2)) == []  # nobody was seen to become the shorter one
    assert outlook.sentence(partial, 2).endswith(
        "from 100 Mbit/s to 1 Gbit/s use fast; from 1 Gbit/s to 10 Gbit/s use slow. "
        "Left out next to a link that they have no valid run on: fast at 10 Gbit/s."
    )


def test_where_no_link_was_measured_the_two_around_it_tell_engines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    near = made_of(monkeypatch, {
        "a": {1e8: 1.0, 1e9: 0.6}, "b": {1e8: 1.000005, 1e9: 0.4}, "c": {1e8: 2.0, 1e9: 0.399995},
    })  # fmt: skip
    made = outlook.lines(near, 2)
    assert outlook.level(made, "b", 2e8, 5e8) == []  # each of the others is far from it on one of the two links
    near = made_of(monkeypatch, {
        "a": {1e8: 1.0, 1e9: 0.400005}, "b": {1e8: 1.000005, 1e9: 0.4},
    })  # fmt: skip
    assert outlook.level(outlook.lines(near, 2), "b", 2e8, 5e8) == ["a"]


def test_what_is_hidden_is_what_the_link_needs_less_what_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "verify", lambda record, known: type("V", (), {"status": "verified"}))
    monkeypatch.setattr(outlook, "plain", lambda records: {})
    point, shared = outlook.points([record("a", 1e8, 1.0, shows=0.02), record("b", 1e8, 1.0, hosts=4, shows=0.9)])
    busy = 1_000_000 * 8 / (1e8 * 1448 / 1514)
    assert point.busy_s == pytest.approx(busy)
    assert point.hidden_s == pytest.approx(busy - 0.02)
    assert shared.hidden_s == 0
    table = network_table.markdown([point, shared], "x")
    assert "| 2 | 100mbit | a | 1000.0 [" in table
    assert "| 4\\* | 100mbit | b |" in table
    assert [point.paper, shared.paper] == [None, None]  # these records do not hold the model's bytes
    told = dataclasses.replace(point, label="horovod", paper=2.0 * 2**20, expected=3.0 * 2**20, moved=3.5 * 2**20)
    assert "| 2.000 | 3.000 | 3.500 | 1.167 | verified |" in network_table.markdown([told], "x")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(network_table.terminal([told]))
    for cell in network_table.cells(told):
        assert cell in console.export_text(clear=False)
    assert "Hosts shared cores" in table


def test_the_figure_has_a_panel_for_each_number_of_hosts_and_marks_crossings(found: list[outlook.Point]) -> None:
    pytest.importorskip("matplotlib")
    figure = network_figure.draw([*found, *(dataclasses.replace(each, hosts=4) for each in found)], "made up")
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["1.38 Gbit/s"], ["1.38 Gbit/s"]]
    assert [axes.get_title(loc="left")[:7] for axes in figure.axes] == ["2 hosts", "4 hosts"]


@pytest.mark.parametrize(("seconds", "shown"), [(0.55, "6789"), (30.0, "")])
def test_labels_of_a_long_axis_leave_each_other_room(found: list[outlook.Point], seconds: float, shown: str) -> None:
    """6 to 9 times a power of ten have one where the axis is short."""
    pytest.importorskip("matplotlib")
    first = next(each for each in found if each.step.median == 1.0)
    step = {"low": seconds, "median": seconds, "high": seconds}
    last = dataclasses.replace(first, label="fsdp", step=dataclasses.replace(first.step, **step))
    (axes,) = network_figure.draw([first, last], "made up").axes
    axes.figure.canvas.draw()
    labels = {tick.get_text()[-1] for tick in axes.get_yticklabels(which="both") if tick.get_text()}
    assert labels & set("6789") == set(shown)
    assert "1" in labels


def test_the_plain_process_is_first_and_rounds_are_shuffled_each() -> None:
    chosen = dataclasses.replace(matrix.read("network"), engines=["single", "ddp", "ring"], ranks=[2, 4], repeats=2)
    links = ["100mbit", "none"]
    plan = experiment.plan(chosen, links, seed=3)
    assert [str(cell) for cell in plan] == [str(cell) for cell in experiment.plan(chosen, links, seed=3)]
    assert (plan[0].label, experiment.link_of(plan[0])) == ("single", None)
    assert [str(cell) for cell in plan[1:3]] == ["single x1, micro-batch 2", "single x1, micro-batch 1"]
    assert [cell.config.micro_batch(1) for cell in plan[:3]] == [4, 2, 1]
    assert len({cell.config.experiment_id() for cell in plan}) == 1
    assert "single" not in [cell.label for cell in plan[3:]]
    first, second = ([str(cell) for cell in plan if cell.repeat == repeat] for repeat in (0, 1))
    assert len(second) == 8
    assert sorted(first[3:]) == sorted(second)
    assert first[3:] != second
    assert {str(experiment.link_of(cell)) for cell in plan[3:]} == set(links)


def test_the_same_command_goes_on_and_another_does_not(tmp_path: Path) -> None:
    chosen, links = chosen_of(Network(hosts="2", engines="ddp", links="1gbit,none"))
    kept = Comparison(
        name="20260101T000000Z_network",
        matrix=chosen.to_dict(),
        seed=1,
        started="",
        order=[],
        unavailable={},
        links=links,
    )
    kept.write(tmp_path)
    again = experiment.unfinished(tmp_path, *chosen_of(Network(hosts="2", engines="ddp", links="1gbit,none")))
    assert again is not None
    assert again.name == kept.name
    assert experiment.unfinished(tmp_path, *chosen_of(Network(hosts="2", engines="ddp", links="1gbit"))) is None
    assert experiment.unfinished(tmp_path, *chosen_of(Network(hosts="2", engines="ring", links="1gbit,none"))) is None
    kept.end("complete")
    kept.write(tmp_path)
    assert experiment.unfinished(tmp_path, chosen, links) is None
    assert comparison.read(tmp_path / f"{kept.name}{comparison.SUFFIX}").links == links


@pytest.mark.parametrize(("flags", "says"), [({"hosts": "1,2"}, "from 2"), ({"links": "1gbit,1000mbit"}, "one twice")])
def test_flags_that_make_no_experiment_are_refused(flags: dict[str, str], says: str) -> None:
    with pytest.raises(LabError, match=says):
        chosen_of(Network(**flags))
