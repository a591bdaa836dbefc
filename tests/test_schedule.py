"""Learning rates against values computed by hand, and the published one against DeepSpeed's own scheduler."""

import math

import pytest
import torch

from bench.schedule import lr_at


def rates(total: int, kind: str, *, peak: float = 1e-3, warmup: float = 0.1) -> list[float]:
    return [lr_at(step, total, peak=peak, warmup=warmup, kind=kind) for step in range(total + 1)]


def test_constant_is_constant() -> None:
    assert set(rates(7, "constant")) == {1e-3}


def test_warmup_decay_by_hand() -> None:
    """10 steps, 4 of them rising: 1/4 to 4/4, then 6/6 down to 0/6."""
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert rates(10, "warmup_decay", peak=12.0, warmup=0.4) == pytest.approx([12 * share for share in expected])


def test_warmup_decay_is_never_zero_nor_above_the_peak_in_a_run() -> None:
    for total in (1, 2, 9, 10, 11, 200):
        for warmup in (0.0, 0.1, 0.5, 1.0):
            found = rates(total, "warmup_decay", warmup=warmup)
            assert all(0 < rate <= 1e-3 for rate in found[:-1])
            assert max(found) == pytest.approx(1e-3)


def test_published_by_hand() -> None:
    """Of 100 steps 10 rise by the logarithm; the first runs at the peak and the second at 0."""
    found = rates(100, "published", peak=1.0)
    assert found[:3] == pytest.approx([1, 0, math.log(2) / math.log(10)])
    assert found[10:13] == pytest.approx([1, 1, 89 / 90])
    assert found[100] == pytest.approx(1 / 90)


def test_published_warm_up_is_steep() -> None:
    """The MVTec run's: 60% of the peak after 100 of 2,268 warm-up steps."""
    assert lr_at(100, 22_681, peak=1.0, kind="published") == pytest.approx(0.60, abs=0.01)


def test_published_is_deepspeeds_from_the_second_step_on() -> None:
    schedules = pytest.importorskip("deepspeed.runtime.lr_schedules")
    for total, rising in ((200, 20), (37, 10)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
        theirs = schedules.WarmupDecayLR(optimizer, total, 0.0, 2e-3, rising)
        for step in range(1, total + 3):  # past the end too
            theirs.step()
            assert optimizer.param_groups[0]["lr"] == pytest.approx(lr_at(step, total, peak=2e-3, kind="published"))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="constant, warmup_decay, published"):
        lr_at(0, 10, peak=1.0, kind="cosine")
    for step, total in ((-1, 10), (0, 0)):
        with pytest.raises(ValueError, match="counted from 0"):
            lr_at(step, total, peak=1.0)
    with pytest.raises(ValueError, match="warmup is 10"):
        lr_at(0, 10, peak=1.0, warmup=10)
