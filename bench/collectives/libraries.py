"""What each library's collectives are called, inside a rank: one class a library, on buffers that lie ready.

A collective gets `whole` (the buffer of S bytes) and `part` (S/N), both 1-D fp32:

    all_reduce       whole -> whole
    reduce_scatter   whole -> part, or the rank's own part of whole
    all_gather       part, or the rank's own part of whole -> whole
    broadcast        rank 0's whole -> whole
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from backends.world import World

Call = tuple[Callable[[], Any], Tensor | None]  # what is called, and where its result lies; None: it returns it
TIMEOUT_S = 600.0  # the parent's limit is shorter
TIMEOUT = timedelta(seconds=TIMEOUT_S)
# Its defaults, written out: a tensor alone is never fused, and the background thread looks at its queue every millisecond.
HOROVOD = {
    "HOROVOD_CYCLE_TIME": "1",
    "HOROVOD_FUSION_THRESHOLD": str(128 * 2**20),
    "HOROVOD_CACHE_CAPACITY": "1024",
    "HOROVOD_AUTOTUNE": "0",
    "HOROVOD_LOG_LEVEL": "error",
}


class Missing(RuntimeError):
    """This library can't be had in these processes; the message says why."""


class Library(ABC):
    """One library in one rank; made on all ranks together. Raises Missing, on every rank or on none."""

    settings: dict[str, Any]

    def __init__(self, world: World, values: int) -> None:
        """`values`: the longest buffer that will be asked for."""
        self.world, self.rank, self.size = world, world.rank, world.size
        self.settings = {}

    def memory(self, values: int, shared: Tensor) -> Tensor:
        """Where `values` values lie that this library exchanges: a part of `shared`, unless it wants its own."""
        return shared[:values]

    @abstractmethod
    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        """The operation on these buffers, to be called again and again, and its result."""

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part of the whole."""
        return torch.tensor_split(whole, self.size)[self.rank]


class MPI(Library):
    """mpi4py on the buffers' own memory."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        from mpi4py import MPI

        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self.settings = {"library": MPI.Get_library_version().split(",")[0].strip()}

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        mpi, comm, all_, own = self.mpi, self.comm, whole.numpy(), part.numpy()
        return {
            "all_reduce": (lambda: comm.Allreduce(mpi.IN_PLACE, all_), whole),
            "reduce_scatter": (lambda: comm.Reduce_scatter_block(all_, own), part),
            "all_gather": (lambda: comm.Allgather(own, all_), whole),
            "broadcast": (lambda: comm.Bcast(all_, root=0), whole),
        }[operation]


class Torch(Library):
    """torch.distributed's default group: gloo."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        self.settings = {"backend": dist.get_backend()}

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        return {
            "all_reduce": (lambda: dist.all_reduce(whole), whole),
            "reduce_scatter": (lambda: dist.reduce_scatter_tensor(part, whole), part),
            "all_gather": (lambda: dist.all_gather_into_tensor(whole, part), whole),
            "broadcast": (lambda: dist.broadcast(whole, src=0), whole),
        }[operation]


class NCCL(Library):
    """The same with NCCL between GPUs; an operation is over when its stream is."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        if not torch.cuda.is_available() or not dist.is_nccl_available():
            raise Missing("no GPU here that torch can use with NCCL")
        if torch.cuda.device_count() < world.local_size:
            raise Missing(f"{world.local_size} ranks, {torch.cuda.device_count()} GPUs: NCCL wants one for each")
        self.device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(self.device)
        self.group = dist.new_group(backend="nccl")
        self.buffer = torch.zeros(values, device=self.device)
        self.settings = {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}

    def memory(self, values: int, shared: Tensor) -> Tensor:
        return self.buffer[:values]

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        group, own = self.group, self.own(whole)
        run: Callable[[], Any] = {
            "all_reduce": lambda: dist.all_reduce(whole, group=group),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(own, whole, group=group),
            "all_gather": lambda: dist.all_gather_into_tensor(whole, own, group=group),
            "broadcast": lambda: dist.broadcast(whole, src=0, group=group),
        }[operation]

        def call() -> None:
            run()
            torch.cuda.synchronize()

        return call, own if operation == "reduce_scatter" else whole


class Horovod(Library):
    """Horovod's tensor operations; what gathers or scatters returns a new tensor."""

    def __init__(self, world: World, values: int, *, controller: str) -> None:
        super().__init__(world, values)
        import horovod.torch as hvd

        self.hvd = hvd
        found = "mpi" if hvd.mpi_enabled() else "gloo"
        if found != controller:
            raise Missing(
                f"Horovod came up over {found}, not over {controller}: build it again: python -m backends.build"
            )
        self.settings = {name: value for name, value in os.environ.items() if name in HOROVOD} | {"controller": found}

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        hvd, name = self.hvd, f"{operation}.{len(whole)}"
        return {
            "all_reduce": (lambda: hvd.allreduce_(whole, name=name, op=hvd.Sum), whole),
            "reduce_scatter": (lambda: hvd.synchronize(hvd.reducescatter_async(whole, name=name, op=hvd.Sum)), None),
            "all_gather": (lambda: hvd.synchronize(hvd.allgather_async(part, name=name)), None),
            "broadcast": (lambda: hvd.broadcast_(whole, root_rank=0, name=name), whole),
        }[operation]


class DeepSpeed(Library):
    """deepspeed.comm, which hands on to torch.distributed."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        import deepspeed.comm

        self.comm = deepspeed.comm
        self.settings = {"backend": dist.get_backend()}

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        comm = self.comm
        return {
            "all_reduce": (lambda: comm.all_reduce(whole), whole),
            "reduce_scatter": (lambda: comm.reduce_scatter_tensor(part, whole), part),
            "all_gather": (lambda: comm.all_gather_into_tensor(whole, part), whole),
            "broadcast": (lambda: comm.broadcast(whole, src=0), whole),
        }[operation]


class DeepSpeedShared(Library):
    """deepspeed.comm.inference_all_reduce. It falls back to gloo without a word, so what it stands on is looked at first."""

    def __init__(self, world: World, values: int) -> None:
        super().__init__(world, values)
        import deepspeed.comm

        from bench.collectives.groups import shm_problem

        if (reason := shm_problem(world)) is not None:
            raise Missing(reason)
        self.comm = deepspeed.comm

    def call(self, operation: str, whole: Tensor, part: Tensor) -> Call:
        return lambda: self.comm.inference_all_reduce(whole), whole
