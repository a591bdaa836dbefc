"""PyTorch DistributedDataParallel: all-reduces gradient buckets while backward still runs (Li et al. 2020, arXiv 2006.15704)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from backends.group import TorchGroup, broadcast_from_first
from backends.local import alone, cut
from backends.replica import Replica


class DDP(TorchGroup, Replica):
    """Wraps the model; DDP averages in the bucket before the sum."""

    name: ClassVar[str] = "ddp"

    def _start_equal(self) -> None:
        broadcast_from_first(self.model)

    def _wrap(self) -> None:
        options = {
            key: value for key, value in self.asked().items() if key in ("gradient_as_bucket_view", "static_graph")
        }
        self.wrapped = DistributedDataParallel(
            self.model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            bucket_cap_mb=self.config.bucket_bytes / 2**20,
            forward_sync_buffers=False,  # frozen statistics never change: the others send none either
            find_unused_parameters=False,
            init_sync=True,
            **options,
        )
        if self.config.tuning.compression == "fp16":
            self.wrapped.register_comm_hook(None, fp16_compress_hook)

    def asked(self) -> dict[str, Any]:
        return {
            **super().asked(),
            "bucket_bytes": self.config.bucket_bytes,
            "gradient_as_bucket_view": self.config.tuning.gradient_as_bucket_view,
            "static_graph": self.config.tuning.static_graph,
            "find_unused_parameters": False,
            "forward_sync_buffers": False,
            "compression": self.config.tuning.compression,
            "world_size": self.world.size,
        }

    def applied(self) -> dict[str, Any]:
        ddp = self.wrapped
        hooks = ", ".join(hook.__name__ for hook, _ in ddp._comm_hooks)
        return {
            **super().applied(),
            "bucket_bytes": ddp.bucket_bytes_cap,
            "gradient_as_bucket_view": ddp.gradient_as_bucket_view,
            "static_graph": ddp.static_graph,
            "find_unused_parameters": ddp.find_unused_parameters,
            "forward_sync_buffers": ddp.forward_sync_buffers,
            "compression": {"": "none", "fp16_compress_hook": "fp16"}.get(hooks, hooks),
            "world_size": torch.distributed.get_world_size(ddp.process_group),
        }

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        self.wrapped.require_backward_grad_sync = sync  # DDP decides at forward; later it would train another model
        return self.wrapped(batch)

    def without_exchange(self) -> AbstractContextManager[None]:
        return cut(alone, self.local, (self.device.type,))  # its reducer reads each all-reduce's result

    def release(self) -> None:
        self.wrapped = None  # type: ignore[assignment]
        super().release()
