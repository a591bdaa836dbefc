"""Which engine is faster: what may be said of two samples, and how often that is wrong on noise that is known."""

import itertools

import numpy as np
import pytest

from bench import pairwise, ranktest
from bench.pairwise import Pair, Sample
from tests import made
from tests.noise import BUSY, QUIET, Noise, comparison

REPEATS = 5  # of a comparison of two to six engines; four is the least for two
TRIALS = 200


def samples(records: list[dict]) -> dict[str, Sample]:
    labels = dict.fromkeys(record["engine"]["label"] for record in records)
    return {label: pairwise.times([r for r in records if r["engine"]["label"] == label]) for label in labels}


def compared(seconds: dict[str, float], *, noise: Noise, seed: int, repeats: int = REPEATS) -> list[Pair]:
    every = samples(comparison(seconds, repeats=repeats, noise=noise, seed=seed))
    return pairwise.family([(every[one], every[other]) for one, other in itertools.combinations(sorted(every), 2)])


def sample(*medians: float, label: str = "a", spread: float = 0.0, started: bool = False) -> Sample:
    """One run a number, of nine steps: the median between others that are `spread` away."""
    runs = np.array([[each - spread] * 4 + [each] + [each + spread] * 4 for each in medians])
    when = tuple(f"{2 * at:02d}{label}" for at in range(len(medians))) if started else ()
    return Sample(label=label, runs=runs, started=when)


# --- how often it is wrong


@pytest.mark.parametrize("noise", [QUIET, BUSY], ids=["quiet", "busy"])
def test_one_engine_under_two_names_is_called_different_in_at_most_5_percent(noise: Noise) -> None:
    """A/A. By the rank test alone as well: over steps, taken for independent, it would call a quarter of them different."""
    pairs = [pair for seed in range(TRIALS) for pair in compared({"ddp": 0.3, "horovod": 0.3}, noise=noise, seed=seed)]
    assert all(pair.paired and pair.possible for pair in pairs)
    assert sum(pair.shown for pair in pairs) <= 0.05 * TRIALS
    assert sum(pair.p < ranktest.ALPHA for pair in pairs) <= 0.05 * TRIALS
    steps = [ranktest.p_value(pair.first.runs.ravel(), pair.second.runs.ravel()) for pair in pairs]
    assert sum(p < ranktest.ALPHA for p in steps) > 0.15 * TRIALS


def test_one_engine_under_four_names_is_called_different_anywhere_in_at_most_5_percent() -> None:
    """Six pairs: without Holm's correction this fails."""
    same = dict.fromkeys(("ddp", "fsdp", "horovod", "ring"), 0.3)
    tables = [compared(same, noise=QUIET, seed=seed) for seed in range(TRIALS)]
    assert sum(any(pair.shown for pair in table) for table in tables) <= 0.05 * TRIALS
    assert all(pair.possible for pair in tables[0])


def test_a_planted_slowdown_of_5_percent_is_found_on_a_quiet_machine() -> None:
    """Quiet: medians of runs differ by 1.2 %."""
    pairs = [compared({"ddp": 0.315, "horovod": 0.3}, noise=QUIET, seed=seed)[0] for seed in range(TRIALS)]
    assert sum(pair.verdict() == "slower" for pair in pairs) >= 0.95 * TRIALS
    assert 0.008 < np.mean([pairwise.deviation(pair.first, pair.second) for pair in pairs]) < 0.016
    assert np.mean([pair.ratio.median for pair in pairs]) == pytest.approx(1.05, abs=0.003)


@pytest.mark.parametrize(("repeats", "pairs"), [(4, 1), (5, 1), (5, 6), (8, 6), (25, 6)])
def test_a_difference_as_large_as_the_detectable_one_is_found_in_four_of_five(repeats: int, pairs: int) -> None:
    draw, found = np.random.default_rng(repeats), 0
    shift = np.log1p(ranktest.detectable(repeats, repeats, 0.02, pairs) or 0)
    for _ in range(400):
        faster, slower = draw.normal(0, 0.02, repeats), draw.normal(shift, 0.02, repeats)
        found += ranktest.p_value(slower, faster) * pairs < ranktest.ALPHA
    assert 0.73 < found / 400 < 0.87


# --- the rank test


