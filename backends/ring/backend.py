"""RingZero's own engine: gradients become ready in hooks, full buckets go around the ring on one thread, step waits for them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backends.base import BackendError, BackendUnavailable, EngineConfig
from backends.group import join as join_group
from backends.group import past_sockets
from backends.replica import Replica
from backends.ring.algorithm import ring_allreduce
from backends.ring.buckets import Bucket, plan
from backends.ring.compression import WIRE, compressed_allreduce
from backends.ring.pipeline import pipelined_allreduce, scratch_values
from backends.ring.reduction import MEAN, Reduction
from backends.ring.shared import SharedMemory, space, unshareable
from backends.ring.transport import ExchangeError, MPITransport, TorchTransport, Transport
from backends.world import World

OWN = ("auto", "shared")  # for all else than gradients the launcher's own way
CARRIERS = {"mpi": "MPITransport", "torch": "TorchTransport"}


def join(world: World, config: EngineConfig) -> Transport:
    """The transport asked for, or the launcher's own. Raises BackendUnavailable with what to type instead."""
    launchers = {"mpirun": "mpi", "srun": "mpi", "torchrun": "torch"}
    wanted = launchers[world.launcher] if config.transport in OWN else config.transport
    if wanted == "mpi":
        if world.launcher not in ("mpirun", "srun"):
            raise BackendUnavailable("--transport mpi needs mpirun: mpirun -np 2 python -m bench.run --backend ring")
        if find_spec("mpi4py") is None:
            raise BackendUnavailable("mpi4py is not installed; type: pip install -c constraints.txt -e '.[mpi]'")
        if config.device == "cuda":
            raise BackendUnavailable(
                "the ring over MPI works on host memory; for GPUs add --transport torch to ringzero launch, or start it with "
                "torchrun: torchrun --nproc-per-node 2 -m bench.run --backend ring"
            )
        return MPITransport(config.timeout_s)
    if world.launcher != "torchrun":  # srun names no meeting place
        raise BackendUnavailable(
            "--transport torch needs torchrun: torchrun --nproc-per-node 2 -m bench.run --backend ring"
        )
    kind = "cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo"
    join_group(kind, config.timeout_s)
    return TorchTransport()


def _released(flat: Tensor, reduction: Reduction) -> None:
    raise BackendError("ring: no model to exchange gradients of; call setup first")


