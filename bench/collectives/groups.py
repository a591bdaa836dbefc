"""What a pool's libraries stand on, joined once a process: MPI, a torch process group, Horovod, DeepSpeed's group."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist

from backends.world import World
from bench.collectives import libraries, own
from bench.collectives.libraries import HOROVOD, TIMEOUT, Library

MAKERS: dict[str, Callable[[World, int], Library]] = {
    "ring": own.SharedRing,
    "ring-mpi": partial(own.MessageRing, carrier="mpi"),
    "ring-torch": partial(own.MessageRing, carrier="torch"),
    "ring-naive": partial(own.MessageRing, carrier="mpi", schedule="naive"),
    "ring-doubling": partial(own.MessageRing, carrier="mpi", schedule="doubling"),
    "ring-halving": partial(own.MessageRing, carrier="mpi", schedule="halving"),
    "mpi": libraries.MPI,
    "gloo": libraries.Torch,
    "horovod-gloo": partial(libraries.Horovod, controller="gloo"),
    "horovod-mpi": partial(libraries.Horovod, controller="mpi"),
    "deepspeed": libraries.DeepSpeed,
    "deepspeed-shm": libraries.DeepSpeedShared,
    "nccl": libraries.NCCL,
}
_state: dict[str, Any] = {}


def join(pool: str, wanted: list[str]) -> None:
    """Join the other ranks of a pool; collective."""
    warnings.simplefilter("ignore")  # the libraries' own business
    if pool == "torch":
        dist.init_process_group("gloo", timeout=TIMEOUT)
    elif pool.startswith("horovod"):
        os.environ.update(HOROVOD)
        import horovod.torch as hvd

        hvd.init()
    elif pool == "deepspeed":
        _join_deepspeed(with_shm="deepspeed-shm" in wanted)


def leave(pool: str) -> None:
    """Undo `join`."""
    if pool.startswith("horovod"):
        import horovod.torch as hvd

        hvd.shutdown()
    elif dist.is_initialized():
        dist.destroy_process_group()


def _join_deepspeed(*, with_shm: bool) -> None:
    """Its shared-memory collective is compiled at first use, when the group is joined: a failure there is kept as a reason."""
    import logging

    import deepspeed
    from deepspeed.accelerator import get_accelerator

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _state["shm"] = None
    if with_shm:
        try:
            get_accelerator().create_op_builder("ShareMemCommBuilder").load()
        except Exception as error:  # noqa: BLE001 - a compiler, ninja, a driver: whatever it was, it is the reason
            _state["shm"] = f"its shared-memory operator does not build: {error}"
    if not with_shm or _state["shm"]:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False, timeout=TIMEOUT)


def shm_problem(world: World) -> str | None:
    """Why `inference_all_reduce` would not take the shared-memory path; None where it does."""
    import torch
    from deepspeed.comm import comm

    if _state["shm"]:
        return str(_state["shm"])
    if os.environ.get("LOCAL_SIZE") != str(world.size):
        return "it is for ranks of one host"
    if not hasattr(torch.ops.deepspeed, "inference_all_reduce_"):
        return "its shared-memory operator is not loaded"
    if getattr(comm.cdb, "shm_vector_kernel_level", 0) < 1:
        return "its fp32 kernel needs AVX2, which this processor lacks"
    return None
