"""The contract that every engine inherits, on the engine that is none."""

import gc
import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import backends
from backends import group
from backends.base import (
    BackendError,
    EngineConfig,
    SettingNotApplied,
    fingerprint,
    norm_of,
    trained,
)
from backends.saving import ranks_of, read_rng, rng_state, set_rng_state, write_rng, written_whole
from backends.single import Single
from backends.world import World


class Net(nn.Module):
    """Dropout makes the generator matter, the frozen scale must survive."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.layers(batch["x"] * self.scale) ** 2).mean()


def config(**changed: Any) -> EngineConfig:
    return EngineConfig(**{"accumulation": 1, "micro_batch": 5, **changed})


def single(kind: type[Single] = Single, **changed: Any) -> Single:
    torch.manual_seed(3)
    backend = kind(World(), config(**changed))
    backend.setup(Net(), lambda params: AdamW(params, lr=0.01))
    return backend


def go_on(backend: Single, steps: int = 2) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = backend.forward({"x": torch.randn(5, 3)}, sync=True)  # the data too comes from the saved generator
        backend.backward(loss)
        backend.step()
        losses.append(loss.item())
    return losses


def test_an_unknown_engine_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="unknown backend 'gloo'") as caught:
        backends.load("gloo")
    assert all(name in str(caught.value) for name in backends.NAMES)


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp", "ring"])
def test_engines_are_loaded_under_their_own_names(name):
    assert backends.load(name).name == name


def test_a_setting_that_is_not_applied_ends_the_run():
    class Deaf(Single):
        def applied(self) -> dict[str, Any]:
            return super().applied() | {"clip_norm": 0.0}

    with pytest.raises(SettingNotApplied, match=r"clip_norm: asked 1\.5, is 0\.0"):
        single(Deaf, clip_norm=1.5)
    single(Deaf, clip_norm=0.0)


def test_a_setting_that_can_not_be_read_back_ends_the_run():
    class Silent(Single):
        def applied(self) -> dict[str, Any]:
            return {"accumulation": 1}

    with pytest.raises(SettingNotApplied, match="clip_norm: asked"):
        single(Silent)


def test_an_engine_that_says_nothing_of_its_settings_ends_the_run():
    class Mute(Single):
        def asked(self) -> dict[str, Any]:
            return {}

    with pytest.raises(SettingNotApplied, match="nothing to compare"):
        single(Mute)


def test_ranks_that_start_from_other_weights_end_the_run():
    class Other(Single):
        def gather(self, value: Any) -> list[Any]:
            return [value, (value[0], value[1] + 1e-6)]

    with pytest.raises(BackendError, match="do not start from equal weights"):
        single(Other)


def test_a_fingerprint_tells_values_places_and_tensors_apart():
    state = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0, 6.0])}
    same = {name: value.clone() for name, value in state.items()}
    assert fingerprint(same) == fingerprint(state)
    others = [
        {"a": torch.tensor([2.0, 1.0, 3.0]), "b": state["b"]},
        {"a": state["b"], "b": state["a"]},
        {"a": torch.tensor([1.0, 2.0, 3.0000002]), "b": state["b"]},
        {"a": torch.tensor([4.0, 2.0, 3.0]), "b": torch.tensor([1.0, 5.0, 6.0])},
    ]
    assert len({fingerprint(each) for each in [state, *others]}) == 5


def test_what_fails_while_it_is_written_is_not_there(tmp_path):
    target = tmp_path / "new" / "state.pt"

    def fail_half_way() -> None:
        with written_whole(target) as path:
            path.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way()
    assert not target.exists()
    with written_whole(target) as path:
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way()
    assert target.read_text() == "whole"


def test_generators_go_back_to_where_they_were(tmp_path):
    random.gauss(0, 1)  # leaves a second value for the next call, which is state as well
    torch.save(rng_state(), tmp_path / "rng.pt")
    drawn = [torch.rand(3).tolist(), random.random(), random.gauss(0, 1)]
    assert [torch.rand(3).tolist(), random.random(), random.gauss(0, 1)] != drawn
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [torch.rand(3).tolist(), random.random(), random.gauss(0, 1)] == drawn


def test_generators_of_ranks_that_are_no_more_are_taken_away(tmp_path):
    for rank in range(3):
        write_rng(tmp_path, rank, 3)
    assert ranks_of(tmp_path) == 3
    for rank in range(2):
        write_rng(tmp_path, rank, 2)
    assert ranks_of(tmp_path) == 2


def test_more_ranks_than_wrote_take_the_generators_in_turn(tmp_path):
    drawn = []
    for rank in range(2):
        torch.manual_seed(rank)
        write_rng(tmp_path, rank, 2)
        drawn.append(torch.rand(3).tolist())
    for rank in range(4):
        read_rng(tmp_path, rank)
        assert torch.rand(3).tolist() == drawn[rank % 2]


def test_a_loaded_run_goes_on_bit_for_bit(tmp_path):
    first = single(clip_norm=0.1)
    go_on(first)
    first.save(tmp_path)
    losses, end = go_on(first), first.full_state(frozen=True)

    second = single(clip_norm=0.1)
    go_on(second, 1)
    second.load(tmp_path)
    assert second.steps == 2
    assert go_on(second) == losses
    state = second.full_state(frozen=True)
    assert set(state) == set(end)
    assert "scale" in state
    assert all(torch.equal(state[name], end[name]) for name in end)
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(BackendError, match=r"holds no checkpoint of single: replica\.pt") as caught:
        single().load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    single().save(tmp_path)
    other = Single(World(), config())
    other.setup(nn.Linear(3, 1), lambda params: SGD(params, lr=0.1))
    with pytest.raises(BackendError, match="belongs to another model"):
        other.load(tmp_path)


def test_the_norm_is_that_before_clipping_and_the_update_is_clipped():
    backend = single(clip_norm=0.01)
    backend.optimizer = SGD(backend.parameters, lr=1.0)
    before = backend.full_state()
    backend.backward(backend.forward({"x": torch.ones(5, 3)}, sync=True) * 100)
    norm = torch.cat([p.grad.flatten() for p in backend.parameters if p.grad is not None]).norm().item()
    info = backend.step()
    moved = torch.cat([(before[name] - p).flatten() for name, p in trained(backend.model)]).norm().item()
    assert info.grad_norm == pytest.approx(norm, rel=1e-5)
    assert norm > 0.02
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert not info.skipped


def test_a_norm_is_a_number_where_that_waits_for_nothing(monkeypatch):
    """On a GPU it stays a tensor; the meta device stands in for one, and can't be read at all."""
    assert type(norm_of(torch.tensor(2.5))) is float
    assert norm_of(2.5) == 2.5
    backend = single(clip_norm=0.01)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_, **__: torch.empty((), device="meta"))
    assert isinstance(backend._clip(), torch.Tensor)


