"""How bytes reach another rank: over MPI, over torch point-to-point, or over queues between threads of one process (tests)."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Wait = Callable[[], Any]  # returns once the tensor may be used again; raises ExchangeError


SPINS = 1000  # looks at a message, the core offered to others between them, before sleeping begins
NAP_S = 20e-6  # what a sleep lasts: backward computes on this core meanwhile


class ExchangeError(RuntimeError):
    """A neighbour died, did not come in time, or sent something else than was agreed; the message names it."""


class Links(ABC):
    """Rank `rank` of `size`, able to send and to receive at the same time. Counts what it sends.

    Messages between two ranks arrive in the order they were sent. An empty tensor is not sent: both ends know its size.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.right, self.left = (rank + 1) % size, (rank - 1) % size
        self.sent_bytes = 0

    def send(self, tensor: Tensor, to: int | None = None) -> Wait:
        """Begin to send a contiguous tensor to a rank (the right one); it must not change until the wait is over."""
        self.sent_bytes += tensor.nbytes
        return self._send(tensor, self.right if to is None else to)

    def receive(self, tensor: Tensor, source: int | None = None) -> Wait:
        """Begin to fill a contiguous tensor from a rank (the left one)."""
        return self._receive(tensor, self.left if source is None else source)

    def exchange(self, send: Tensor, receive: Tensor, to: int | None = None, source: int | None = None) -> None:
        """Send one tensor while another is filled; returns when both are done."""
        waits = []
        if receive.numel():
            waits.append(self.receive(receive, source))
        if send.numel():
            waits.append(self.send(send, to))
        for wait in waits:
            wait()

    @abstractmethod
    def _send(self, tensor: Tensor, to: int) -> Wait: ...

    @abstractmethod
    def _receive(self, tensor: Tensor, source: int) -> Wait: ...


class Transport(Links):
    """Links to every other rank, and what a training needs besides the ring."""

    pipelined: bool = True  # whether several sends and receives may be under way at once, in any order

    @abstractmethod
    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with rank 0's."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """A picklable value from each rank, in rank order."""

    def close(self) -> None:
        """Leave the ring."""


class MPITransport(Transport):
    """mpi4py on buffers that lie in host memory; nothing is pickled but in `gather`.

    MPI itself waits for ever: here a message that takes longer than `timeout_s` is an ExchangeError.
    """

    def __init__(self, timeout_s: float) -> None:
        # Over TCP Open MPI asks before each piece of a large message, and the answer queues behind what goes the other way: a
        # link that is slow in both directions at once stands idle half of the time. Told to send only, it fills it.
        os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "1")
        from mpi4py import MPI  # importing it joins the world

        self.mpi, self.comm, self.status = MPI, MPI.COMM_WORLD, MPI.Status()
        self.timeout_s = timeout_s
        super().__init__(self.comm.Get_rank(), self.comm.Get_size())

    def _send(self, tensor: Tensor, to: int) -> Wait:
        request = self.comm.Isend(_bytes(tensor), dest=to)
        return lambda: self._finish(request, f"rank {to} did not take what rank {self.rank} sends")

    def _receive(self, tensor: Tensor, source: int) -> Wait:
        memory = _bytes(tensor)
        request = self.comm.Irecv(memory, source=source)

        def wait() -> None:
            self._finish(request, f"rank {source} sent nothing to rank {self.rank}")
            if (came := self.status.Get_count(self.mpi.BYTE)) != len(memory):
                raise ExchangeError(
                    f"rank {source} sent {came} bytes to rank {self.rank}, which expected {len(memory)}"
                )

        return wait

    def _finish(self, request: Any, lack: str) -> None:
        """Return once a message is through; each look moves it on."""
        for _ in range(SPINS):
            if request.Test(self.status):
                return
            os.sched_yield()
        end = time.monotonic() + self.timeout_s
        while not request.Test(self.status):
            time.sleep(NAP_S)
            if time.monotonic() > end:
                raise ExchangeError(f"{lack} within {self.timeout_s:g} s")

    def broadcast(self, tensor: Tensor) -> None:
        whole = tensor.contiguous()
        self.comm.Bcast(_bytes(whole), root=0)
        tensor.copy_(whole)

    def gather(self, value: Any) -> list[Any]:
        everyone: list[Any] = self.comm.allgather(value)
        return everyone

    def close(self) -> None:
        if not self.mpi.Is_finalized():
            self.mpi.Finalize()


