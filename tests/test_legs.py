"""The quick look at a leg must say what the close look says, and nothing where there is something to tell."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from bench.legs import Leg, finite
from bench.verify import MEASURED, against, verify
from tests.made import changed, record

ALLOWED = MEASURED["fp32"]
LEG = record("single")
QUICK = Leg(LEG, ALLOWED)


def test_equal_legs_agree_and_a_small_difference_is_measured() -> None:
    assert QUICK.agrees(record("ddp", 2)) == 0.0
    moved = changed(LEG, "losses/3/total", lambda value: value * (1 + 2e-6))
    assert QUICK.agrees(moved) == pytest.approx(2e-6)
    moved = changed(LEG, "parameters/tensors/head.weight/projection", lambda value: value + 3e-3)
    assert QUICK.agrees(moved) == pytest.approx(1e-3)  # over the norm, 3


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("losses/9/total", lambda value: value * (1 + 1e-4)),
        ("losses/2/dice", lambda value: value * 1.1),
        ("losses/2/dice", lambda value: float("nan")),
        ("parameters/tensors/lora.b/norm", lambda value: value * 1.05),
        ("losses", lambda value: value[:-1]),
        ("losses/0", lambda value: {name: each for name, each in value.items() if name != "lm"}),
        ("losses/0", lambda value: dict(reversed(value.items()))),
        ("parameters/tensors", lambda value: {"other": value["lora.b"], "head.weight": value["head.weight"]}),
    ],
    ids=["large", "part", "nan", "norm", "fewer steps", "fewer parts", "order", "names"],
)
def test_whatever_is_to_be_told_is_left_to_the_close_look(where: str, change: Callable[[Any], Any]) -> None:
    assert QUICK.agrees(changed(LEG, where, change)) is None


def test_a_leg_with_a_number_that_is_none_is_not_sure_to_be_finite() -> None:
    assert finite(LEG)
    for bad in (float("nan"), float("inf"), "nan", None):
        assert not finite(changed(LEG, "losses/4/focal", bad))
        assert not finite(changed(LEG, "parameters/tensors/lora.b/norm", bad))
    assert not finite(changed(changed(LEG, "losses/4/focal", float("inf")), "losses/5/focal", float("-inf")))


def test_both_looks_give_one_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand runs with random small and large differences: the same status, words, step and size."""
    draw, single, runs = random.Random(0), record("single"), []
    for _ in range(1000):
        run = copy.deepcopy(record("ddp", 2))
        for leg in (run, *run["proof"]):
            for each in leg["losses"]:
                for name in each:
                    each[name] *= 1 + draw.gauss(0, 1) * 10 ** draw.uniform(-12, -5.7)
            for sums in leg["parameters"]["tensors"].values():
                sums["norm"] *= 1 + draw.gauss(0, 1) * 10 ** draw.uniform(-10, -5.2)
        runs.append(run)
    judge = against(single)
    quick = [judge(run) for run in runs]
    assert 100 < sum(verdict.status == "void" for verdict in quick) < 900
    monkeypatch.setattr(Leg, "agrees", lambda self, leg: None)
    assert quick == [verify(run, single) for run in runs]
