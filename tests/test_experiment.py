"""What stands around the loop: the digest of what was learned, refusals, and the same optimizer for all."""

import copy
import gc
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from backends.base import StepInfo
from bench import workload
from bench.loop import Step
from bench.proof import SkippedStep, mean_losses, refuse_skipped, summary
from bench.window import quiet_collector
from bench.workload import optimizer_factory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def state() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(3, 4, generator=draw),
        "a.bias": torch.randn(5, generator=draw),
        "c": torch.zeros(2),
    }


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, value in state().items() for place in range(value.numel())]
)
def test_any_single_value_changes_the_summary(name, place):
    before, changed = summary(state()), state()
    changed[name].view(-1)[place] += 1e-4
    after = summary(changed)
    assert after["sha256"] != before["sha256"]
    for each, told in after["tensors"].items():
        assert (told["projection"] != before["tensors"][each]["projection"]) == (each == name)
    moved = abs(after["tensors"][name]["projection"] - before["tensors"][name]["projection"])
    assert moved == pytest.approx(1e-4, rel=0.02)


def test_one_bit_changes_the_digest():
    changed = state()
    changed["c"][0] = -0.0
    assert summary(changed)["sha256"] != summary(state())["sha256"]


def test_the_order_of_a_dictionary_does_not_matter():
    assert summary(dict(reversed(state().items()))) == summary(state())


def test_names_and_places_matter():
    renamed = {("d" if name == "c" else name): value for name, value in state().items()}
    assert summary(renamed)["sha256"] != summary(state())["sha256"]
    turned = state()
    turned["a.bias"] = turned["a.bias"].flip(0)
    told, was = (summary(each)["tensors"]["a.bias"] for each in (turned, state()))
    assert told["norm"] == pytest.approx(was["norm"])
    assert told["projection"] != pytest.approx(was["projection"])


def test_a_tensor_that_does_not_lie_in_one_piece_is_taken_by_its_values():
    whole = state()
    strided = whole | {"b.weight": whole["b.weight"].t().contiguous().t()}
    assert not strided["b.weight"].is_contiguous()
    assert summary(strided) == summary(whole)


def test_norms_are_norms():
    assert summary({"x": torch.tensor([3.0, 4.0])})["tensors"]["x"]["norm"] == 5.0


def steps(*skipped: bool) -> list[Step]:
    return [Step(number, [], StepInfo(skip, None)) for number, skip in enumerate(skipped, 4)]


def test_skipped_steps_are_refused_by_number():
    refuse_skipped(steps(False, False))
    with pytest.raises(SkippedStep, match=r"step 5, 7:"):
        refuse_skipped(steps(False, True, False, True))


def test_losses_are_means_over_ranks():
    own = [Step(0, [{"total": 1.0, "lm": 2.0}], StepInfo(False, None))]
    others = [[{"total": 4.0, "lm": 2.0}], [{"total": 4.0, "lm": 5.0}]]
    backend: Any = SimpleNamespace(gather=lambda value: [value, *others])
    assert mean_losses(backend, own) == [{"total": 3.0, "lm": 3.0}]


def test_the_collector_is_quiet_inside_and_back_afterwards():
    assert gc.isenabled()
    with quiet_collector():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_is_back_after_an_error():
    def fail() -> None:
        with quiet_collector():
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert gc.isenabled()


# Of these there is nothing to decide: they are off, or without effect where momentum is 0.
OFF = {"params", "maximize", "capturable", "differentiable", "dampening", "nesterov"}


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize(("kind", "rule"), [("sgd", SGD), ("adamw", AdamW)])
def test_nothing_of_the_update_rule_is_left_to_a_default(kind, rule, device, monkeypatch):
    given: dict[str, Any] = {}
    monkeypatch.setattr(workload, rule.__name__, lambda params, **values: given.update(values))
    optimizer_factory(kind, lr=0.5, weight_decay=0.25, device=device)([])
    assert set(given) == set(inspect.signature(rule).parameters) - OFF
    assert (given["lr"], given["weight_decay"], given["fused"]) == (0.5, 0.25, False)
    assert given["foreach"] == (device is CUDA)


@pytest.mark.parametrize(
    ("kind", "update"),
    [
        ("sgd", lambda p, g: p - 0.1 * (g + 0.5 * p)),
        (
            "adamw",
            lambda p, g: p * (1 - 0.1 * 0.5) - 0.1 * g / (g.abs() + 1e-8),
        ),  # in the first step both moments are g's
    ],
)
def test_the_update_is_the_papers(kind: str, update: Callable[[Tensor, Tensor], Tensor]):
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    before = copy.deepcopy(p.detach())
    optimizer = optimizer_factory(kind, lr=0.1, weight_decay=0.5, device=CPU)([p])
    p.grad = torch.tensor([0.5, 0.25, -4.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), update(before, p.grad))
