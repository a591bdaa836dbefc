"""Runs A to E: every engine on two ranks computes what one plain process computes on the whole batch."""

from typing import Any

import pytest

from backends.base import BackendError
from backends.single import Single
from backends.world import World
from tests.parity.cases import CASES, KEPT_AT, STEPS, difference, engine_config, parts, run, setup
from tests.parity.conftest import VARIANTS
from tests.parity.planted import FAULTS

pytestmark = pytest.mark.timeout(600)  # the first test of a backend waits for both of its launches

LOSS, PARAMETER = 1e-6, 1e-6  # relative, absolute: a few roundings of fp32, whose step is 6e-8
# AdamW divides by the root of squared gradients: where a gradient is near zero, rounding may turn its whole step around.
ADAMW_LOSS, ADAMW_PARAMETER = 1e-5, 1e-4
# bfloat16 keeps 8 bits: matrices of another shape round differently, by up to 2^-8 in an activation and less in their mean.
AMP_LOSS, AMP_PARAMETER = 2e-3, 2e-3

faulty = [
    (label, fault)
    for label, backend in (("ddp", "ddp"), ("horovod", "horovod"), ("ring", "ring"), ("zero-1", "deepspeed"))
    for fault in FAULTS[backend]
]


@pytest.mark.parametrize("label", VARIANTS)
@pytest.mark.parametrize("case", ["sgd", "sgd, clipped"])
def test_sgd_equals_one_process(trained: Any, label: str, case: str) -> None:
    loss, parameter = difference(trained(label)["cases"][case], trained("single")["cases"][case])
    assert loss <= LOSS
    assert parameter <= PARAMETER


@pytest.mark.parametrize("label", VARIANTS)
def test_adamw_with_weight_decay_equals_one_process(trained: Any, label: str) -> None:
    loss, parameter = difference(trained(label)["cases"]["adamw"], trained("single")["cases"]["adamw"])
    assert loss <= ADAMW_LOSS
    assert parameter <= ADAMW_PARAMETER


@pytest.mark.parametrize("label", VARIANTS)
def test_mixed_precision_equals_one_process_to_its_own_tolerance(trained: Any, label: str) -> None:
    loss, parameter = difference(trained(label)["cases"]["amp_bf16"], trained("single")["cases"]["amp_bf16"])
    assert loss <= AMP_LOSS
    assert parameter <= AMP_PARAMETER


def test_cases_differ_from_each_other(trained: Any) -> None:
    """Clipping binds, the update rules differ, bfloat16 is not fp32: otherwise their parity would say the same thing twice."""
    single = trained("single")["cases"]
    for name in set(CASES) - {"sgd"}:
        assert difference(single[name], single["sgd"])[0] > 10 * LOSS


@pytest.mark.parametrize(("label", "fault"), faulty)
def test_planted_fault_is_seen(trained: Any, label: str, fault: str) -> None:
    backend = VARIANTS[label]
    case, _ = FAULTS[backend][fault]
    loss, parameter = difference(trained(label, "faults")[fault], trained("single")["cases"][case])
    assert loss > 10 * LOSS
    assert parameter > 10 * PARAMETER


def test_left_out_clipping_is_refused_at_setup(trained: Any) -> None:
    assert "gradient_clipping: asked 0.0, is 1.0" in trained("zero-1", "faults")["refusal"]


@pytest.mark.parametrize("label", ["fsdp", "zero-3", "zero-3-offload"])
def test_full_state_is_whole_where_parameters_are_partitioned(trained: Any, label: str) -> None:
    """Each rank holds about half of all values, so the states compared above were gathered from two ranks."""
    found = trained(label)
    whole = sum(value.numel() for value in found["cases"]["sgd"]["state"].values())
    assert len(found["held"]) == 2
    assert all(0.45 * whole <= held <= 0.55 * whole for held in found["held"])
    assert all(held == whole for held in trained("ddp")["held"])


@pytest.mark.parametrize("label", VARIANTS)
def test_resumed_run_equals_straight_run_bit_for_bit(trained: Any, label: str) -> None:
    straight, resumed = trained(label)["straight"], trained(label, "resumed")
    assert resumed["steps"] == straight["steps"] == 6
    assert resumed["losses"] == straight["losses"]
    assert difference(resumed, straight) == (0.0, 0.0)


@pytest.mark.parametrize("label", ["fsdp", "zero-0", "zero-1", "zero-2", "zero-2-offload", "zero-3", "zero-3-offload"])
def test_one_rank_goes_on_from_an_engine_s_own_checkpoint_of_two(trained: Any, label: str) -> None:
    """torch's distributed checkpoint, DeepSpeed's universal one: AdamW's moments have to arrive as well."""
    fewer, straight = trained(label, "fewer"), trained("single")["straight"]
    assert fewer["steps"] == straight["steps"] == 6
    loss, parameter = difference(fewer, straight)
    assert loss <= ADAMW_LOSS
    assert parameter <= ADAMW_PARAMETER
    assert fewer["again"]["steps"] == 6  # not the two ranks' of step 3, in whose folder it was saved
    assert difference(fewer["again"], fewer) == (0.0, 0.0)


@pytest.mark.parametrize("label", ["zero-2", "zero-3"])
def test_a_checkpoint_of_sgd_is_refused_on_another_number_of_ranks(trained: Any, label: str) -> None:
    """DeepSpeed's converter looks for Adam's moments."""
    refusal = trained(label, "fewer")["refusal"]
    assert "converts checkpoints of AdamW alone for another number of ranks" in refusal
    assert "start as many as wrote it" in refusal


@pytest.mark.parametrize("label", VARIANTS)
def test_pieces_go_on_bit_for_bit(trained: Any, label: str) -> None:
    """On as many ranks of the same engine."""
    assert difference(trained(label, "resumed")[f"from {label}"], trained(label)["straight"]) == (0.0, 0.0)


@pytest.mark.parametrize("label", VARIANTS)
def test_two_ranks_go_on_from_the_pieces_of_one_plain_process(trained: Any, label: str) -> None:
    """Under AdamW: its moments have to arrive as well, each on the rank that holds it."""
    loss, parameter = difference(trained(label, "resumed")["from single"], trained("single")["straight"])
    assert loss <= ADAMW_LOSS
    assert parameter <= ADAMW_PARAMETER


@pytest.fixture(scope="module")
def alone(one_thread: None) -> Single:
    """One plain process under SGD."""
    backend = Single(World(), engine_config(World(), CASES["sgd"], 1))
    setup(backend, CASES["sgd"])
    return backend


@pytest.mark.parametrize("label", VARIANTS)
def test_one_process_goes_on_from_the_pieces_of_two_ranks(
    trained: Any, ensured: Any, alone: Single, label: str
) -> None:
    straight = trained("single")["cases"]["sgd"]
    alone.restore(parts(ensured(VARIANTS[label], "first") / f"{label}-sgd.x"))
    assert alone.steps == KEPT_AT
    resumed = {"losses": run(alone, STEPS - KEPT_AT), "state": alone.full_state(frozen=True)}
    loss, parameter = difference(resumed, straight | {"losses": straight["losses"][KEPT_AT:]})
    assert loss <= LOSS
    assert parameter <= PARAMETER


def test_a_part_that_is_missing_is_refused(ensured: Any, alone: Single) -> None:
    found = parts(ensured("ddp", "first") / "ddp-sgd.x")
    with pytest.raises(BackendError, match="do not belong together"):
        alone.restore(found[:1])
    found[1]["pieces"].popitem()
    with pytest.raises(BackendError, match="lacks values"):
        alone.restore(found)
