"""What real engines hold on two ranks, against what is derived for them, to the byte."""

from typing import Any

import pytest

from tests.parity.held import LABELS
from tests.test_memory_model import STATES

pytestmark = pytest.mark.timeout(600)  # the first test of a backend waits for both of its launches

ENGINES = [label for labels in LABELS.values() for label in labels]


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_holds_what_is_derived_to_the_byte(found: Any, engine: str, rule: str) -> None:
    ranks = [(kept, model) for own, _, kept, model in found(engine, "held") if own == rule]
    assert len(ranks) == 2
    for kept, model in ranks:
        assert {name: kept[name] for name in STATES} == model


@pytest.mark.parametrize("engine", ENGINES)
def test_looking_costs_nothing(found: Any, engine: str) -> None:
    """A handful of tensors: a bucket taken value by value made a tensor of each, hundreds of bytes for four."""
    for _, _, kept, _ in found(engine, "held"):
        assert kept["tensors"] < 50
