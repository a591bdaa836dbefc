"""Peak memory of this rank, and what it is made of, from tensors that exist."""

import ctypes
import gc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bench.measure import makeup


def smaps() -> dict[str, int]:
    """Bytes by field of /proc/self/smaps_rollup: `Rss`, `Pss` (pages shared with others counted once over all), ..."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def resident_peak() -> int:
    """The kernel's own high-water mark of this process's resident set, in bytes, since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


def libraries() -> int:
    """This process's share of the resident pages of libraries, in bytes."""
    return makeup.sizes()["libraries"]


class PeakMemory:
    """Peaks of this rank above its level when this was made. Nothing runs beside the steps: allocator and kernel keep the marks.

    CPU: peak of the proportional set size, as the resident set's high-water mark less what is shared with other processes
    when it is read; without the pages of libraries, since how many of those are resident is chance: the page cache's, and
    that of who else has them mapped. GPU: the allocator's peak.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else smaps()["Pss"] - libraries()
        self._begin()

    def _begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (proc(5))

    def take(self) -> int:
        """The peak since the last `take`, above the level at the start, in bytes; begin anew."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            now = smaps()
            peak = resident_peak() - (now["Rss"] - now["Pss"]) - libraries()
        self._begin()
        return peak - self.base_bytes


def device_memory(device: torch.device) -> dict[str, int]:
    """What a GPU says beside the allocator's own peak: bytes reserved at most, bytes in use by all, retries, all since the start."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory_stats(device)
    return {
        "reserved_peak_bytes": torch.cuda.max_memory_reserved(device),
        "device_used_bytes": total - free,
        "allocator_retries": stats["num_alloc_retries"],
    }


def give_back_freed() -> None:
    """Hand memory that was freed back to the system, so that what a setup needed for a moment does not count as held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library keeps its own counsel; the peak is then an upper bound


class Activations:
    """`with Activations() as kept:` around a step: bytes that autograd keeps for backward, parameters left out.

    `peak_bytes` is the most that was kept at once for one backward: the largest micro-batch, each storage counted once.
    `look` is called whenever a tensor is kept or taken back.
    """

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self.peak_bytes = 0
        self._look = look
        self._seen: dict[int, tuple[int, StorageWeakRef]] = {}
        self._kept = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor:
        owner = tensor if tensor._base is None else tensor._base
        if not isinstance(owner, nn.Parameter):
            storage = tensor.untyped_storage()
            known = self._seen.get(storage.data_ptr())
            self._kept += storage.nbytes() - (known[0] if known else 0)
            if not known or known[0] != storage.nbytes() or known[1].expired():
                self._seen[storage.data_ptr()] = (storage.nbytes(), StorageWeakRef(storage))
            self.peak_bytes = max(self.peak_bytes, self._kept)
        self._look()
        return tensor

    def _unpack(self, tensor: Tensor) -> Tensor:
        self._look()
        return tensor

    def alive(self) -> int:
        """Bytes of this micro-batch that backward has not let go of yet."""
        return sum(size for size, storage in self._seen.values() if not storage.expired())

    def next_micro_batch(self) -> None:
        """Backward has let go of what was kept."""
        self._seen.clear()
        self._kept = 0

    def __enter__(self) -> "Activations":
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)


def bytes_held(holdings: Mapping[str, Iterable[Tensor]]) -> dict[str, int]:
    """Bytes by category; a storage that several tensors share is counted once, for the first category that names it."""
    seen: set[int] = set()
    held = {}
    for category, tensors in holdings.items():
        held[category] = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen and storage.nbytes():
                seen.add(storage.data_ptr())
                held[category] += storage.nbytes()
    return held
