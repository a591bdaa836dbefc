"""The gate must stop each kind of difference, and must never open for lack of evidence."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.proof import summary
from bench.verify import MEASURED, PROOF, references, verify
from tests.made import changed, failed, record

SINGLE = record("single")
DDP = record("ddp", 2)
OFF, ON = 0, 1  # the proof legs


def scaled(factor: float) -> Any:
    return lambda value: value * factor


def test_a_run_that_agrees_is_verified() -> None:
    verdict = verify(DDP, SINGLE)
    assert verdict.status == "verified"
    assert verdict.difference == 0.0


def test_the_reference_is_named_as_such() -> None:
    assert verify(SINGLE, SINGLE).status == "reference"
    assert verify(record("single", repeat=1), SINGLE).status == "verified"


def test_rounding_passes() -> None:
    moved = changed(DDP, f"proof/{OFF}/losses/1/total", scaled(1 + 1e-6))
    assert verify(moved, SINGLE).status == "verified"


# (name, where, what, words of the reason, first step)
DIFFERENCES = [
    ("sum instead of mean under SGD", f"proof/{OFF}/losses/1/total", scaled(1.02), "SGD, clip off: total loss", 1),
    (
        "a micro-batch divided twice",
        f"proof/{OFF}/parameters/tensors/head.weight/norm",
        scaled(1 + 2e-5),
        "head.weight",
        None,
    ),
    (
        "another update of the same length",
        f"proof/{OFF}/parameters/tensors/lora.b/projection",
        scaled(-1.0),
        "lora.b",
        None,
    ),
    ("clipped before the exchange", f"proof/{ON}/losses/1/total", scaled(1.001), "SGD, clip 0.5: total loss", 1),
    ("another clip", f"proof/{ON}/clip_norm", 1.0, "single clipped at 0.5", None),
    ("another start", f"proof/{OFF}/losses/0/total", scaled(1.01), "at step 0", 0),
    ("a part of the loss", f"proof/{OFF}/losses/0/dice", scaled(1.01), "dice loss", 0),
    ("nan", "losses/4/total", math.nan, "measured: total loss of step 4 is nan", 4),
    ("inf in a leg", f"proof/{ON}/losses/0/lm", math.inf, "lm loss of step 0 is inf", 0),
    ("nan in a parameter", "parameters/tensors/head.weight/norm", math.nan, "head.weight is not finite", None),
    ("skipped steps", "skipped_steps", 2, "2 optimizer steps were skipped", None),
    ("another loss under the clock", "losses/7/total", scaled(1.001), "measured: total loss", 7),
    (
        "other parameters under the clock",
        "parameters/tensors/head.weight/norm",
        scaled(1.01),
        "measured: head.weight",
        None,
    ),
    ("a tensor too many", "parameters/tensors/ghost", {"norm": 1.0, "projection": 1.0}, "trained tensors differ", None),
    ("a step too few", "losses", lambda steps: steps[:-1], "9 steps, single took 10", 9),
]


@pytest.mark.parametrize(
    ("where", "what", "words", "step"), [d[1:] for d in DIFFERENCES], ids=[d[0] for d in DIFFERENCES]
)
def test_each_difference_is_void(where: str, what: Any, words: str, step: int | None) -> None:
    verdict = verify(changed(DDP, where, what), SINGLE)
    assert verdict.status == "void"
    assert words in verdict.why
    assert verdict.first_step == step


def test_the_first_step_that_differs_is_named_with_its_size() -> None:
    moved = changed(
        changed(DDP, f"proof/{OFF}/losses/1/total", scaled(2.0)), f"proof/{OFF}/losses/0/total", scaled(1.5)
    )
    verdict = verify(moved, SINGLE)
    assert verdict.first_step == 0
    assert verdict.difference == pytest.approx(0.5)


def test_a_scale_mistake_that_adamw_hides_is_found_by_the_sgd_leg() -> None:
    hidden = changed(DDP, f"proof/{OFF}/parameters/tensors/head.weight/norm", scaled(1.001))
    assert hidden["losses"] == SINGLE["losses"]
    assert hidden["parameters"] == SINGLE["parameters"]
    assert verify(hidden, SINGLE).status == "void"


LACKING: dict[str, tuple[str, Any]] = {
    "no legs": ("proof", []),
    "proof never begun": ("proof", None),
    "clip off only": ("proof", lambda legs: legs[:1]),
    "clip on only": ("proof", lambda legs: legs[1:]),
    "a leg without losses": (f"proof/{OFF}/losses", []),
    "a leg without parameters": (f"proof/{ON}/parameters", None),
    "no measured losses": ("losses", []),
    "no measured parameters": ("parameters", None),
    "no tensors": ("parameters/tensors", {}),
}


@pytest.mark.parametrize(("where", "what"), LACKING.values(), ids=LACKING)
def test_no_evidence_is_unproven_on_either_side(where: str, what: Any) -> None:
    assert verify(changed(DDP, where, what), SINGLE).status == "unproven"
    assert verify(DDP, changed(SINGLE, where, what)).status == "unproven"
    both = verify(changed(DDP, where, what), changed(SINGLE, where, what))
    assert both.status == "unproven"  # two empty lists are equal, and prove nothing
    assert verify(changed(SINGLE, where, what), changed(SINGLE, where, what)).status == "unproven"


def test_a_missing_reference_says_what_to_run() -> None:
    verdict = verify(DDP, None)
    assert verdict.status == "unproven"
    assert "ringzero launch --backend single" in verdict.why


def test_a_reference_that_is_not_finite_proves_nothing() -> None:
    assert verify(DDP, changed(SINGLE, "losses/0/total", math.nan)).status == "unproven"


def test_a_run_that_is_not_finished_is_not_verified() -> None:
    assert verify(failed("ddp"), SINGLE).status == "unproven"


def test_different_experiments_are_never_compared() -> None:
    with pytest.raises(ValueError, match="different experiments"):
        verify(record("ddp", 2, training={"lr": 0.1}), SINGLE)


def test_only_a_finished_single_run_is_a_reference() -> None:
    with pytest.raises(ValueError, match="can't be a reference"):
        verify(DDP, record("fsdp", 2))
    found = references([DDP, failed("single", 1), record("single", repeat=1), SINGLE])
    assert list(found) == [SINGLE["experiment"]]
    assert found[SINGLE["experiment"]]["run_id"] == SINGLE["run_id"]  # the first


def test_bf16_is_held_to_its_own_tolerance() -> None:
    workload = {"precision": "amp_bf16"}
    single, ddp = record("single", workload=workload), record("ddp", 2, workload=workload)
    assert verify(changed(ddp, f"proof/{OFF}/losses/1/total", scaled(1 + 1e-4)), single).status == "verified"
    assert verify(changed(ddp, f"proof/{OFF}/losses/1/total", scaled(1.1)), single).status == "void"
    assert verify(changed(DDP, f"proof/{OFF}/losses/1/total", scaled(1 + 1e-4)), SINGLE).status == "void"


@pytest.mark.parametrize(("apart", "status"), [(5.9e-2, "verified"), (2.5e-1, "void")])
def test_the_measured_bound_of_bf16_lies_between_rounding_and_mistakes(apart: float, status: str) -> None:
    """The most that rounding was seen to do to a tensor, and the first tensor of a run whose decay was L2."""
    workload = {"precision": "amp_bf16"}
    moved = changed(record("ddp", 2, workload=workload), "parameters/tensors/head.weight/norm", scaled(1 + apart))
    assert verify(moved, record("single", workload=workload)).status == status


def test_tolerances_are_ordered() -> None:
    for table in (PROOF, MEASURED):
        assert table["fp32"].loss < table["amp_bf16"].loss
    for precision, proof in PROOF.items():
        assert proof.parameter < MEASURED[precision].parameter


# ---- the same, with mistakes that are made rather than written down ------------------------------------------------

BATCH, STEPS, CLIP = 8, 2, 0.1


def trained(mistake: str, *, clip: float = 0.0, adamw: bool = False, micro: int = 1) -> dict[str, Any]:
    """A leg of a real training of two ranks in one process, with a mistake that engines have made."""
    torch.manual_seed(1 if mistake == "another start" else 0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3) if adamw else torch.optim.SGD(parameters, lr=0.01)
    draw = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(STEPS):
        inputs, targets = torch.randn(BATCH, 6, generator=draw), torch.randn(BATCH, 3, generator=draw)
        shares, total = [], 0.0
        for rank in torch.arange(BATCH).chunk(2):
            gradients = [torch.zeros_like(p) for p in parameters]
            for part in rank.chunk(micro):
                loss = (model(inputs[part]) - targets[part]).square().mean() / micro
                total += loss.item() / 2
                scale = {"divided twice": 1 / micro, "not divided": micro}.get(mistake, 1)
                for sum_, gradient in zip(gradients, torch.autograd.grad(loss * scale, parameters), strict=True):
                    sum_ += gradient
            shares.append(clipped(gradients, clip) if mistake == "clip before the exchange" else gradients)
        if mistake == "one rank alone":
            shares[1] = shares[0]
        mean = [(a + b) / (1 if mistake == "sum for mean" else 2) for a, b in zip(*shares, strict=True)]
        limit = {"no clip": 0.0, "a clip of its own": 1.0, "clip before the exchange": 0.0}.get(mistake, clip)
        for p, gradient in zip(parameters, clipped(mean, limit), strict=True):
            p.grad = gradient
        optimizer.step()
        losses.append({"total": total})
    state = {name: p.detach() for name, p in model.named_parameters()}
    kind = "adamw" if adamw else "sgd"
    return {"optimizer": kind, "clip_norm": clip, "losses": losses, "parameters": summary(state)}


def clipped(gradients: list[Tensor], limit: float) -> list[Tensor]:
    """Scaled so that their common L2 norm is at most `limit`; 0 is off."""
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * min(1.0, limit / float(norm)) for g in gradients] if limit else gradients


def run_of(label: str, mistake: str, micro: int = 1) -> dict[str, Any]:
    """A record whose legs were trained."""
    made = record(label, 1 if label == "single" else 2)
    legs = [trained(mistake, clip=clip, micro=micro) for clip in (0.0, CLIP)]
    under_clock = trained(mistake, adamw=True, micro=micro)
    return made | {"proof": legs, "losses": under_clock["losses"], "parameters": under_clock["parameters"]}


def test_another_order_of_summation_is_verified() -> None:
    one, other = run_of("single", "none"), run_of("ddp", "none", micro=4)
    assert one["parameters"]["sha256"] != other["parameters"]["sha256"]  # not bit for bit, and yet the same training
    assert verify(other, one).status == "verified"


FOUND_BY = {
    "sum for mean": "off",
    "divided twice": "off",
    "not divided": "off",
    "one rank alone": "off",
    "another start": "off",
    "a clip of its own": "off",
    "no clip": "0.1",
    "clip before the exchange": "0.1",
}


@pytest.mark.parametrize(("mistake", "leg"), FOUND_BY.items())
def test_a_mistake_that_was_made_is_void(mistake: str, leg: str) -> None:
    verdict = verify(run_of("ddp", mistake, micro=2), run_of("single", "none"))
    assert verdict.status == "void"
    assert verdict.why.startswith(f"proof leg SGD, clip {leg}: ")


@pytest.mark.parametrize("mistake", ["sum for mean", "divided twice", "not divided"])
def test_adamw_alone_would_not_have_seen_an_error_of_scale(mistake: str) -> None:
    honest = run_of("single", "none")
    wrong = run_of("ddp", mistake, micro=2) | {"proof": run_of("ddp", "none", micro=2)["proof"]}
    assert verify(wrong, honest).status == "verified"
