"""Settings of one engine leave what it computes as it is, but for 16 bits on the wire, which halve the bytes."""

from typing import Any

import pytest
import torch

from tests.parity.cases import CASES, difference
from tests.parity.tuned import FIXED, TRIED

pytestmark = pytest.mark.timeout(600)  # the first test of a backend waits for both of its launches

SAME = {"sgd": (1e-6, 1e-6), "adamw": (1e-5, 1e-4)}  # relative loss, absolute parameter: test_parity.py says why
# fp16 keeps 11 bits of a gradient, bf16 8: 5e-4 and 4e-3, seen again in the loss of the step after
HALF_LOSS = {"fp16": 1e-3, "bf16": 8e-3}
EACH = [(part, name) for part, tried in TRIED.items() if part != "single" for name in tried]
EXACT = [each for each in EACH if not each[1].endswith(tuple(HALF_LOSS))]
HALF = [each for each in EACH if each[1].endswith(tuple(HALF_LOSS))]


@pytest.fixture
def tuned(ensured: Any) -> Any:
    """tuned(part) -> what its ranks kept."""

    def read(part: str) -> Any:
        when = "alone" if part in FIXED else "first" if part == "single" else "second"
        return torch.load(ensured(part, when) / f"{part}.tuned.pt", weights_only=True)

    return read


@pytest.mark.parametrize(("part", "name"), EXACT)
def test_a_setting_of_speed_alone_computes_what_one_process_does(tuned: Any, part: str, name: str) -> None:
    kind = "adamw" if TRIED[part][name][0] is CASES["adamw"] else "sgd"
    loss, parameter = difference(tuned(part)[name], tuned("single")[kind])
    assert loss <= SAME[kind][0]
    assert parameter <= SAME[kind][1]
    assert tuned(part)[name]["half_bytes"] == 0


@pytest.mark.parametrize(("part", "name"), HALF)
def test_16_bits_on_the_wire_are_half_the_bytes_and_nearly_the_same_training(tuned: Any, part: str, name: str) -> None:
    found = tuned(part)[name]
    loss, parameter = difference(found, tuned("single")["sgd"])
    assert 2e-8 < loss <= HALF_LOSS[name[-4:]]
    assert parameter > 1e-8
    whole = 4 * found["values"]  # bytes of the gradients in fp32
    assert 0.5 * whole <= found["half_bytes"] <= 0.51 * whole  # the rest is padding
