"""What DeepSpeed is told, and what a live engine makes of it, in one process."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from backends.base import EngineConfig
from backends.deepspeed import DeepSpeed
from backends.tuning import Tuning
from backends.world import World

pytest.importorskip("deepspeed")
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


class Net(nn.Module):
    """Four tensors of 100 values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(4))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        x = batch["x"]
        for layer in self.layers:
            x = layer(x)
        return x.pow(2).mean()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("MASTER_PORT", "0")
    for name, value in {**ALONE, "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    return World(rank=0, size=1, local_rank=0, local_size=1, launcher="torchrun")


def test_stage_0_exchanges_buckets_of_the_size_that_was_asked_for(alone: World, monkeypatch: Any) -> None:
    """Its own default, 5e8 elements, is one bucket for all; a bucket is full with the tensor that exceeds it."""
    sent: list[int] = []
    config = EngineConfig(accumulation=2, micro_batch=1, bucket_mb=150 * 4 / 2**20, zero_stage=0)
    engine = DeepSpeed(alone, config)
    try:
        engine.setup(Net(), lambda params: SGD(params, lr=0.1))
        assert engine.asked()["allreduce_bucket_size"] == engine.applied()["allreduce_bucket_size"] == 150
        monkeypatch.setattr(engine.deepspeed.comm, "all_reduce", lambda tensor, **_: sent.append(tensor.numel()))
        for sync in (False, True):
            engine.backward(engine.forward({"x": torch.ones(1, 10)}, sync=sync))
        engine.step()
    finally:
        engine.close()
    assert sent == [200, 200]


@pytest.mark.parametrize(("reshard", "ahead"), [(True, 0), (False, 150)])
def test_stage_3_asks_for_no_more_fetching_ahead_than_it_does(reshard: bool, ahead: int) -> None:
    """Its coordinator fetches ahead up to stage3_max_live_parameters; at 0 a bucket asked for would be said and not done."""
    config = EngineConfig(
        accumulation=1, micro_batch=1, bucket_mb=150 * 4 / 2**20, zero_stage=3, tuning=Tuning(reshard=reshard)
    )
    engine = object.__new__(DeepSpeed)  # its JSON alone: no engine is started
    engine.config, engine.world, engine.model = config, World(), Net()
    zero = engine.native_config()["zero_optimization"]
    assert zero["stage3_prefetch_bucket_size"] == ahead
    assert (zero["stage3_max_live_parameters"] == 0) is reshard
