"""Horovod (Sergeev & Del Balso 2018, arXiv 1802.05799): hooks hand gradients to a background thread that fuses and reduces them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from backends.base import BackendError, BackendUnavailable, EngineConfig, trained
from backends.replica import Replica
from backends.world import World

# Few samples, so that the search ends within a run's warm-up and first steps.
AUTOTUNE = {
    "HOROVOD_AUTOTUNE": "1",
    "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "1",
    "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
    "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "8",
}
# A value in the environment is fixed: the autotuner would leave it (horovod/common/operations.cc).
CHOSEN_BY_AUTOTUNE = ("HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME", "HOROVOD_CACHE_CAPACITY")


class Horovod(Replica):
    """Wraps the optimizer. Its settings are environment variables, read once when it starts."""

    name: ClassVar[str] = "horovod"

    def __init__(self, world: World, config: EngineConfig) -> None:
        if find_spec("horovod") is None:
            raise BackendUnavailable("Horovod is not installed; type: make horovod   (or: python -m backends.build)")
        super().__init__(world, config)
        tuning = config.tuning
        self.environment = {
            "HOROVOD_FUSION_THRESHOLD": str(config.bucket_bytes),
            "HOROVOD_CYCLE_TIME": f"{tuning.cycle_ms or 1:g}",  # ms between two looks at the queue; its default, stated
            "HOROVOD_CACHE_CAPACITY": "1024",
            "HOROVOD_HIERARCHICAL_ALLREDUCE": "0",
            "HOROVOD_HIERARCHICAL_ALLGATHER": "0",
            "HOROVOD_AUTOTUNE": "0",  # it would change the run while it is measured
            "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, int(config.timeout_s / 4))),
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(max(2, int(config.timeout_s))),
            "HOROVOD_GLOO_TIMEOUT_SECONDS": str(max(2, int(config.timeout_s))),
            "HOROVOD_LOG_LEVEL": os.environ.get("HOROVOD_LOG_LEVEL", "error"),
        }
        if tuning.autotune:
            self.environment |= AUTOTUNE
        unset = [name for name in CHOSEN_BY_AUTOTUNE if tuning.autotune]
        for name in unset:
            del self.environment[name]
        os.environ.update(self.environment)
        for name in ("HOROVOD_TIMELINE", "HOROVOD_AUTOTUNE_LOG", *unset):
            os.environ.pop(name, None)  # a timeline writes a file in the middle of what is measured
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise BackendUnavailable(
                f"Horovod does not load with this torch ({error}); build it again: python -m backends.build"
            ) from error
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            if not hvd.nccl_built():
                raise BackendUnavailable(
                    "this Horovod was built without NCCL: gradients would travel through host memory; "
                    "build it where CUDA and NCCL are found: python -m backends.build"
                )
        hvd.init()
        if (hvd.rank(), hvd.size()) != (world.rank, world.size):
            raise BackendError(
                f"Horovod is rank {hvd.rank()} of {hvd.size()}, the launcher said {world.rank} of {world.size}"
            )
        self.hvd = hvd
        self.exchanging = True

    def _start_equal(self) -> None:
        self.hvd.broadcast_parameters(
            {f"p.{k}": v for k, v in self.model.named_parameters()}
            | {f"b.{k}": v for k, v in self.model.named_buffers()},
            root_rank=0,
        )
        # Not broadcast_optimizer_state: on a fresh optimizer it takes a real step.

    def _wrap(self) -> None:
        self.optimizer = self.hvd.DistributedOptimizer(
            self.optimizer,
            named_parameters=trained(self.model),
            compression=getattr(self.hvd.Compression, self.config.tuning.compression),
            backward_passes_per_step=self.config.accumulation,
            op=self.hvd.Average,
            gradient_predivide_factor=1.0,
            num_groups=0,
            sparse_as_dense=False,
        )

    def asked(self) -> dict[str, Any]:
        return {
            **super().asked(),
            **self.environment,
            "backward_passes_per_step": self.config.accumulation,
            "op": "Average",
            "compression": {"none": "NoneCompressor", "fp16": "FP16Compressor"}[self.config.tuning.compression],
            "gradient_predivide_factor": 1.0,
            "hooked_tensors": len(trained(self.model)) if self.world.size > 1 else 0,
            "world_size": self.world.size,
        }

    def applied(self) -> dict[str, Any]:
        optimizer: Any = self.optimizer
        return {
            **super().applied(),
            **{name: os.environ.get(name) for name in self.environment},
            "backward_passes_per_step": optimizer.backward_passes_per_step,
            "op": {self.hvd.Average: "Average", self.hvd.Sum: "Sum"}.get(optimizer.op),
            "compression": optimizer._compression.__name__,
            "gradient_predivide_factor": optimizer.gradient_predivide_factor,
            "hooked_tensors": len(optimizer._requires_update),
            "world_size": self.hvd.size(),
            "controller": "mpi" if self.hvd.mpi_enabled() else "gloo",  # whichever the launcher was told
        }

    @contextmanager
    def without_exchange(self) -> Iterator[None]:
        optimizer: Any = self.optimizer
        optimizer._allreduce_grad_async = lambda p: (None, None)  # hooks run and hand over nothing
        self.exchanging = False
        try:
            yield
        finally:
            del optimizer._allreduce_grad_async  # the class's own is back
            self.exchanging = True

    def _finish_exchange(self) -> None:
        if not self.exchanging:  # what `synchronize` would do besides waiting
            optimizer: Any = self.optimizer
            optimizer._handles.clear()
            optimizer.set_backward_passes_per_step(self.config.accumulation)
            return
        self.optimizer.synchronize()  # type: ignore[union-attr] # before clipping: until here gradients are this rank's own

    def _update(self) -> None:
        with self.optimizer.skip_synchronize():  # type: ignore[union-attr]
            super()._update()

    def gather(self, value: Any) -> list[Any]:
        everyone: list[Any] = self.hvd.allgather_object(value, name="ringzero.gather")
        return everyone

    def past_sockets(self) -> str | None:
        if self.device.type == "cuda":
            return "NCCL moves bytes between GPUs over NVLink, PCIe, shared memory or InfiniBand"
        return "MPI moves bytes between ranks of one host through shared memory" if self.hvd.mpi_enabled() else None

    def close(self) -> None:
        self.release()
        self.hvd.shutdown()
