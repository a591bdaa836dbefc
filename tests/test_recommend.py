"""The engine to take, where curves cross, and what a budget buys."""

import pytest

from bench.config import ConfigError
from bench.plan import budget, outlook
from bench.plan.budget import Budget
from bench.plan.recommend import Crossing, Option, best, cost, crossings, energy, sentence
from bench.plan.time.constants import Constants
from bench.plan.time.prediction import Prediction

GIB = 2**30


def step(engine: str, ranks: int, seconds: float, **settings: object) -> Prediction:
    return Prediction(**{
        "engine": engine, "ranks": ranks, "step_s": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds, "compute_s": seconds,
        "communication_s": 0.0, "exposed_s": 0.0, "waiting_s": 0.0, "host_s": 0.0, "samples": 8 * ranks, "why": "bound by compute",
        **settings,
    })  # fmt: skip


def option(engine: str, seconds: float, *, ranks: int = 8, memory: float = 10, **settings: object) -> Option:
    return Option(step(engine, ranks, seconds, **settings), memory * GIB, 40 * GIB)


def test_the_fastest_that_fits_is_taken():
    known = [option("ddp", 0.8, memory=50), option("zero-2", 1.2), option("zero-3", 1.0)]
    assert best(known).time.engine == "zero-3"
    assert best([option("ddp", 1.0, memory=50)]) is None


def test_of_those_that_can_not_be_told_apart_the_simplest_is_taken():
    assert best([option("zero-3", 1.0), option("ddp", 1.02)]).time.engine == "ddp"
    assert best([option("zero-3", 1.0), option("ddp", 1.04)]).time.engine == "zero-3"


def test_the_sentence_gives_the_reason():
    said = sentence([option("ddp", 0.8, memory=50), option("zero-2", 1.5), option("zero-3", 1.0)])
    assert said.startswith("on 8 ranks take zero-3: bound by compute")
    assert "1.50 times the throughput of zero-2, surely" in said
    assert "ddp would not fit" in said
    close = sentence([option("fsdp", 1.0), option("zero-3", 1.1)])
    assert "within the interval" in close
    assert "beyond what was calibrated: far" in sentence([option("ddp", 1.0, beyond=("far",))])
    assert "nothing else fits 40 GiB" in sentence([option("zero-3", 1.0), option("zero-2", 1.0, memory=50)])


@pytest.mark.parametrize(("memory", "crosses"), [(50, False), (30, True)])
def test_engines_cross_only_where_both_fit(memory, crosses, monkeypatch):
    known = [option("ddp", 1.0, memory=memory), option("zero-3", 1.2)]
    known += [option("ddp", 1.5, ranks=64), option("zero-3", 1.2, ranks=64)]
    monkeypatch.setattr(outlook, "options", lambda made: known)
    said = outlook.lines([], Constants(source="made"), None, None)
    assert any("ddp is faster up to 8 ranks" in line for line in said) == crosses


def test_where_nothing_fits_the_sentence_says_how_much_is_missing():
    said = sentence([option("ddp", 0.8, memory=80), option("zero-3", 1.0, memory=50)])
    assert "nothing fits: zero-3 comes nearest with 50.0 of 40.0 GiB" in said


def test_curves_cross_where_their_order_turns():
    fast_small = [step("ddp", ranks, 1.0 + ranks / 64) for ranks in (8, 64, 512)]
    fast_large = [step("zero-1", ranks, 1.5 + ranks / 512) for ranks in (8, 64, 512)]
    assert crossings({"ddp": fast_small, "zero-1": fast_large}) == [Crossing("ddp", "zero-1", 8, 64)]
    assert "ddp is faster up to 8 ranks, zero-1 from 64 on" in str(Crossing("ddp", "zero-1", 8, 64))


def test_curves_that_touch_or_lie_on_each_other_do_not_cross():
    one = [step("ddp", ranks, 1.0) for ranks in (8, 64, 512)]
    near = [step("horovod", ranks, seconds) for ranks, seconds in ((8, 1.01), (64, 0.99), (512, 1.02))]
    touch = [step("ring", ranks, seconds) for ranks, seconds in ((8, 1.2), (64, 0.99), (512, 1.2))]
    assert crossings({"ddp": one, "horovod": near, "ring": touch}) == []


def test_a_crossing_is_found_across_a_tie():
    one = [step("ddp", ranks, 1.0) for ranks in (8, 64, 512)]
    other = [step("ring", ranks, seconds) for ranks, seconds in ((8, 1.2), (64, 1.0), (512, 0.8))]
    assert crossings({"ddp": one, "ring": other}) == [Crossing("ddp", "ring", 8, 512)]


def test_cost_and_energy():
    each = step("ddp", 8, 0.5)  # 64 samples
    assert cost(each, 2.0) == pytest.approx(8 * 2.0 * 0.5 / 3600 / 64 * 1e6)
    assert energy(each, 400) == pytest.approx(8 * 400 * 0.5 / 64)


# --- budgets


@pytest.mark.parametrize(
    ("text", "money", "hours"),
    [
        ("$500, 24 h", 500, 24),
        ("24h", None, 24),
        ("$500", 500, None),
        ("500 EUR, 2 days", 500, 48),
        ("90 min", None, 1.5),
        ("2_000", 2000, None),
    ],
)
def test_budgets_are_read(text, money, hours):
    assert budget.budget(text) == Budget(money, hours)


@pytest.mark.parametrize("text", ["", "a lot", "$0", "-5 h", "24 h, 12 h", "$5, $6", "500 apples", "1.2.3 h"])
def test_what_is_no_budget_is_told(text):
    with pytest.raises(ConfigError, match="--budget"):
        budget.budget(text)


def test_money_or_time_runs_out_first():
    known = [option("ddp", 1.0), option("zero-3", 1.2, ranks=64)]
    rich = budget.buys(known, Budget(money=1e6, hours=1.0), 2.0)
    assert (rich.option.time.ranks, rich.limit, rich.hours) == (64, "time", 1.0)
    assert rich.samples == 3000 * 8 * 64
    poor = budget.buys(known, Budget(money=16.0, hours=24.0), 2.0)
    assert (poor.option.time.ranks, poor.limit) == (8, "money")
    assert poor.cost == pytest.approx(16.0)
    assert "money runs out first" in budget.said(poor, Budget(money=16.0, hours=24.0))


def test_only_what_fits_is_bought():
    known = [option("ddp", 0.5, memory=50), option("zero-3", 1.2)]
    assert budget.buys(known, Budget(hours=1.0), None).option.time.engine == "zero-3"
    assert budget.buys(known[:1], Budget(hours=1.0), None) is None
    assert "nothing fits" in budget.said(None, Budget(hours=1.0))


def test_money_needs_a_price():
    with pytest.raises(ConfigError, match="--price-per-hour"):
        budget.buys([option("ddp", 1.0)], Budget(money=5.0), None)
