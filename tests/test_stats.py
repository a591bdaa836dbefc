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
