"""Flat buffers whose slices are the parameters' gradients, so that what autograd adds up is what the ring sends."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def plan(sizes: Sequence[int], limit: int, dtypes: Sequence[torch.dtype] = ()) -> list[list[int]]:
    """Indices of tensors of these `sizes`, grouped into buckets of at most `limit` and of one dtype each, last tensor first.

    Backward finishes the last layers first, so the first bucket is full while most of backward still lies ahead. A tensor
    larger than a bucket gets one of its own. Pure, so all ranks make the same plan.
    """
    buckets: list[list[int]] = []
    room = 0
    for index in reversed(range(len(sizes))):
        if not buckets or sizes[index] > room or (dtypes and dtypes[index] != dtypes[buckets[-1][0]]):
            buckets.append([])
            room = limit
        buckets[-1].append(index)
        room -= sizes[index]
    return buckets


class Bucket:
    """One flat buffer, cut into the gradients of `parameters`; counts which of them are there.

    `take(length, dtype)` makes the buffer, where it has to lie in a memory of a kind.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], take: Callable[[int, torch.dtype], Tensor] | None = None
    ) -> None:
        first = parameters[0]
        self.parameters = list(parameters)
        total = sum(p.numel() for p in parameters)
        self.flat = take(total, first.dtype) if take else torch.zeros(total, dtype=first.dtype, device=first.device)
        self.views: list[Tensor] = []
        offset = 0
        for p in parameters:
            strides = torch.empty_like(
                p, device="meta"
            ).stride()  # the parameter's, where it has no holes: autograd then adds
            self.views.append(self.flat[offset : offset + p.numel()].as_strided(p.shape, strides))
            offset += p.numel()
        self.clear()
        self.fill()

    def clear(self) -> None:
        """Forget all gradients. The next ones are copied in: cheaper than to zero these and add to them."""
        for p in self.parameters:
            p.grad = None
        self.missing = len(self.parameters)
        self.launched = False

    def place(self, index: int) -> None:
        """Move the first gradient of parameter `index` since `clear` to its slice; those that follow are added there."""
        p, view = self.parameters[index], self.views[index]
        if p.grad is not view:
            view.copy_(p.grad) if p.grad is not None else view.zero_()
            p.grad = view

    def fill(self) -> None:
        """Give parameters that took no part a gradient of zero."""
        for index in range(len(self.parameters)):
            self.place(index)

    def mark_ready(self) -> bool:
        """One more gradient is complete; True with the last."""
        self.missing -= 1
        return self.missing == 0
