"""Numbers whose right answer is known: the slowest rank, the median, the interval, the denominator."""

import numpy as np
import pytest

from bench import stats
from tests import made


def ranks(*times: list[float]) -> list[dict[str, list[float]]]:
    return [{"step_s": each} for each in times]


def test_a_step_lasts_as_long_as_on_its_slowest_rank() -> None:
    assert stats.slowest(ranks([1.0, 4.0, 2.0], [3.0, 1.0, 2.5])).tolist() == [3.0, 4.0, 2.5]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (ranks(), "no step"),
        (ranks([]), "no step"),
        (ranks([1.0, 2.0], [1.0]), "different numbers of steps"),
        (ranks([1.0, float("nan")]), "not a positive number"),
        (ranks([1.0, 0.0]), "not a positive number"),
    ],
)
def test_times_that_are_none_are_refused(times: list[dict[str, list[float]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.slowest(times)


def test_throughput_is_the_global_batch_over_the_slowest_rank() -> None:
    record = made.record("ddp", 2, training={"global_batch": 16})
    record["ranks"] = ranks([0.5, 0.5, 0.5], [2.0, 2.0, 2.0])
    speed = stats.throughput([record])
    assert speed.median == 8.0  # 16 samples of both ranks in 2 s: neither a rank's 8, nor rank 0's 32
    assert (speed.low, speed.high) == (8.0, 8.0)


def test_the_interval_of_a_rate_keeps_its_ends_in_order() -> None:
    speed = stats.throughput([made.record("ddp", 2)])
    assert speed.low < speed.median < speed.high


def test_runs_with_different_batches_have_no_common_throughput() -> None:
    two = [made.record("ddp", 2), made.record("ddp", 2, training={"global_batch": 16})]
    with pytest.raises(ValueError, match="global batches"):
        stats.throughput(two)


def test_the_median_is_that_of_all_samples() -> None:
    estimate = stats.median_interval([np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 100.0])])
    assert estimate.median == 3.5


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = [np.random.default_rng(0).lognormal(size=20)]
    one, again, other = (stats.median_interval(samples, seed=seed, resamples=40) for seed in (3, 3, 4))
    assert one == again
    assert one != other


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        estimate = stats.median_interval([draw.normal(10.0, 1.0, 25)], seed=trial, resamples=400)
        hits += estimate.low <= 10.0 <= estimate.high
    assert 0.88 < hits / 300 < 0.99


def test_a_run_that_was_slow_as_a_whole_widens_the_interval() -> None:
    draw = np.random.default_rng(0)
    alike = [draw.normal(10.0, 0.1, 10) for _ in range(3)]
    apart = [each + shift for each, shift in zip(alike, (-2.0, 0.0, 2.0), strict=True)]
    one, other = stats.median_interval(alike), stats.median_interval(apart)
    assert other.high - other.low > 10 * (one.high - one.low)


@pytest.mark.parametrize("runs", [[], [np.array([])], [np.array([1.0]), np.array([1.0, 2.0])]])
def test_no_samples_have_no_median(runs: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="as many samples"):
        stats.median_interval(runs)


def test_more_runs_than_fit_in_one_go_are_drawn_in_parts() -> None:
    runs = list(np.random.default_rng(0).normal(10.0, 1.0, (300, 100)))  # 30,000 samples
    estimate = stats.median_interval(runs)
    assert estimate.low < 10.0 < estimate.high
    # Of a normal median; two levels count the steps' spread twice where runs don't differ.
    width = 2 * 1.96 * 1.2533 * (2 / 30_000) ** 0.5
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.2)


# --- ratios


def lots(seed: int, level: float = 1.0, *, runs: int = 5, spread: float = 0.01, step: float = 0.01) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return level * np.exp(draw.normal(0, spread, (runs, 1)) + draw.normal(0, step, (runs, 10)))


@pytest.mark.parametrize("paired", [True, False])
def test_a_ratio_is_of_medians_first_over_second(paired: bool) -> None:
    first, second = np.array([[2.0, 3.0, 90.0], [4.0, 6.0, 7.0]]), np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    found = stats.ratio_interval(first, second, paired=paired)
    assert found.median == (3.0 if paired else 5.0 / 1.5)  # of 3/1 and 6/2; of 2, 3, 4, 6, 7, 90 and 1, 1, 1, 2, 2, 2
    assert found.low <= found.median <= found.high


def test_pairs_are_rounds_whole_runs_shifted_alike_change_nothing() -> None:
    first, second = lots(1, 1.1), lots(2)
    trouble = np.array([1.0, 4.0, 2.0, 3.0, 1.0])[:, None]
    calm, troubled = (stats.ratio_interval(first * by, second * by, paired=True) for by in (np.ones((5, 1)), trouble))
    assert (calm.median, calm.low, calm.high) == pytest.approx((troubled.median, troubled.low, troubled.high))
    alone = stats.ratio_interval(first * trouble, second * trouble, paired=False)
    assert alone.high - alone.low > 5 * (troubled.high - troubled.low)


def test_unequal_counts_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="5 runs of one engine and 3 of the other"):
        stats.ratio_interval(lots(1), lots(2, runs=3), paired=True)
    assert stats.ratio_interval(lots(1), lots(2, runs=3), paired=False).low < 1.02


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("spread", "step", "least", "most"), [(0.01, 0.002, 0.86, 0.98), (0.005, 0.03, 0.93, 1.0)])
def test_the_ratio_s_interval_covers_about_as_often_as_its_text_says(
    paired: bool, spread: float, step: float, least: float, most: float
) -> None:
    hits = 0
    for trial in range(200):
        sides = [lots(2 * trial + side, spread=spread, step=step) for side in (0, 1)]
        found = stats.ratio_interval(sides[0], sides[1], paired=paired, seed=trial, resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert least <= hits / 200 <= most


def test_the_same_samples_in_both_hands_are_not_paired_unless_asked() -> None:
    """Equal seeds for both sides would draw the same runs of both, and the ratio would look known."""
    same = lots(3, spread=0.1)
    alone = stats.ratio_interval(same, same, paired=False)
    assert alone.low < 0.97
    assert alone.high > 1.03
    alike = stats.ratio_interval(same, same * 2, paired=True)
    assert alike.median == 0.5
    assert alike.high - alike.low < 0.02


# --- outliers


def test_outliers_are_counted_within_their_run() -> None:
    calm = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]
    assert stats.outliers(np.array([calm])) == 0
    assert stats.outliers(np.array([[*calm[:-1], 2.9], [0.1, *calm[1:]]])) == 1 + 1
    slow = [each + 10 for each in calm]
    assert stats.outliers(np.array([calm] * 9 + [slow])) == 0  # a slow run is no outlying step
