"""The one loop, with an engine that only writes down what is asked of it."""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import backends
from backends.base import StepInfo
from bench import loop
from bench.loop import NonFinite, check_finite, moved, train
from bench.measure.clock import Clock

CPU = torch.device("cpu")


class Losses(NamedTuple):
    total: Tensor
    lm: Tensor


class Engine:
    """Losses are the batch's value and half of it."""

    def __init__(self, log: list[Any], steps: int = 0) -> None:
        self.log, self.steps, self.device = log, steps, CPU

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Losses:
        self.log.append(("forward", batch["x"].item(), sync))
        return Losses(batch["x"] * 1.0, batch["x"] / 2)

    def backward(self, loss: Tensor) -> None:
        self.log.append(("backward", loss.item()))

    def step(self) -> StepInfo:
        self.log.append("step")
        self.steps += 1
        return StepInfo(skipped=False, grad_norm=float(self.steps))


class Watcher:
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def at(self, step: int, phase: str) -> None:
        self.log.append((step, phase))


def take(
    backend: Engine, watch: Any = None, *, value=lambda step, micro: 10.0 * step + micro, **changed: Any
) -> list[loop.Step]:
    def batches(step: int, micro: int) -> dict[str, Tensor]:
        backend.log.append(("batch", step, micro))
        return {"x": torch.tensor(value(step, micro))}

    given = {"steps": 2, "accumulation": 2, "clock": Clock(CPU), "watch": watch or Watcher([]), **changed}
    return train(backend, batches, **given)  # type: ignore[arg-type]


def test_calls_come_in_order():
    log: list[Any] = []
    clock = Clock(CPU)
    clocked = len(clock.step_s)
    take(
        Engine(log),
        Watcher(log),
        steps=1,
        clock=clock,
        before_update=lambda: log.append("before update"),
        after_step=lambda step: log.append(("after step", step.number, len(clock.step_s) - clocked)),
    )
    assert log == [
        (0, "data"),
        ("batch", 0, 0),
        (0, "forward"),
        ("forward", 0.0, False),
        (0, "backward"),
        ("backward", 0.0),
        (0, "data"),
        ("batch", 0, 1),
        (0, "forward"),
        ("forward", 1.0, True),
        (0, "backward"),
        ("backward", 0.5),
        "before update",
        (0, "update"),
        "step",
        ("after step", 0, 1),
    ]


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gradients_are_exchanged_with_the_last_micro_batch_alone(accumulation):
    log: list[Any] = []
    take(Engine(log), accumulation=accumulation)
    syncs = [entry[2] for entry in log if entry[0] == "forward"]
    assert syncs == [*[False] * (accumulation - 1), True] * 2
    assert log.count("step") == 2


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_loss_is_divided_once(accumulation):
    log: list[Any] = []
    steps = take(Engine(log), accumulation=accumulation, value=lambda step, micro: 8.0)
    assert [entry[1] for entry in log if entry[0] == "backward"] == [8.0 / accumulation] * (2 * accumulation)
    assert [step.losses for step in steps] == [{"total": 8.0, "lm": 4.0}] * 2


