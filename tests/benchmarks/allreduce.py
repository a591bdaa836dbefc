"""One rank of an all-reduce over hosts: `allreduce.py ring|ring-torch|gloo|horovod BYTES TIMES OUT`. Rank 0 writes its seconds."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from backends.ring.pipeline import pipelined_allreduce, scratch_values
from backends.ring.reduction import SUM
from backends.ring.transport import MPITransport, TorchTransport, Transport


def joined(kind: str, flat: torch.Tensor) -> tuple[int, Callable[[], object], Callable[[float], list[float]]]:
    """(rank, an all-reduce of `flat`, a gather of one number, which also is a barrier)."""
    if kind in ("ring", "ring-torch"):
        links: Transport
        if kind == "ring":
            links = MPITransport(120.0)
        else:
            dist.init_process_group("gloo")
            links = TorchTransport()
        scratch = torch.empty(scratch_values(len(flat), links.size, 4))
        return links.rank, lambda: pipelined_allreduce(flat, links, scratch, SUM), links.gather
    if kind == "gloo":
        dist.init_process_group("gloo")

        def gather(value: float) -> list[float]:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, value)
            return everyone

        return dist.get_rank(), lambda: dist.all_reduce(flat), gather
    import horovod.torch as hvd

    hvd.init()
    return hvd.rank(), lambda: hvd.allreduce_(flat, op=hvd.Sum, name="flat"), hvd.allgather_object


def main(kind: str, size: int, times: int, out: Path) -> None:
    """The first one is not kept: connections open, memory is touched."""
    torch.set_num_threads(1)
    flat = torch.zeros(size // 4)
    rank, allreduce, gather = joined(kind, flat)
    kept = []
    for _ in range(times + 1):
        gather(0.0)
        begun = time.perf_counter()
        allreduce()
        kept.append(max(gather(time.perf_counter() - begun)))
    if rank == 0:
        out.write_text(json.dumps(kept[1:]))
    if dist.is_initialized():
        dist.destroy_process_group()  # left alone it may abort the process after all was well


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
