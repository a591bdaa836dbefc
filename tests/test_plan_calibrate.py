"""Constants recovered from steps that were made with them, from this machine's own runs, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.config import ConfigError
from bench.plan.calibration import command as calibrate_command
from bench.plan.calibration import linear, network_fit, timed
from bench.plan.calibration.calibrate import Calibration, calibrate
from bench.plan.calibration.channel_fit import Fitted, Point
from bench.plan.calibration.channel_fit import fit as fit_channel
from bench.plan.calibration.timed import Seen
from bench.plan.machines import hardware
from bench.plan.machines.links import Channel, Line
from bench.plan.time import prediction as time
from bench.plan.time.collective_cost import seconds
from bench.plan.time.constants import Constants, Value, load
from bench.plan.time.work import Work, of
from model import cost, preset

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
DRAW = np.random.default_rng(7)
BOX = hardware.machine("epyc-7763", per_node=4)
LINK, SLOW = Channel((Line(3e-4, 2e-9),)), Channel((Line(3e-4, 2e-8),))
ENGINES = ("ddp", "horovod", "zero-1", "fsdp")
TRUE = Constants(
    source="", rate=Value(5e10), contention=Value(0.4), cores=2, channels={"intra": LINK, "inter": LINK},
    host_s={engine: Value(0.01 * at) for at, engine in enumerate(ENGINES)},
    hidden={engine: Value(0.2 * at) for at, engine in enumerate(ENGINES)},
)  # fmt: skip


def work(ranks: int) -> Work:
    price = cost.cost(preset("tiny"), text_tokens=64, answer_tokens=16)
    return of(price, micro_batch=8 // ranks, accumulation=1, real_scatter=False)


def made(engine: str, ranks: int, draw: np.random.Generator | None = None) -> Seen:
    """As measured under TRUE; noise of 2 % where `draw` is given."""
    host = {} if engine == "single" else TRUE.host_s
    found = time.predict(work(ranks), "ddp" if engine == "single" else engine, ranks, BOX, replace(TRUE, host_s=host))
    wobble = math.exp(0.02 * draw.normal()) if draw else 1.0
    return Seen(engine, ranks, 1, work(ranks), found.step_s * wobble, found.exposed_s * wobble, 1)


def rows(draw: np.random.Generator | None = None) -> list[Seen]:
    return [made("single", 1, draw), *(made(engine, ranks, draw) for engine in ENGINES for ranks in (1, 2, 4))]


def channel(link: Channel = LINK) -> Fitted:
    points = [
        Point("all-reduce", "ring", 2, float(s), seconds("all-reduce", "ring", 2, s, link))
        for s in (1e3, 1e5, 1e6, 1e7)
    ]
    return fit_channel(points)


def test_every_constant_is_recovered_from_steps_made_with_it():
    found = calibrate(rows(), cores=2, channels={"intra": channel()}, source="made").constants
    assert found.rate.value == pytest.approx(5e10, rel=1e-6)
    assert found.contention.value == pytest.approx(0.4, rel=1e-5)
    for engine in ENGINES:
        assert found.host_s[engine].value == pytest.approx(TRUE.host_s[engine].value, abs=1e-6)
        assert found.hidden[engine].value == pytest.approx(TRUE.hidden[engine].value, abs=1e-6)
        assert found.call_s[engine].value == pytest.approx(0, abs=1e-9)
    assert found.ranks == (1, 4)


def test_noise_leaves_the_truth_within_four_standard_errors():
    """Over seeds: an error that says nothing of the distance to the truth would fail most of them."""
    off = []
    for seed in range(20):
        found = calibrate(
            rows(np.random.default_rng(seed)), cores=2, channels={"intra": channel()}, source="made"
        ).constants
        off.append(abs(found.rate.value - 5e10) / found.rate.error)
        assert abs(found.contention.value - 0.4) < 4 * found.contention.error
    assert max(off) < 4
    assert np.mean(off) < 1.5


def test_calibrated_on_one_and_two_ranks_four_are_predicted():
    known = [row for row in rows(np.random.default_rng(0)) if row.ranks <= 2]
    found = calibrate(known, cores=2, channels={"intra": channel()}, source="made").constants
    for engine in ENGINES:
        told = time.predict(work(4), engine, 4, BOX, found)
        assert told.step_s == pytest.approx(made(engine, 4).step_s, rel=0.1)
        assert told.beyond


def cut(row: Seen, accumulation: int) -> Seen:
    """The same batch in other micro-batches."""
    batch, cost = row.work.micro_batch * row.work.accumulation, row.work.cost
    padded = {**cost, "forward": {part: flops * 1.0001**accumulation for part, flops in cost["forward"].items()}}
    again = replace(row.work, cost=padded, micro_batch=batch // accumulation, accumulation=accumulation)
    return replace(row, work=again)


def taken(row: Seen, constants: Constants) -> Seen:
    """As long as the constants say."""
    host = {} if row.engine == "single" else constants.host_s
    found = time.parts(
        row.work, "ddp" if row.engine == "single" else row.engine, row.ranks, BOX, replace(constants, host_s=host)
    )
    return replace(row, step_s=found["step"], communication_s=found["step"] - found["compute"] - found["host"])


def test_what_a_micro_batch_costs_whatever_its_size_is_told_by_runs_that_cut_their_batch_differently():
    true = replace(TRUE, pass_s=Value(0.02))
    alike = [taken(cut(row, 2), true) for row in rows()]
    smaller = [taken(cut(made("single", 1), accumulation), true) for accumulation in (4, 8)]
    found = calibrate([*alike, *smaller], cores=2, channels={"intra": channel()}, source="made")
    assert found.constants.pass_s.value == pytest.approx(0.02, rel=1e-5)
    assert found.constants.rate.value == pytest.approx(5e10, rel=1e-5)
    assert found.constants.contention.value == pytest.approx(0.4, rel=1e-4)
    assert found.constants.host_s["fsdp"].value == pytest.approx(TRUE.host_s["fsdp"].value, abs=1e-6)
    assert "pass_s" not in " ".join(found.notes)
    without = calibrate(alike, cores=2, channels={"intra": channel()}, source="made")
    assert without.constants.pass_s.value == 0
    assert "pass_s: all runs of one rank cut their batch alike" in " ".join(without.notes)


def test_a_row_whose_compute_was_too_short_to_hide_behind_says_nothing_of_what_is_hidden():
    """ddp hides 0.6 where backward is long enough; with one sample a step it is not."""
    true = replace(TRUE, hidden={**TRUE.hidden, "ddp": Value(0.6)})
    rest = [row for row in rows() if row.engine != "ddp"]
    mine = []
    for ranks, samples in ((1, 8), (2, 16), (2, 1)):
        load = replace(work(1), micro_batch=samples)
        told = time.predict(load, "ddp", ranks, BOX, replace(true, channels={"intra": SLOW}))
        mine.append(Seen("ddp", ranks, 1, load, told.step_s, told.exposed_s, 1))
    assert mine[2].communication_s > 1.1 * mine[1].communication_s
    found = calibrate([*rest, *mine], cores=2, channels={"intra": channel(SLOW)}, source="made").constants
    assert found.hidden["ddp"].value == pytest.approx(0.6, abs=1e-6)


def test_collectives_that_contradict_the_runs_are_told():
    """A channel a hundred times slower than what the runs exchanged over: no compute is long enough to hide the difference."""
    crawl = channel(Channel((Line(3e-2, 2e-7),)))
    notes = calibrate(rows(), cores=2, channels={"intra": crawl}, source="made").notes
    assert "faster than the measured collectives allow" in notes[-1]
    fine = calibrate(rows(), cores=2, channels={"intra": channel()}, source="made").notes
    assert "faster than" not in " ".join(fine)


def test_an_engine_that_takes_longer_than_its_channel_has_calls_that_nothing_hides():
    slow = [
        replace(row, communication_s=row.communication_s + 0.05, step_s=row.step_s + 0.05 * (row.ranks > 1))
        for row in rows()
    ]
    found = calibrate(slow, cores=2, channels={"intra": channel()}, source="made").constants
    assert found.hidden["ddp"].value == 0
    assert found.call_s["ddp"].value > 0.01


def test_without_collectives_what_shows_is_given_to_alpha_and_beta_and_nothing_is_called_hidden():
    found = calibrate(rows(), cores=2, source="made")
    assert all(value.value == 0 for value in found.constants.hidden.values())
    assert "can't be told without" in found.notes[-1]
    assert set(found.constants.channels) == {"intra", "inter"}


def test_a_row_whose_communication_does_not_show_is_a_row_like_others():
    few = [row for row in rows() if row.ranks < 4]
    quiet = [replace(row, communication_s=0.0) if row.engine == "zero-1" else row for row in few]
    found = calibrate(quiet, cores=2, source="test").constants
    alpha_beta = found.channels["intra"].lines[0]
    assert alpha_beta.beta > 0
    assert found.call_s["zero-1"].value == 0.0


def test_runs_that_did_not_measure_their_communication_are_told():
    silent = [replace(row, communication_s=None if row.ranks > 1 else 0.0) for row in rows()]
    found = calibrate(silent, cores=2, source="made")
    assert any("--exposed-steps" in note for note in found.notes)
    assert any("contention" in note for note in found.notes)
    assert found.constants.hidden == {}


@pytest.mark.parametrize(
    ("some", "said"),
    [
        ([], "no run of one rank"),
        ([made("ddp", 2)], "no run of one rank"),
        ([made("ddp", 1)], "can't tell 2 constants apart"),
    ],
)
def test_too_few_runs_are_told(some, said):
    with pytest.raises(ConfigError, match=said):
        calibrate(some, cores=2, source="made")


def test_columns_that_are_one_another_can_not_be_told_apart():
    with pytest.raises(ConfigError, match="apart"):
        linear.solve(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), np.array([1.0, 2.0, 3.0]))


# --- hosts over links of known bandwidths

GBIT = 1.25e8  # bytes a second
LINKED = replace(
    TRUE, channels={}, network_share=Value(0.95), latency_s=Value(1e-4), byte_s=Value(1.5e-9), call_s={e: Value(1e-3) for e in ENGINES}
)  # fmt: skip


def hosted(
    engine: str, hosts: int, bandwidth: float | None, draw: np.random.Generator, true: Constants = LINKED
) -> Seen:
    """A rank a host, on two shared cores; compute and communication each with 2 % of noise."""
    row = Seen(engine, hosts, hosts, work(hosts), 1.0, 0.0, 1, bandwidth)
    constants = replace(true, host_s={}) if engine == "single" else true
    found = time.parts(row.work, "ddp" if engine == "single" else engine, hosts, network_fit.box(row), constants)
    own, wobble = found["compute"] + found["host"], np.exp(0.02 * draw.normal(size=2))
    comm = (found["step"] - own) * wobble[1]
    return replace(row, step_s=own * wobble[0] + comm, communication_s=comm)


@pytest.mark.parametrize("seed", range(2))
def test_calibrated_on_two_hosts_and_two_links_others_are_predicted(seed):
    """Two hosts at 1 and 10 gbit are told; four hosts, a tenth of the bandwidth and no limit are not: 10 % median, 20 % worst."""
    draw = np.random.default_rng(seed)
    links = (0.1 * GBIT, GBIT, 10 * GBIT, math.inf)
    every = [hosted("single", 1, None, draw)]
    every += [hosted(engine, hosts, link, draw) for engine in ENGINES for hosts in (2, 4) for link in links]
    fitted = calibrate_command.chosen(every, 2, "1gbit, 10gbit")
    assert len(fitted) == 1 + 2 * len(ENGINES)
    found = calibrate(fitted, cores=2, source="made")
    assert "taken to have none" in " ".join(found.notes)
    for engine in ENGINES:
        others = [row for row in every if row.engine == engine and row not in fitted]
        errors = [abs(calibrate_command.step(row, found.constants) / row.step_s - 1) for row in others]
        assert len(errors) == 6
        assert np.median(errors) < 0.1
        assert max(errors) < 0.2
    assert len(calibrate_command.held_out([row for row in every if row not in fitted], found.constants)) == len(ENGINES)


def test_what_an_engine_hides_is_not_left_to_the_noise_of_two_rows(monkeypatch):
    """Two rows that show nearly the same, by noise: alone they would mean that all is hidden."""
    draw = np.random.default_rng(5)
    true = replace(LINKED, hidden=dict.fromkeys(ENGINES, Value(0.1)))
    told = [hosted("single", 1, None, draw, true)]
    told += [hosted(engine, 2, link, draw, true) for engine in ENGINES for link in (GBIT, 10 * GBIT)]
    for at, row in enumerate(told):
        if row.engine == "horovod":
            told[at] = replace(row, communication_s=row.communication_s * (0.6 if row.bandwidth == GBIT else 2.0))
    pooled = calibrate(told, cores=2, source="made").constants.hidden["horovod"].value
    monkeypatch.setattr(network_fit, "ALIKE", 1e3)
    alone = calibrate(told, cores=2, source="made").constants.hidden["horovod"].value
    assert alone > 0.9
    assert pooled < 0.7


def test_micro_batches_that_cost_something_are_predicted_where_there_are_smaller_ones():
    """Four hosts on two cores take turns with micro-batches of half the size: each costs its calls anew."""
    draw, true = np.random.default_rng(3), replace(LINKED, pass_s=Value(0.03))
    every = [hosted(engine, hosts, 10 * GBIT, draw, true) for engine in ENGINES for hosts in (2, 4)]
    every += [hosted(engine, 2, GBIT, draw, true) for engine in ENGINES]
    lone = hosted("single", 1, None, draw, true)
    known = [row for row in every if row.hosts == 2]
    errors = {}
    for name, ones in {"one": [lone], "several": [lone, *(taken(cut(lone, many), true) for many in (2, 4, 8))]}.items():
        found = calibrate([*known, *ones], cores=2, source="made").constants
        others = [row for row in every if row.hosts == 4]
        errors[name] = [calibrate_command.step(row, found) / row.step_s - 1 for row in others]
    assert np.median(errors["one"]) < -0.1, "too fast"
    assert max(map(abs, errors["several"])) < 0.05


def test_a_laboratorys_links_are_read_from_the_record():
    record = json.loads(next(REFERENCE.glob("*ddp_np2*.json")).read_text())
    for bits, speed in ((10**9, GBIT), (None, math.inf)):
        record["world"]["hosts"], record["lab"] = ["h1", "h2"], {"rate_bits": bits, "hosts": 2, "link": "a"}
        (row,) = timed.seen([record])
        assert (row.hosts, row.bandwidth) == (2, speed)
    slow, fast = (json.loads(json.dumps(record)) for _ in range(2))
    slow["lab"]["rate_bits"] = 10**8
    assert len(timed.seen([slow, fast])) == 2


def test_runs_that_a_report_does_not_pool_are_rows_of_their_own():
    record, other, later, unbound = (json.loads(next(REFERENCE.glob("*ring_np2*.json")).read_text()) for _ in range(4))
    other["config"]["engine"]["bucket_mb"] = 4.0
    unbound["config"]["measure"]["bind"] = False
    later["resumed"] = {"step": 3}
    assert [row.runs for row in timed.seen([record, record])] == [2]
    assert sorted(row.work.bucket_mb for row in timed.seen([record, other, later])) == [4.0, 25.0]
    assert [row.runs for row in timed.seen([record, unbound])] == [1, 1]


def test_links_that_nobody_ran_over_are_told():
    rows = [hosted("single", 1, None, DRAW), hosted("ddp", 2, GBIT, DRAW)]
    with pytest.raises(ConfigError, match="no run over 2 gbit"):
        calibrate_command.chosen(rows, None, "2gbit")
    with pytest.raises(ConfigError, match="type links such as"):
        calibrate_command.chosen(rows, None, "fast")
    assert calibrate_command.chosen(rows, 1, None) == rows[:1]


# --- this machine's runs


def ours() -> Calibration:
    runs, files = timed.read([REFERENCE])
    assert files == []
    return calibrate(timed.seen(runs), cores=2, source="reference")


def test_our_own_runs_are_fitted():
    found = ours()
    assert len(found.rows) == 17
    assert 1e9 < found.constants.rate.value < 1e12
    assert found.constants.rate.error > 0
    assert found.constants.host_s["zero-3"].value > 5 * found.constants.host_s["ddp"].value
    assert found.constants.engines == {"ddp", "fsdp", "horovod", "ring", "zero-0", "zero-1", "zero-2", "zero-3"}


def test_the_command_prints_every_constant_with_its_error_and_writes_them(tmp_path, capsys):
    target = tmp_path / "c.toml"
    assert calibrate_command.main([str(REFERENCE), "--cores", "2", "--output", str(target)]) == 0
    said = capsys.readouterr().out
    for name in (
        "rate of a rank",
        "contention",
        "host_s zero-3",
        "call_s ddp",
        "hidden fsdp",
        "alpha intra",
        "beta inter",
    ):
        assert name in said
    assert load(target)["here"].rate.value == pytest.approx(ours().constants.rate.value, rel=1e-4)


def test_collectives_are_read_from_their_record(tmp_path):
    raw = [
        {"operation": "all_reduce", "library": library, "bytes": size, "wrong": wrong,
         "rounds": [{"ns": [[1000, 3000], [2000, 1000]]}, {"ns": [[5000], [4000]]}]}
        for library, size, wrong in (("gloo", 8, 0), ("gloo", 16, 3), ("mpi", 8, 0))
    ]  # fmt: skip
    record = {"world": {"ranks": 2}, "rows": [*raw, {**raw[0], "rounds": []}, {**raw[0], "operation": "broadcast"}]}
    assert timed.points([record], "gloo") == [Point("all-reduce", "ring", 2, 8.0, 3e-6)]
    with pytest.raises(ConfigError, match="there are: gloo, mpi"):
        timed.points([record], "nccl")
    (tmp_path / "a.collectives.json").write_text(json.dumps(record))
    runs, files = timed.read([REFERENCE, tmp_path / "a.collectives.json"])
    assert len(runs) == 17
    assert len(files) == 1


def measured(operation: str, library: str, ranks: int, size: int) -> dict:
    row = {"operation": operation, "library": library, "bytes": size, "wrong": 0, "rounds": [{"ns": [[1000], [3000]]}]}
    return {"world": {"ranks": ranks}, "rows": [row]}


@pytest.mark.parametrize(
    ("library", "kind"), [("gloo", "all-reduce"), ("deepspeed", "all-reduce"), ("mpi", "reduce-scatter")]
)
def test_a_reduce_scatter_that_is_an_all_reduce_is_fitted_as_one(library, kind):
    assert timed.points([measured("reduce_scatter", library, 2, 8)], library) == [Point(kind, "ring", 2, 8.0, 3e-6)]


def test_of_several_measurements_of_collectives_all_count(tmp_path, monkeypatch):
    files = [
        measured("all_reduce", "gloo", 2, 8),
        measured("all_reduce", "gloo", 4, 16),
        measured("all_reduce", "mpi", 2, 8),
    ]
    for at, record in enumerate(files):
        (tmp_path / f"{at}.collectives.json").write_text(json.dumps(record))
    fitted = []
    monkeypatch.setattr(
        calibrate_command.channel_fit, "fit", lambda points, regimes: fitted.extend(points) or channel()
    )
    assert calibrate_command.main([str(REFERENCE), str(tmp_path), "--output", str(tmp_path / "c.toml")]) == 0
    assert [(point.ranks, point.size) for point in fitted] == [(2, 8.0), (4, 16.0)]


def test_folders_without_records_are_told(tmp_path):
    with pytest.raises(ConfigError, match="no records of runs"):
        timed.read([tmp_path])
    with pytest.raises(ConfigError, match="is not there"):
        timed.read([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="--cores is -1"):
        calibrate_command.main([str(REFERENCE), "--cores", "-1"])
