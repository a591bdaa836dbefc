"""Whether a GPU's caching allocator was short of memory while steps were timed: then a speed is the allocator's."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch

FULL = 0.9  # of the GPU's memory reserved: the next block may not fit without giving others back


def pressure(before: Mapping[str, int], after: Mapping[str, int], total_bytes: int) -> dict[str, Any]:
    """What two looks at `torch.cuda.memory_stats` say of the window between them, on a GPU of `total_bytes`.

    `retries`: allocations that had to free cached blocks first, which waits for the device. `reserved_share`: most bytes
    reserved, over the GPU's; `allocated_bytes` and `reserved_bytes`: their peaks. `thrashing`: retries, or a share above 0.9.
    """
    retries = after["num_alloc_retries"] - before["num_alloc_retries"]
    reserved, allocated = after["reserved_bytes.all.peak"], after["allocated_bytes.all.peak"]
    share = reserved / total_bytes
    return {
        "retries": retries,
        "reserved_bytes": reserved,
        "allocated_bytes": allocated,
        "reserved_share": share,
        "thrashing": retries > 0 or share > FULL,
    }


def together(first: Mapping[str, Any] | None, second: Mapping[str, Any]) -> dict[str, Any]:
    """`pressure` of two windows as of one: retries of both, the higher peaks; thrashing in either is thrashing."""
    if first is None:
        return dict(second)
    return {
        name: first[name] + value if name == "retries" else max(first[name], value) for name, value in second.items()
    }


class Allocator:
    """`with allocator:` around each window, as often as wanted; then `fields` of the rank's memory in all of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.fields: dict[str, Any] = {
            "cuda_allocator": None,
            "cuda_allocator_reason": "torch has no caching allocator on a CPU, so nothing to retry",
        }

    def __enter__(self) -> "Allocator":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_stats(self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            found = pressure(self._before, torch.cuda.memory_stats(self.device), total)
            self.fields = {"cuda_allocator": together(self.fields["cuda_allocator"], found)}
