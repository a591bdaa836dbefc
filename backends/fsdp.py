"""PyTorch FSDP2 (`fully_shard`): parameters, gradients and optimizer state sharded, gathered block by block (Zhao et al. 2023)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from backends.base import (
    BackendError,
    MakeOptimizer,
    StepInfo,
    fused_wanted,
    is_fused,
    norm_of,
    optimizer_tensors,
    trained,
)
from backends.group import TorchGroup, broadcast_from_first
from backends.pieces import COUNT, Held, flat, place_of_count
from backends.saving import read_rng, write_rng

METADATA = ".metadata"  # the name that torch.distributed.checkpoint.FileSystemWriter gives it
MODEL, OPTIMIZER = "model.", "optimizer."  # before names in a checkpoint


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class FSDP(TorchGroup):
    """Shards every member of each ModuleList, then the root. Its unit of exchange is the block: there is no bucket size."""

    name: ClassVar[str] = "fsdp"

    def _own(self, make_optimizer: MakeOptimizer) -> None:
        broadcast_from_first(self.model)  # fully_shard takes the values as they lie on each rank
        mesh = init_device_mesh(self.device.type, (self.world.size,))
        half = self.config.tuning.compression == "fp16"  # what travels; precision is decided inside the model
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float16 if half else None)
        for block in self._blocks():
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=self.config.tuning.reshard)
        fully_shard(self.model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self.parameters = [p for _, p in trained(self.model)]  # after sharding: these are the new parameters
        self.optimizer = make_optimizer(self.parameters)

    def _blocks(self) -> list[nn.Module]:
        """What is sharded on its own before the root: gathered again in backward, the textbook form, unless tuned."""
        if self.config.tuning.one_unit:
            return []
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        return [block for modules in reversed(lists) for block in modules]

    def asked(self) -> dict[str, Any]:
        blocks = len(self._blocks())
        return {
            "clip_norm": self.config.clip_norm,
            "accumulation": self.config.accumulation,
            "sharded_modules": blocks + 1,
            "reshard_after_forward": [self.config.tuning.reshard] if blocks else [],
            "root_reshard_after_forward": False,
            "parameters_sharded": True,
            "param_dtype": None,
            "reduce_dtype": "torch.float16" if self.config.tuning.compression == "fp16" else None,
            "fused_optimizer": fused_wanted(self.config, self.optimizer),
            "world_size": self.world.size,
        }

    def applied(self) -> dict[str, Any]:
        units = [m for m in self.model.modules() if isinstance(m, FSDPModule)]
        groups = [g for unit in units for g in unit._get_fsdp_state()._fsdp_param_groups]
        root = self.model._get_fsdp_state()  # type: ignore[operator]
        policies = {g.mp_policy for g in groups}
        return {
            "clip_norm": self.config.clip_norm,
            "accumulation": self.config.accumulation,
            "sharded_modules": len(units),
            "reshard_after_forward": sorted(
                {
                    g._reshard_after_forward
                    for unit in units
                    if unit is not self.model
                    for g in unit._get_fsdp_state()._fsdp_param_groups
                }
            ),
            "root_reshard_after_forward": any(g._reshard_after_forward for g in root._fsdp_param_groups),
            "parameters_sharded": all(isinstance(p, DTensor) for p in self.model.parameters()),
            "param_dtype": next((str(p.param_dtype) for p in policies if p.param_dtype), None),
            "reduce_dtype": next((str(p.reduce_dtype) for p in policies if p.reduce_dtype), None),
            "fused_optimizer": is_fused(self.optimizer),
            "world_size": torch.distributed.get_world_size(),
        }

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(sync)
        return self.model(batch)

    def step(self) -> StepInfo:
        assert self.optimizer is not None
        norm = None
        if self.config.clip_norm:
            total = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm, foreach=True)
            norm = norm_of(total.full_tensor() if isinstance(total, DTensor) else total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return StepInfo(skipped=False, grad_norm=norm)

    def full_state(self, *, frozen: bool = False) -> dict[str, Tensor]:
        chosen = self.model.named_parameters() if frozen else trained(self.model)
        whole = {}
        for name, p in chosen:
            value = p.detach()
            whole[name] = (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)
        return whole

    def release(self) -> None:
        self.parameters = []  # they know the mesh, and the mesh its process group
        super().release()

    def held(self) -> list[Held]:
        held = []
        for name, p in trained(self.model):
            assert isinstance(p, DTensor)
            _, begin = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)  # shards are of rows
            row = p.numel() // p.shape[0]
            held.append(Held(name, p.numel(), begin[0] * row, flat(p), p))
        return held

    @property
    def replicated(self) -> bool:
        return False

    def holdings(self) -> dict[str, list[Tensor]]:
        assert self.optimizer is not None
        return {
            "parameters": [local(p.detach()) for p in self.model.parameters()],
            "gradients": [local(p.grad) for p in self.model.parameters() if p.grad is not None],
            "optimizer": [local(t) for t in optimizer_tensors(self.optimizer)],
            "buffers": list(self.model.buffers()),
        }

    def save(self, directory: Path) -> None:
        state_dict_saver.save({"steps": self.steps} | self._sharded(), storage_writer=FileSystemWriter(directory))
        write_rng(directory, self.world.rank, self.world.size)
        self.gather(None)

    def load(self, directory: Path) -> None:
        if not (directory / METADATA).exists():  # the first rank writes it, last of all
            raise BackendError(f"{directory} holds no checkpoint of {self.name}: {METADATA} is missing")
        reader = FileSystemReader(directory)
        self._make_state(reader.read_metadata().state_dict_metadata)
        state: dict[str, Any] = {"steps": 0} | self._sharded()
        state_dict_loader.load(state, storage_reader=reader)  # in place, each rank its own shards out of all files
        self.steps = state["steps"]
        read_rng(directory, self.world.rank)
        self.gather(None)

    def _sharded(self) -> dict[str, Any]:
        """The live shards and counts by name, as torch's distributed checkpoint (`torch.distributed.checkpoint`) takes them."""
        assert self.optimizer is not None
        found: dict[str, Any] = {}
        for name, p in trained(self.model):
            found[MODEL + name] = p.detach()
            found |= {f"{OPTIMIZER}{name}.{key}": value for key, value in self.optimizer.state.get(p, {}).items()}
        return found

    def _make_state(self, written: Mapping[str, Any]) -> None:
        """Room for what was written of the optimizer, as many steps as it had taken. Raises BackendError for another model."""
        assert self.optimizer is not None
        own = dict(trained(self.model))
        sizes = {key.removeprefix(MODEL): each.size for key, each in written.items() if key.startswith(MODEL)}
        if differ := sorted(name for name in {*own, *sizes} if name not in own or sizes.get(name) != own[name].shape):
            raise BackendError(
                f"the checkpoint belongs to another model: {', '.join(differ[:4])} are not the same there"
            )
        for name, p in own.items():
            start = f"{OPTIMIZER}{name}."
            kept = {key.removeprefix(start): each.size for key, each in written.items() if key.startswith(start)}
            self.optimizer.state[p] = {
                key: torch.zeros_like(p.detach())
                if key != COUNT and size == p.shape
                else torch.zeros(size, device=place_of_count(self.optimizer, p))
                for key, size in kept.items()
            }