def test_the_smallest_p_is_that_of_two_sets_that_do_not_overlap() -> None:
    assert [ranktest.attainable(n, n) for n in (3, 4, 5)] == pytest.approx([2 / 20, 2 / 70, 2 / 252])  # 2 / C(2n, n)
    assert ranktest.attainable(3, 5) == pytest.approx(2 / 56)
    assert ranktest.attainable(1, 1) == 1.0
    assert ranktest.attainable(12, 12) == pytest.approx(2 / 2704156)


def test_repeats_grow_with_the_pairs_of_the_table() -> None:
    assert [ranktest.needed(pairs) for pairs in (1, 6, 28, 64)] == [4, 5, 7, 7]


def test_p_of_known_sets() -> None:
    assert ranktest.p_value([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    assert ranktest.p_value([1, 2, 3, 5], [4, 6, 7, 8]) == pytest.approx(4 / 70)  # one pair the wrong way round
    assert ranktest.p_value([2.0] * 5, [2.0] * 5) == 1.0
    assert ranktest.p_value([1.0], [1.0, 2.0]) > 0.1  # a single run that ties


def test_few_runs_that_tie_are_rearranged_not_approximated() -> None:
    """Memory hardly varies. The normal approximation would give 0.025 for three runs, whose smallest p is 0.1."""
    assert ranktest.p_value([1, 1, 1], [2, 2, 2]) == pytest.approx(0.1)
    assert ranktest.p_value([1, 1, 1, 1], [2, 2, 2, 2]) == pytest.approx(2 / 70)


def test_one_run_among_equals_shows_nothing_whatever_its_value() -> None:
    """Memory of a GPU ties in all repeats: the normal approximation called one run of another size different (p 0.02)."""
    assert ranktest.p_value([2.0], [1.0] * 7) == ranktest.p_value([1.0] * 7, [2.0]) == pytest.approx(2 / 8)
    assert ranktest.p_value([1.0], [1.0, 1.0, 2.0]) == 1.0
    for count in range(2, 40):
        assert ranktest.p_value([2.0], [1.0] * count) >= ranktest.attainable(1, count)


def test_holm_of_a_known_family() -> None:
    assert ranktest.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 1979
    assert ranktest.holm([0.9, 0.9]) == pytest.approx([1.0, 1.0])
    assert ranktest.holm([]).size == 0


def test_the_detectable_difference_shrinks_with_repeats_and_grows_with_spread_and_pairs() -> None:
    five = ranktest.detectable(5, 5, 0.01, 1)
    assert five is not None
    assert (ranktest.detectable(10, 10, 0.01, 1) or 0) < five < (ranktest.detectable(5, 5, 0.02, 1) or 0)
    assert five < (ranktest.detectable(5, 5, 0.01, 6) or 0)
    assert ranktest.detectable(5, 5, 0.01, 28) is None  # not of any size
    assert ranktest.detectable(3, 3, 0.01, 1) is None


def test_simulated_and_normal_detectable_differences_meet() -> None:
    simulated, normal = (ranktest.detectable(n, n, 0.01, 6) for n in (ranktest.FEW, ranktest.FEW + 1))
    assert simulated is not None
    assert normal is not None
    assert 0.88 < normal / simulated < 1.0


# --- the verdict


def test_faster_needs_the_rank_test_and_the_interval() -> None:
    apart, near = (sample(*(0.9 + 0.01 * i for i in range(5))), sample(*(1.1 + 0.01 * i for i in range(5)), label="b"))
    (clear,) = pairwise.family([(apart, near)])
    assert clear.holm == pytest.approx(2 / 252)
    assert clear.ratio.high < 1
    assert clear.verdict() == "faster"
    assert pairwise.family([(near, apart)])[0].verdict("lighter", "heavier") == "heavier"

    wide = [
        sample(*(level + 0.001 * i for i in range(5)), label=name, spread=0.4)
        for level, name in ((1.0, "a"), (1.006, "b"))
    ]
    (doubtful,) = pairwise.family([(wide[0], wide[1])])
    assert doubtful.holm < 0.05  # every run of a below every run of b ...
    assert doubtful.ratio.low < 1 < doubtful.ratio.high  # ... by less than a median of such steps is known
    assert doubtful.verdict() == "no difference shown"

    mixed = sample(1.0, 1.2, 1.0, 1.2, 1.0, label="b")
    assert pairwise.family([(sample(1.0, 1.2, 1.0, 1.2, 1.1), mixed)])[0].verdict() == "no difference shown"


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_too_few_repeats_show_nothing_however_large_the_difference(repeats: int) -> None:
    few = (
        sample(*(1.0 + 0.01 * i for i in range(repeats))),
        sample(*(9.0 + 0.01 * i for i in range(repeats)), label="b"),
    )
    (pair,) = pairwise.family([few])
    assert pair.verdict() == f"no difference can be shown with {repeats} repeat{'s' if repeats > 1 else ''}"
    assert pair.detectable is None
    assert pair.attainable == pytest.approx(ranktest.attainable(repeats, repeats))


def test_a_larger_family_needs_more_repeats() -> None:
    fast, slow = sample(1.0, 1.01, 1.02, 1.03), sample(2.0, 2.01, 2.02, 2.03, label="b")
    assert pairwise.family([(fast, slow)])[0].shown
    both = pairwise.family([(fast, slow), (fast, slow)])
    assert [pair.verdict() for pair in both] == ["no difference can be shown with 4 repeats"] * 2
    assert both[0].attainable == pytest.approx(2 * 2 / 70)
    assert pairwise.family([(fast, slow)])[0].detectable
    assert both[0].detectable is None
    assert pairwise.family([]) == []


def test_the_spread_is_that_of_the_runs_medians_about_their_own_engine() -> None:
    logs = np.array([-0.01, 0.0, 0.01])
    one, other = sample(*np.exp(logs), spread=0.5), sample(*(3 * np.exp(2 * logs)), label="b")
    assert pairwise.deviation(one) == pytest.approx(0.01)
    assert pairwise.deviation(one, other) == pytest.approx(np.sqrt((0.01**2 + 0.02**2) / 2))
    assert np.isnan(pairwise.deviation(sample(1.0), sample(2.0)))


# --- pairs


def test_runs_of_one_round_are_pairs_and_the_round_s_own_trouble_cancels() -> None:
    rounds = (1.0, 3.0, 2.0, 5.0, 4.0)
    one, other = sample(*rounds, started=True), sample(*(1.1 * each for each in rounds), label="b", started=True)
    (pair,) = pairwise.family([(one, other)])
    assert pair.paired
    assert pair.ratio.low == pytest.approx(1 / 1.1)
    assert pair.ratio.high == pytest.approx(1 / 1.1)
    (alone,) = pairwise.family([(sample(*rounds), sample(*(1.1 * each for each in rounds), label="b"))])
    assert not alone.paired
    assert alone.ratio.high / alone.ratio.low > 1.5


@pytest.mark.parametrize(
    ("ours", "theirs", "paired"),
    [
        (("1", "3", "5"), ("2", "4", "6"), True),
        (("2", "3", "6"), ("1", "4", "5"), True),  # shuffled within rounds
        (("1", "2", "3"), ("4", "5", "6"), False),  # one engine after the other
        (("1", "4", "5"), ("2", "3"), False),  # a run is missing: which?
        (("1",), ("2",), False),  # steps of two runs are no pairs
    ],
)
def test_only_interleaved_rounds_are_pairs(ours: tuple[str, ...], theirs: tuple[str, ...], paired: bool) -> None:
    one, other = (Sample(label="a", runs=np.ones((len(each), 3)), started=each) for each in (ours, theirs))
    assert pairwise.interleaved(one, other) is paired


def test_times_are_the_slowest_rank_s_in_the_order_of_the_runs() -> None:
    later, earlier = (made.record("ddp", 2, repeat=repeat) for repeat in (3, 1))
    found = pairwise.times([later, earlier])
    assert (found.label, found.ranks, found.runs.shape) == ("ddp", 2, (2, 10))
    assert found.started == (earlier["started"], later["started"])
    assert found.runs[0, 0] == max(rank["step_s"][0] for rank in earlier["ranks"])
    with pytest.raises(ValueError, match="at least one"):
        pairwise.times([])


# --- A/A of real records


def test_aa_deals_the_runs_of_one_engine_in_turn() -> None:
    records = comparison({"ddp": 0.3}, repeats=21, noise=QUIET, seed=1)
    found = pairwise.aa(records, 5)
    assert len(found) == 2  # twenty of twenty-one runs
    assert all(pair.paired and (pair.first.label, pair.second.label) == ("A", "B") for pair in found)
    every = pairwise.times(records)
    assert found[0].first.medians.tolist() == every.medians[[0, 3, 4, 7, 8]].tolist()
    assert found[1].second.medians.tolist() == every.medians[[11, 12, 15, 16, 19]].tolist()
    with pytest.raises(ValueError, match="needs 44"):
        pairwise.aa(records, 22)