class Ring(Replica):
    """Buckets are exchanged in plan order on every rank, whichever order their gradients come in: the ring needs agreement."""

    name: ClassVar[str] = "ring"

    def __init__(self, world: World, config: EngineConfig, transport: Transport | None = None) -> None:
        super().__init__(world, config)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.transport = transport or join(world, config)
        self.between_processes = transport is None
        self.memory: SharedMemory | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="ring")
        self.hooks: list[Any] = []
        self.scratch = torch.empty(0)
        self.wire: torch.dtype | None = None
        self.exchanging = True

    def _start_equal(self) -> None:
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                self.transport.broadcast(tensor.detach())

    def _wrap(self) -> None:
        order = plan([p.nbytes for p in self.parameters], self.config.bucket_bytes, [p.dtype for p in self.parameters])
        self._check_same_plan([[tuple(self.parameters[i].shape) for i in group] for group in order])
        groups = [[self.parameters[i] for i in group] for group in order]
        self.memory = self._share(sum(space(sum(p.nbytes for p in group)) for group in groups))
        self.buckets = [Bucket(group, self.memory.take if self.memory else None) for group in groups]
        self.allreduce = self.memory.allreduce if self.memory else self._over_messages()
        self.pending: list[Future[None]] = []
        self.sync = False
        for bucket in self.buckets:
            self.hooks += [
                p.register_post_accumulate_grad_hook(partial(self._ready, bucket, index))
                for index, p in enumerate(bucket.parameters)
            ]

    def _share(self, size: int) -> SharedMemory | None:
        """Memory for all buckets that the ranks of one host read each other's from; None where bytes have to be sent.

        Raises BackendUnavailable where shared memory was asked for and can't be had.
        """
        asked = self.config.transport
        compressed = self.config.tuning.compression != "none"  # a neighbour that reads is told nothing shorter
        if (
            self.world.size == 1
            or asked in CARRIERS
            or (asked == "auto" and (compressed or not self.between_processes))
        ):
            return None
        if self.device.type == "cuda":
            reason: str | None = "gradients lie on GPUs"
        elif (reason := unshareable(self.transport)) is None:
            try:
                return SharedMemory(self.transport, size, self.config.timeout_s)
            except ExchangeError as error:  # on every rank
                reason = str(error)
        if asked == "shared":
            raise BackendUnavailable(
                f"--transport shared is for CPU ranks of one host: {reason}; type: --transport auto"
            )
        return None

    def _over_messages(self) -> Callable[[Tensor, Reduction], None]:
        """The ring over what is sent and received, with one scratch for all buckets: they are exchanged one after the other."""
        size, links = self.world.size, self.transport
        wire = self.wire = WIRE.get(self.config.tuning.compression) if size > 1 else None

        def kind(flat: Tensor) -> tuple[Callable[..., None], torch.dtype, int]:
            """Which ring, and its scratch: dtype and values."""
            if wire is not None and wire.itemsize < flat.element_size():
                return compressed_allreduce, wire, 2 * -(-len(flat) // size)
            if links.pipelined:
                return pipelined_allreduce, flat.dtype, scratch_values(len(flat), size, flat.element_size())
            return ring_allreduce, flat.dtype, -(-len(flat) // size)

        need = max(dtype.itemsize * values for _, dtype, values in (kind(bucket.flat) for bucket in self.buckets))
        self.scratch = self.buckets[0].flat.new_empty(-(-need // 8) * 8, dtype=torch.uint8)  # to be seen as any dtype

        def allreduce(flat: Tensor, reduction: Reduction) -> None:
            ring, dtype, _ = kind(flat)
            ring(flat, links, self.scratch.view(dtype), reduction)

        return allreduce

    def _carrier(self) -> str:
        return type(self.memory or self.transport).__name__

    def _check_same_plan(self, shapes: list[list[tuple[int, ...]]]) -> None:
        """Raise BackendError where ranks would exchange different buckets: found here, not by a hang or by wrong sums."""
        plans = self.gather((shapes, [str(p.dtype) for p in self.parameters]))
        if odd := [rank for rank, theirs in enumerate(plans) if theirs != plans[0]]:
            raise BackendError(
                f"ring: the buckets of rank {', '.join(map(str, odd))} are not those of rank 0: shapes, dtypes or order of "
                "the trained parameters differ; give every rank the same model and --bucket-mb"
            )

    def asked(self) -> dict[str, Any]:
        return {
            **super().asked(),
            "world_size": self.world.size,
            "transport": CARRIERS.get(self.config.transport) or self._carrier(),
            "compression": self.config.tuning.compression if self.world.size > 1 else "none",
            "buckets_within_limit": True,
            "gradients_are_views": True,
        }

    def applied(self) -> dict[str, Any]:
        shared = [b for b in self.buckets if len(b.parameters) > 1]
        starts = {b.flat.untyped_storage().data_ptr() for b in self.buckets}
        return {
            **super().applied(),
            "world_size": self.transport.size,
            "transport": self._carrier(),
            "compression": next((name for name, wire in WIRE.items() if wire == self.wire), "none"),
            "buckets_within_limit": all(b.flat.nbytes <= self.config.bucket_bytes for b in shared),
            "gradients_are_views": all(
                p.grad is not None and p.grad.untyped_storage().data_ptr() in starts for p in self.parameters
            ),
        }

    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        self.sync = sync
        return self.model(batch)

    def _ready(self, bucket: Bucket, index: int, _: nn.Parameter) -> None:
        bucket.place(index)
        if self.sync and bucket.mark_ready():
            self._launch(everything=False)

    @contextmanager
    def without_exchange(self) -> Iterator[None]:
        self.exchanging = False
        try:
            yield
        finally:
            self.exchanging = True

    def _launch(self, *, everything: bool) -> None:
        """Hand over full buckets in plan order, stopping at the first that is not full (or at none)."""
        if not self.exchanging:
            return
        if self.world.size == 1:  # nothing to exchange, and the thread's OpenMP team would spin beside backward's
            return
        for bucket in self.buckets:
            if bucket.launched:
                continue
            if bucket.missing and not everything:
                return
            bucket.launched = True
            if self.device.type == "cuda":
                self._reduce(bucket)  # on the stream that wrote the gradients
            else:
                self.pending.append(self.thread.submit(self._reduce, bucket))

    def _reduce(self, bucket: Bucket) -> None:
        self.allreduce(bucket.flat, MEAN)

    def _finish_exchange(self) -> None:
        for bucket in self.buckets:
            if bucket.missing:
                bucket.fill()  # parameters that took no part in this step have zero gradients, on every rank
        self._launch(everything=True)
        for future in self.pending:
            future.result()
        self.pending.clear()

    def _clear_gradients(self) -> None:
        for bucket in self.buckets:
            bucket.clear()

    def gather(self, value: Any) -> list[Any]:
        return self.transport.gather(value)

    def holdings(self) -> dict[str, list[Tensor]]:
        held = super().holdings()
        held["gradients"] = [b.flat for b in self.buckets]
        held["buffers"].append(self.memory.common if self.memory else self.scratch)
        return held

    def shared_bytes(self) -> int:
        return sum(bucket.flat.nbytes for bucket in self.buckets) if self.memory else 0

    def sent_bytes(self) -> int | None:
        return self.transport.sent_bytes

    def past_sockets(self) -> str | None:
        if self.memory:
            return "ranks of one host read each other's memory"
        if isinstance(self.transport, MPITransport):
            return "MPI moves bytes between ranks of one host through shared memory"
        return past_sockets(self.device)

    def release(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.buckets = []
        self.scratch, self.memory, self.wire = torch.empty(0), None, None
        self.allreduce = _released  # the old one holds that memory, or scratch
        super().release()

    def close(self) -> None:
        self.thread.shutdown()
        self.release()
        self.transport.close()
