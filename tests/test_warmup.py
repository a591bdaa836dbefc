"""Steps before the clock: one more is watched where the moment of the peak was missed, by all ranks alike."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import warmup
from bench.config import Engine, Measure, RunConfig


class Moment:
    """An eye that sees what it is told to."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts

    def begin(self, named: Any, shared: int) -> None: ...

    def look(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """watched(seen, other): (steps of each training, what is found) where looks see these bytes of a peak of 100, one after the
    other; `other`: what the other rank says each time."""

    def run(seen: list[int | None], other: bool = True) -> tuple[list[int], dict[str, Any]]:
        trained: list[int] = []
        left = list(seen)

        def train(backend: Any, batches: Any, *, steps: int, **rest: Any) -> list[Any]:
            trained.append(steps)
            return []

        def parts() -> dict[str, int] | None:
            bytes_ = left.pop(0) if len(left) > 1 else left[0]
            return None if bytes_ is None else {"parameters": 60, "workspace": bytes_ - 60}

        for name, value in {"train": train, "hand_out": lambda backend, path: None, "refuse_skipped": list}.items():
            monkeypatch.setattr(warmup, name, value)
        backend = SimpleNamespace(
            save=lambda path: None, load=lambda path: None, holdings=dict, shared_bytes=lambda: 0, steps=0,
            device=torch.device("cpu"), gather=lambda value: [value, other], world=SimpleNamespace(local_rank=0),
        )  # fmt: skip
        found = warmup.warm_up(
            backend,  # type: ignore[arg-type]
            SimpleNamespace(kept_bytes=lambda: 0),  # type: ignore[arg-type]
            RunConfig(engine=Engine(backend="single"), measure=Measure(warmup=2)),
            SimpleNamespace(at=lambda step, phase: None),  # type: ignore[arg-type]
            tmp_path,
            SimpleNamespace(take=lambda: 100),  # type: ignore[arg-type]
            Moment(parts),  # type: ignore[arg-type]
        )
        return trained, found

    return run


def test_a_peak_that_was_seen_is_not_looked_for_again(watched):
    trained, found = watched([96])
    assert trained == [2]
    assert (found["peak_bytes"], sum(found["at_peak"].values())) == (100, 96)


def test_one_that_was_missed_is(watched):
    trained, found = watched([94, 94, 97])
    assert trained == [2, 1, 1]
    assert sum(found["at_peak"].values()) == 97


def test_it_is_given_up_at_last_and_told_as_it_is(watched):
    trained, found = watched([80])
    assert trained == [2, *[1] * warmup.AGAIN]
    assert sum(found["at_peak"].values()) == 80


def test_all_ranks_take_the_same_steps(watched):
    assert watched([99], other=False)[0] == [2, *[1] * warmup.AGAIN]


def test_where_nothing_can_be_seen_nothing_is_looked_for(watched):
    assert watched([None])[0] == [2]