def test_setup_begins_anew_and_release_lets_go():
    backend = single()
    go_on(backend)
    assert backend.steps == 2
    backend.setup(Net(), lambda params: SGD(params, lr=0.1))
    assert backend.steps == 0
    assert backend.holdings()["gradients"] == []
    weights = [weakref.ref(p) for p in backend.model.parameters()]
    backend.release()
    assert backend.optimizer is None
    assert list(backend.model.parameters()) == []
    gc.collect()
    assert [weight() for weight in weights] == [None] * len(weights), "the next model is built beside nothing"


def test_only_what_is_trained_is_given_to_the_optimizer():
    backend = single()
    assert backend.optimizer is not None
    given = [p for group in backend.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in given] == [id(p) for _, p in trained(backend.model)]
    assert "scale" not in backend.full_state()


def test_ranks_that_torchrun_starts_again_see_no_address_of_the_dead(monkeypatch):
    """It keeps one store for all its starts."""
    stores, shared = [], torch.distributed.HashStore()
    monkeypatch.setattr(group, "rendezvous", lambda url, **more: iter([(shared, 0, 1)]))
    monkeypatch.setattr(group.dist, "init_process_group", lambda kind, store, **more: stores.append(store))
    for start in ("0", "1"):
        monkeypatch.setenv(group.RESTARTS, start)
        group.join("gloo", 1.0)
    stores[0].set("address", "of the dead")
    assert stores[0].check(["address"])
    assert not stores[1].check(["address"])
