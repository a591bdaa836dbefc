"""Who looks on while a model runs on tensors without storage: one answers what depends on values, two count bytes.

Both counters are torch's own (torch.distributed._tools), for models that they do not expect: with frozen parameters, and with
blocks that a step leaves out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Known(TorchDispatchMode):
    """Answers what depends on values: every truth is true, and a mask selects `count` of its elements."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        if func is aten.masked_select.default:
            return args[0].new_empty(self.count)
        if func is aten.index.Tensor and (mask := _mask(args[1])) is not None:
            return args[0].new_empty((self.count, *args[0].shape[mask.dim() :]))
        puts = (aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
        if func in puts and _mask(args[1]) is not None:
            return torch.empty_like(args[0]) if func is aten.index_put.default else args[0]
        return func(*args, **named)


def _mask(indices: Sequence[Tensor | None]) -> Tensor | None:
    first = indices[0] if indices else None
    return first if first is not None and first.dtype == torch.bool else None


class Tracker(MemTracker):
    """Torch's, for a model with frozen parameters: it would ask each for its gradient."""

    def _track_module_params_and_buffers(self, module: nn.Module, install_grad_hooks: bool = True) -> tuple[int, int]:
        for param in module.parameters():
            if not param.requires_grad:
                self._param_to_grad_hook_handles[param] = (_NoHook(), _NoHook())
        return super()._track_module_params_and_buffers(module, install_grad_hooks)


class _NoHook:
    def remove(self) -> None:
        """Nothing was installed."""


class ShardTracker(FSDPMemTracker):
    """Torch's, for a model with blocks that a step does not run: the text tower's were never gathered."""

    def _fsdp_param_group_post_backward(self, fsdp_mod: Any, orig_fsdp_param_group_post_backward: Any) -> Any:
        told = super()._fsdp_param_group_post_backward(fsdp_mod, orig_fsdp_param_group_post_backward)

        def inner(*args: Any, **named: Any) -> None:
            (told if fsdp_mod in self.memory_tracking else orig_fsdp_param_group_post_backward)(*args, **named)

        return inner
