"""What engines share that keep the whole model on each rank: one optimizer over plain parameters, saved once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import (
    Backend,
    BackendError,
    MakeOptimizer,
    StepInfo,
    fused_wanted,
    is_fused,
    norm_of,
    optimizer_tensors,
    trained,
)
from backends.pieces import Held, flat
from backends.saving import read_rng, write_rng, written_whole


class Replica(Backend):
    """Whole parameters, gradients and optimizer state on each rank; an adapter adds how gradients become one mean."""

    def _own(self, make_optimizer: MakeOptimizer) -> None:
        self._start_equal()
        self.parameters = [p for _, p in trained(self.model)]
        self.optimizer = make_optimizer(self.parameters)
        self._wrap()

    def _start_equal(self) -> None:
        """Give every rank the weights of rank 0."""

    def _wrap(self) -> None:
        """Attach the engine to `self.model` or `self.optimizer`."""

    def asked(self) -> dict[str, Any]:
        return {
            "clip_norm": self.config.clip_norm,
            "accumulation": self.config.accumulation,
            "fused_optimizer": fused_wanted(self.config, self.optimizer),
        }

    def applied(self) -> dict[str, Any]:
        return {
            "clip_norm": self.config.clip_norm,  # this class itself clips and counts: there is nobody else to ask
            "accumulation": self.config.accumulation,
            "fused_optimizer": is_fused(self.optimizer),
        }

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        return self.model(batch)

    def step(self) -> StepInfo:
        assert self.optimizer is not None
        self._finish_exchange()
        norm = self._clip()
        self._update()
        self._clear_gradients()
        self.steps += 1
        return StepInfo(skipped=False, grad_norm=norm)

    def _finish_exchange(self) -> None:
        """Wait until every gradient is the mean over ranks."""

    def _clip(self) -> float | Tensor | None:
        """Scale the mean gradients to the norm allowed; the norm before that, or None with clipping off."""
        if not self.config.clip_norm:
            return None
        return norm_of(nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm, foreach=True))

    def _update(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()

    def _clear_gradients(self) -> None:
        assert self.optimizer is not None
        self.optimizer.zero_grad()

    def full_state(self, *, frozen: bool = False) -> dict[str, Tensor]:
        chosen = self.model.named_parameters() if frozen else trained(self.model)
        return {name: p.detach().to("cpu", copy=True) for name, p in chosen}

    def held(self) -> list[Held]:
        return [Held(name, p.numel(), 0, flat(p), p) for name, p in trained(self.model)]

    def holdings(self) -> dict[str, list[Tensor]]:
        assert self.optimizer is not None
        return {
            "parameters": [p.data for p in self.model.parameters()],
            "gradients": [p.grad for p in self.model.parameters() if p.grad is not None],
            "optimizer": optimizer_tensors(self.optimizer),
            "buffers": list(self.model.buffers()),
        }

    def release(self) -> None:
        self.parameters = []  # or the old weights would stand beside the next model's
        super().release()

    def save(self, directory: Path) -> None:
        assert self.optimizer is not None
        if self.world.rank == 0:
            content = {"steps": self.steps, "optimizer": self.optimizer.state_dict(), "model": self.full_state()}
            with written_whole(directory / "replica.pt") as path:
                torch.save(content, path)
        write_rng(directory, self.world.rank, self.world.size)
        self.gather(None)  # nobody reads before everybody has written

    def load(self, directory: Path) -> None:
        assert self.optimizer is not None
        path = directory / "replica.pt"
        if not path.exists():
            raise BackendError(f"{directory} holds no checkpoint of {self.name}: {path.name} is missing")
        content = torch.load(path, weights_only=True, map_location="cpu")
        own = dict(trained(self.model))
        if set(own) != set(content["model"]):
            differ = sorted(set(own) ^ set(content["model"]))
            raise BackendError(f"{path} belongs to another model: {', '.join(differ[:4])} on one side only")
        with torch.no_grad():
            for name, value in content["model"].items():
                own[name].copy_(value)
        self.optimizer.load_state_dict(content["optimizer"])
        self.steps = content["steps"]
        read_rng(directory, self.world.rank)
        self.gather(None)
