"""Joining through torch.distributed: what every engine that stands on a torch process group shares."""

import gc
import os
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from backends.base import Backend, EngineConfig
from backends.local import copies, cut
from backends.world import World

RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # torchrun's variable: how often it has started the ranks again


class TorchGroup(Backend):
    """A backend whose ranks talk through the default process group: gloo on the CPU, NCCL beside it where there are GPUs."""

    def __init__(self, world: World, config: EngineConfig) -> None:
        super().__init__(world, config)
        kind = "gloo"
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            kind = "cpu:gloo,cuda:nccl"
        self.local: dict[str, Any] = {}  # collectives without a wire, once they were needed
        join(kind, config.timeout_s)

    def without_exchange(self) -> AbstractContextManager[None]:
        return cut(copies, self.local)

    def gather(self, value: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.world.size
        dist.all_gather_object(everyone, value)
        return everyone

    def past_sockets(self) -> str | None:
        return past_sockets(self.device)

    def close(self) -> None:
        self.release()
        self.local.clear()
        gc.collect()  # what still refers to the group would end its threads while the interpreter is already leaving
        if dist.is_initialized():
            dist.destroy_process_group()  # a group that is left standing aborts some processes at exit


def join(kind: str, timeout_s: float) -> None:
    """Make the default process group of all ranks that the launcher started.

    torchrun starts failed ranks again beside the store of the first start, where the addresses of the dead still stand: so
    each start has names of its own there.
    """
    limit = timedelta(seconds=timeout_s)
    store, rank, size = next(rendezvous("env://", timeout=limit))
    start = os.environ.get(RESTARTS, "0")
    own = dist.PrefixStore(f"start {start}", store)  # type: ignore[attr-defined] # torch leaves it out of its list of names
    dist.init_process_group(kind, store=own, rank=rank, world_size=size, timeout=limit)


def past_sockets(device: torch.device) -> str | None:
    """Why tensors of a process group on `device` do not travel over TCP; None where gloo does what it does by default."""
    if device.type == "cuda":
        return "NCCL moves bytes between GPUs over NVLink, PCIe, shared memory or InfiniBand"
    transport = os.environ.get("GLOO_DEVICE_TRANSPORT", "TCP")
    return None if transport.upper().startswith(("TCP", "UV")) else f"gloo was told to use {transport}"


def broadcast_from_first(model: nn.Module) -> None:
    """Give every rank the parameters and buffers (those not saved too) of rank 0, in place."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor, src=0)
