"""Steps after the window on one plain process, and what is read from their samples."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD

from backends.base import EngineConfig
from backends.single import Single
from backends.world import World
from bench import exposed, perturbed, stats
from bench.measure import phases
from bench.measure.phases import PHASES, PhaseClock
from tests.parity.cases import Quiet
from tests.parity.exchange import Net, batches, measured


def single() -> Single:
    backend = Single(World(), EngineConfig(accumulation=2, micro_batch=4))
    backend.setup(Net(), lambda params: SGD(params, lr=0.01))
    backend.steps = 5
    return backend


def run(kinds: dict[str, list[float]], ranks: int = 2) -> dict[str, Any]:
    """A record whose ranks took these steps."""
    each = {kind: {"step": values} for kind, values in kinds.items()}
    return {"exposed": {"ranks": [each] * ranks}}


def phased(with_: list[list[float]], without: list[list[float]]) -> dict[str, Any]:
    """A record: seconds of each phase, a list a rank, the same in each of three steps."""
    ranks = [
        {
            kind: {name: [value] * 3 for name, value in zip(PHASES, values, strict=True)}
            for kind, values in ((exposed.WITH, one), (exposed.WITHOUT, other))
        }
        for one, other in zip(with_, without, strict=True)
    ]
    return {"phases": {"ranks": ranks}}


def test_one_process_exposes_nothing_and_is_left_as_it_was():
    backend = single()
    drawn = torch.get_rng_state()
    result = measured(backend)
    assert result["unchanged"]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert exposed.exposed([result]) is None  # nobody to exchange with: a difference would be noise
    whole = exposed.phases([result])
    assert whole is not None
    assert list(whole) == list(exposed.PHASES)


def test_what_was_not_asked_for_has_a_reason():
    config: Any = SimpleNamespace(measure=SimpleNamespace(phase_steps=0, exposed_steps=0))
    found = perturbed.perturbed(single(), None, config, Quiet())  # type: ignore[arg-type]
    assert found["phases"] is None
    assert "--phase-steps" in found["phases_reason"]
    assert found["exposed"] is None
    assert "--exposed-steps" in found["exposed_reason"]
    assert exposed.exposed([found]) is exposed.share([found]) is exposed.phases([found]) is None


def test_batches_are_the_last_of_the_window_and_equal_for_both_kinds():
    asked: dict[str, list[int]] = {}
    kinds = iter((perturbed.WITH, perturbed.WITHOUT) * 2)

    def take(backend: Any, made: Any, steps: int, accumulation: int, watch: Any) -> dict[str, list[float]]:
        backend.steps += steps
        asked.setdefault(next(kinds), []).extend(made(step, 0) for step in range(backend.steps - steps, backend.steps))
        return {"step": [1.0] * steps}

    workload: Any = SimpleNamespace(
        config=SimpleNamespace(training=SimpleNamespace(accumulation=2), workload=SimpleNamespace(seed=1)),
        steps=3,
        batches=lambda step, micro: step,
    )
    backend = single()
    found = perturbed.in_turns("exposed", backend, workload, 3, take, Quiet())
    assert asked == {perturbed.WITH: [4, 3, 2], perturbed.WITHOUT: [4, 3, 2]}
    assert backend.steps == 11
    assert len(found["exposed"]["order"]) == 4


def test_a_step_without_exchange_that_is_no_number_is_no_failure():
    backend = single()
    real, asked = batches, {"count": 0}

    def poisoned(step: int, micro: int) -> dict[str, Any]:
        asked["count"] += 1
        batch = real(step, micro)
        return batch if backend.healthy else {"x": batch["x"] * float("nan")}  # type: ignore[attr-defined]

    class Sick:
        def __enter__(self) -> None:
            backend.healthy = False  # type: ignore[attr-defined]

        def __exit__(self, *_: Any) -> None:
            backend.healthy = True  # type: ignore[attr-defined]

    backend.healthy = True  # type: ignore[attr-defined]
    backend.without_exchange = Sick  # type: ignore[assignment,method-assign]
    workload: Any = SimpleNamespace(
        config=SimpleNamespace(training=SimpleNamespace(accumulation=2), workload=SimpleNamespace(seed=0)),
        steps=3,
        batches=poisoned,
    )
    found = perturbed.in_turns("exposed", backend, workload, 2, perturbed.take_steps, Quiet())
    assert found["exposed"] is None
    assert "without the exchange" in found["exposed_reason"]


def test_phases_are_summed_over_micro_batches(monkeypatch):
    now = {"time": 0.0}
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=lambda: now["time"]))
    told: list[str] = []
    watch = SimpleNamespace(at=lambda step, phase: told.append(phase))
    clock = PhaseClock(torch.device("cpu"), watch)  # type: ignore[arg-type]
    for step in range(2):
        for _ in range(2):
            for phase, lasts in (("data", 1.0), ("forward", 2.0), ("backward", 4.0)):
                clock.at(step, phase)
                now["time"] += lasts
        clock.at(step, "update")
        now["time"] += 8.0
        clock.end_step(None)
        now["time"] += 100.0
    assert clock.samples == {"data": [2.0] * 2, "forward": [4.0] * 2, "backward": [8.0] * 2, "update": [8.0] * 2}
    assert told[:4] == ["data", "forward", "backward", "data"]


def test_exposed_is_the_difference_of_medians_and_its_share_is_of_the_step():
    record = run({exposed.WITH: [1.0, 1.0, 1.1, 0.9], exposed.WITHOUT: [0.75, 0.75, 0.7, 0.8]})
    read, share = exposed.exposed([record]), exposed.share([record])
    assert read is not None
    assert share is not None
    assert read.median == pytest.approx(0.25)
    assert share.median == pytest.approx(0.25)
    assert 0.05 <= read.low <= 0.25 <= read.high <= 0.4
    assert exposed.exposed([record, {"exposed": None}]) is None


def test_the_slowest_rank_counts():
    record = run({exposed.WITH: [1.0, 1.0], exposed.WITHOUT: [0.5, 0.5]}, ranks=2)
    record["exposed"]["ranks"][1] = {exposed.WITH: {"step": [1.0, 1.0]}, exposed.WITHOUT: {"step": [0.8, 0.8]}}
    read = exposed.exposed([record])
    assert read is not None
    assert read.median == pytest.approx(0.2)


def test_communication_is_what_the_exchange_adds_to_all_phases():
    record = phased([[1, 3, 6, 2], [1, 3, 8, 2]], [[1, 2, 4, 1], [1, 2, 6, 1]])
    assert exposed.phases([record]) == {
        "data": 1.0,
        "forward": 2.0,
        "backward": 5.0,
        "optimizer": 1.0,
        "communication": 4.0,
    }
    turned = phased([[1, 2, 4, 1]] * 2, [[1, 3, 6, 2]] * 2)
    read = exposed.phases([turned])
    assert read is not None
    assert read["communication"] == 0


def test_one_rank_communicates_with_nobody():
    read = exposed.phases([phased([[1, 3, 6, 2]], [[1, 2, 4, 1]])])
    assert read == {"data": 1.0, "forward": 2.5, "backward": 5.0, "optimizer": 1.5, "communication": 0.0}


def test_the_interval_of_a_difference_holds_the_truth():
    draw = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        level = draw.normal(0, 0.5, (6, 1))  # what was wrong with a run was wrong with both kinds
        first, second = level + draw.normal(2, 0.1, (6, 8)), level + draw.normal(1, 0.1, (6, 8))
        found = stats.difference_interval(list(first), list(second), seed=seed, resamples=400)
        held += found.low <= 1 <= found.high
        assert found.high - found.low < 0.6
    assert held >= 52
    with pytest.raises(ValueError, match="not the same runs"):
        stats.difference_interval(list(first), list(second[:3]))