class Learning(Engine):
    """Its losses have a graph behind them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__([])
        self.device = device
        self.leaf = torch.tensor(1.0, requires_grad=True)

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Losses:
        x = torch.tensor(float(self.log.count("forward")))
        self.log.append("forward")
        return Losses(x * self.leaf, x * self.leaf / 2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_losses_are_means_over_micro_batches_and_keep_no_graph(device):
    """Numbers at once on a CPU; elsewhere tensors, since a number would wait."""
    seen: list[dict[str, Any]] = []
    backend = Learning(torch.device(device))
    (step,) = take(backend, steps=1, after_update=lambda step: seen.extend(step.parts))  # 0 and 1
    assert step.losses == {"total": 0.5, "lm": 0.25}
    values = [value for part in seen for value in part.values()]
    if device == "cpu":
        assert values == [0.0, 0.0, 1.0, 0.5]
    else:
        assert [value.requires_grad for value in values] == [False] * 4


def test_a_step_that_fails_is_no_measurement():
    clock = Clock(CPU)

    def fail(step: int, micro: int) -> dict[str, Tensor]:
        if step == 1:
            raise RuntimeError("lost")
        return {"x": torch.tensor(1.0)}

    with pytest.raises(RuntimeError, match="lost"):
        train(Engine([]), fail, steps=3, accumulation=1, clock=clock, watch=Watcher([]))  # type: ignore[arg-type]
    assert (len(clock.step_s), len(clock.data_s)) == (1, 1)


def test_positions_go_on_from_where_the_engine_stands():
    log: list[Any] = []
    backend = Engine(log, steps=7)
    steps = take(backend)
    assert [step.number for step in steps] == [7, 8]
    assert [entry[1:] for entry in log if entry[0] == "batch"] == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert [step.info.grad_norm for step in steps] == [8.0, 9.0]
    assert [step.number for step in take(backend, steps=1)] == [9]


def test_every_step_is_under_the_clock():
    clock = Clock(CPU)
    take(Engine([]), steps=3, clock=clock)
    assert (len(clock.step_s), len(clock.data_s)) == (3, 3)
    assert all(0 < data <= step for data, step in zip(clock.data_s, clock.step_s, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_its_step(bad):
    log: list[Any] = []
    with pytest.raises(NonFinite, match=f"step 1: total is {bad}, lm is {bad}; lower --lr"):
        take(Engine(log), steps=5, value=lambda step, micro: bad if step == 1 else 1.0)
    assert log.count("step") == 2


def test_the_part_that_is_no_number_is_named_alone():
    with pytest.raises(NonFinite) as caught:
        check_finite(4, {"total": 1.0, "focal": math.nan, "dice": 2.0})
    assert "step 4: focal is nan" in str(caught.value)
    assert "dice" not in str(caught.value)
    assert caught.value.ringzero_cause == "non-finite"
    check_finite(4, {"total": 1.0})


def test_elsewhere_than_on_a_cpu_losses_are_looked_at_after_the_window():
    """Looking at a value on a GPU waits for it."""
    log: list[Any] = []

    class Late(Engine):
        def __init__(self) -> None:
            super().__init__(log)
            self.device = torch.device("meta")

        def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Losses:
            return Losses(torch.tensor(math.nan), torch.tensor(1.0))

    with pytest.raises(NonFinite, match="step 0: total is nan"):
        take(Late(), steps=3)
    assert log.count("step") == 3


class Elsewhere(Engine):
    """Not on a CPU: losses and the norm stay tensors, as on a GPU."""

    def __init__(self, bad: int | None = None) -> None:
        super().__init__([])
        self.device, self.bad = torch.device("meta"), bad

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Losses:
        value = torch.tensor(math.nan if self.steps == self.bad else float(self.steps))
        return Losses(value, value / 2)

    def step(self) -> StepInfo:
        return StepInfo(skipped=False, grad_norm=torch.tensor(super().step().grad_norm))


def test_elsewhere_than_on_a_cpu_tensors_are_kept_for_so_many_steps_only():
    backend, waiting = Elsewhere(), []
    kept: list[loop.Step] = []

    def look(step: loop.Step) -> None:
        kept.append(step)
        waiting.append(sum(isinstance(each.info.grad_norm, Tensor) for each in kept))
        assert waiting[-1] == sum(isinstance(each.parts[0]["total"], Tensor) for each in kept)

    steps = take(backend, steps=2 * loop.LOOK_EVERY + 3, accumulation=1, after_step=look)
    assert max(waiting) == loop.LOOK_EVERY - 1
    assert [step.info.grad_norm for step in steps] == [number + 1.0 for number in range(len(steps))]
    assert [step.losses["total"] for step in steps] == [float(number) for number in range(len(steps))]
    assert all(type(value) is float for step in steps for value in (step.info.grad_norm, *step.parts[0].values()))


def test_elsewhere_than_on_a_cpu_a_loss_that_is_no_number_does_not_go_on_to_the_end():
    backend = Elsewhere(bad=7)
    with pytest.raises(NonFinite, match="step 7: total is nan"):
        take(backend, steps=5 * loop.LOOK_EVERY, accumulation=1)
    assert backend.steps == loop.LOOK_EVERY


def test_a_copy_to_the_device_is_not_the_time_of_the_data():
    class Slow:
        """A value whose copy waits for the device."""

        def to(self, device: torch.device, **_: Any) -> Tensor:
            time.sleep(0.05)
            return torch.tensor(1.0)

    clock = Clock(CPU)
    train(
        Elsewhere(),  # type: ignore[arg-type]
        lambda step, micro: {"x": Slow()},  # type: ignore[dict-item]
        steps=1, accumulation=1, clock=clock, watch=Watcher([]),
    )  # fmt: skip
    assert clock.data_s[0] < 0.05 <= clock.step_s[0]


def test_to_a_gpu_a_batch_goes_from_pinned_memory_without_waiting():
    """A made-up value writes down what is asked of it: there is no GPU here."""
    asked: list[Any] = []

    class Value:
        def pin_memory(self) -> "Value":
            asked.append("pin")
            return self

        def to(self, device: torch.device, *, non_blocking: bool) -> str:
            asked.append((str(device), non_blocking))
            return "there"

    assert moved({"x": Value()}, torch.device("cuda", 1)) == {"x": "there"}  # type: ignore[dict-item]
    assert asked == ["pin", ("cuda:1", True)]


def test_the_loop_names_no_engine():
    words = set(re.findall(r"[a-z_]+", Path(loop.__file__).read_text().lower()))
    assert not words & {*backends.NAMES, "zero", "mpi", "nccl", "gloo", "distributed"}
    assert "backend" in words
