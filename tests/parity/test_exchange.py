"""Steps without exchange, of every engine on two ranks: nothing travels, and a planted slow wire is found again."""

from typing import Any

import numpy as np
import pytest

from bench import exposed
from tests.parity.exchange import ACCUMULATION, STEPS, WAIT, WIRE

pytestmark = pytest.mark.timeout(600)  # the first test of a backend waits for both of its launches

LABELS = ("ddp", "fsdp", "ring", "horovod", "zero-0", "zero-1", "zero-2", "zero-3")


def median(result: Any) -> float:
    """Seconds of exposed communication, as a report reads them."""
    read = exposed.exposed([result])
    assert read is not None
    return read.median


def best(result: Any) -> float:
    """The shortest step with the exchange less the shortest without: what a busy machine disturbs least."""
    kinds = [
        np.max([rank[kind]["step"] for rank in result["exposed"]["ranks"]], axis=0)
        for kind in (exposed.WITH, exposed.WITHOUT)
    ]
    return float(kinds[0].min() - kinds[1].min())


@pytest.mark.parametrize("label", LABELS)
def test_without_exchange_nobody_waits_for_anybody(found, label):
    """The last rank sleeps in each step: with the exchange the first one waits for it, without it does not."""
    late = found(label, "exchange")["late"]
    for turn in ("before", "after"):
        assert sum(late[turn]) > 1.5 * WAIT, f"{turn}: the exchange was not there"
    assert min(late["inside"]) < WAIT / 2
    assert late["sent"] in (None, 0)
    assert found(label, "exchange")["gathered"] == [0, 1]


@pytest.mark.parametrize("label", LABELS)
def test_both_kinds_of_step_are_taken_and_the_model_stays(found, label):
    result = found(label, "exchange")["plain"]
    assert result["unchanged"]
    assert sorted(result["exposed"]["order"]) == [exposed.WITH] * 2 + [exposed.WITHOUT] * 2
    assert len(result["exposed"]["ranks"]) == len(result["phases"]["ranks"]) == 2
    for rank in result["exposed"]["ranks"]:
        assert [len(rank[kind]["step"]) for kind in (exposed.WITH, exposed.WITHOUT)] == [STEPS, STEPS]
    for rank in result["phases"]["ranks"]:
        for kind in (exposed.WITH, exposed.WITHOUT):
            assert [len(values) for values in rank[kind].values()] == [3] * 4
            assert all(value > 0 for values in rank[kind].values() for value in values)
    assert ACCUMULATION > 1


@pytest.mark.parametrize("label", ["ddp", "ring", "horovod"])
def test_a_slow_wire_is_found_to_its_length(found, label):
    """Its own length at least (less 5 %), and at most half as much again in the least disturbed steps."""
    plain, slow = found(label, "exchange")["plain"], found(label, "exchange")["slow"]
    assert median(slow) > 0.95 * WIRE
    assert 0.95 * WIRE < best(slow) < 1.5 * WIRE
    assert best(plain) < WIRE / 2
    phases = exposed.phases([slow])
    assert phases is not None
    assert phases["communication"] > 0.95 * WIRE
    assert phases["forward"] < WIRE / 2
