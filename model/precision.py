"""Precision profiles. They are part of the model, so that every engine computes the same.

`fp32` is plain. `amp_bf16` runs towers, LLM and prompt learner in bfloat16 by autocast; parameters, gradients, maps
and losses stay fp32.
"""

import torch
from torch import Tensor

PRECISIONS = ("fp32", "amp_bf16")


def check(precision: str) -> str:
    """The name itself. Raises ValueError, listing the names, for an unknown one."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    return precision


def reduced(precision: str, device: torch.device) -> torch.autocast:
    """Around what the profile runs in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "amp_bf16")


def unreduced(device: torch.device) -> torch.autocast:
    """Around what no profile may reduce: logits times 100 saturate in half precision, and their gradients vanish."""
    return torch.autocast(device.type, enabled=False)


def full(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