class TorchTransport(Transport):
    """torch.distributed point-to-point on the default process group, which must exist: gloo, or NCCL for GPU tensors."""

    def __init__(self) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size())
        # The group of a run on GPUs calls itself "cpu:gloo,cuda:nccl"; NCCL wants what goes and what comes as one operation.
        self.pipelined = "nccl" not in dist.get_backend()

    def _send(self, tensor: Tensor, to: int) -> Wait:
        work: Any = dist.isend(tensor, to)
        return lambda: self._finish(work, to)

    def _receive(self, tensor: Tensor, source: int) -> Wait:
        work: Any = dist.irecv(tensor, source)
        return lambda: self._finish(work, source)

    def _finish(self, work: Any, other: int) -> None:
        try:
            work.wait()
        except RuntimeError as error:  # its time limit, a connection that closed, another length
            raise ExchangeError(f"rank {self.rank} lost rank {other} during an exchange: {error}") from error

    def exchange(self, send: Tensor, receive: Tensor, to: int | None = None, source: int | None = None) -> None:
        """As one operation: NCCL runs them in the order given, and a ring of senders would wait for each other."""
        to, source = self.right if to is None else to, self.left if source is None else source
        pending = []
        if send.numel():
            self.sent_bytes += send.nbytes
            pending.append(dist.P2POp(dist.isend, send, to))
        if receive.numel():
            pending.append(dist.P2POp(dist.irecv, receive, source))
        for work in dist.batch_isend_irecv(pending) if pending else []:
            self._finish(work, source)

    def broadcast(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, value)
        return everyone

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


class QueueTransport(Transport):
    """Ranks are threads of one process, with a mailbox for each pair of them; `links` makes the whole ring."""

    timeout_s: float = 60.0

    def __init__(self, rank: int, mailboxes: "list[list[Queue[Any]]]") -> None:
        super().__init__(rank, len(mailboxes))
        self.mailboxes = mailboxes  # of the receiver, then of the sender

    @classmethod
    def links(cls, size: int) -> "list[QueueTransport]":
        """One transport for each of `size` ranks."""
        mailboxes: list[list[Queue[Any]]] = [[Queue() for _ in range(size)] for _ in range(size)]
        return [cls(rank, mailboxes) for rank in range(size)]

    def _send(self, tensor: Tensor, to: int) -> Wait:
        self.mailboxes[to][self.rank].put(tensor.clone())  # a copy, as on a wire: the sender may change its own at once
        return lambda: None

    def _receive(self, tensor: Tensor, source: int) -> Wait:
        def wait() -> None:
            try:
                came = self.mailboxes[self.rank][source].get(timeout=self.timeout_s)
            except Empty:
                raise ExchangeError(
                    f"rank {source} sent nothing to rank {self.rank} within {self.timeout_s:g} s"
                ) from None
            if len(came) != len(tensor):
                raise ExchangeError(f"rank {source} sent {len(came)} values to rank {self.rank}, not {len(tensor)}")
            tensor.copy_(came)

        return wait

    def broadcast(self, tensor: Tensor) -> None:
        tensor.copy_(self.gather(tensor.clone())[0])

    def gather(self, value: Any) -> list[Any]:
        for to in range(self.size):
            self.mailboxes[to][self.rank].put(value)
        return [self.mailboxes[self.rank][source].get(timeout=self.timeout_s) for source in range(self.size)]


def _bytes(tensor: Tensor) -> Any:
    """The tensor's own memory as an array of bytes, whatever its dtype."""
    return tensor.detach().view(-1).view(torch.uint8).numpy()
