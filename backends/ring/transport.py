"""How bytes reach a neighbour: over MPI, over torch point-to-point, or over queues between threads of one process (tests)."""

from abc import ABC, abstractmethod
from queue import Queue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Transport(ABC):
    """Rank `rank` of `size`, able to send right and receive from the left at the same time. Counts what it sends."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.right, self.left = (rank + 1) % size, (rank - 1) % size
        self.sent_bytes = 0

    def exchange(self, send: Tensor, receive: Tensor) -> None:
        """Send `send` to the right while `receive` is filled from the left. An empty side is not sent: both ends know its size."""
        self.sent_bytes += send.numel() * send.element_size()
        self._exchange(send, receive)

    @abstractmethod
    def _exchange(self, send: Tensor, receive: Tensor) -> None: ...

    @abstractmethod
    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with rank 0's."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """A picklable value from each rank, in rank order."""

    def close(self) -> None:  # noqa: B027 - a default that does nothing is meant
        """Leave the ring."""


class MPITransport(Transport):
    """mpi4py on buffers that lie in host memory; nothing is pickled but in `gather`."""

    def __init__(self) -> None:
        from mpi4py import MPI  # importing it joins the world

        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        super().__init__(self.comm.Get_rank(), self.comm.Get_size())

    def _exchange(self, send: Tensor, receive: Tensor) -> None:
        requests = []
        if receive.numel():
            requests.append(self.comm.Irecv(_bytes(receive), source=self.left))
        if send.numel():
            requests.append(self.comm.Isend(_bytes(send), dest=self.right))
        self.mpi.Request.Waitall(requests)

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

    def _exchange(self, send: Tensor, receive: Tensor) -> None:
        pending = []
        if send.numel():
            pending.append(dist.P2POp(dist.isend, send, self.right))
        if receive.numel():
            pending.append(dist.P2POp(dist.irecv, receive, self.left))
        for work in dist.batch_isend_irecv(pending) if pending else []:
            work.wait()

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
    """Ranks are threads of one process, each with a mailbox; `links` makes the whole ring."""

    def __init__(self, rank: int, mailboxes: "list[Queue[Any]]") -> None:
        super().__init__(rank, len(mailboxes))
        self.mailboxes = mailboxes

    @classmethod
    def links(cls, size: int) -> "list[QueueTransport]":
        """One transport for each of `size` ranks."""
        mailboxes: list[Queue[Any]] = [Queue() for _ in range(size)]
        return [cls(rank, mailboxes) for rank in range(size)]

    def _exchange(self, send: Tensor, receive: Tensor) -> None:
        self.mailboxes[self.right].put(send.clone())  # a copy, as on a wire: the sender may change its own at once
        receive.copy_(self.mailboxes[self.rank].get(timeout=60))

    def broadcast(self, tensor: Tensor) -> None:
        tensor.copy_(self.gather(tensor.clone())[0])

    def gather(self, value: Any) -> list[Any]:
        everyone = {self.rank: value}
        for step in range(self.size - 1):
            self.mailboxes[self.right].put(everyone[(self.rank - step) % self.size])
            everyone[(self.rank - step - 1) % self.size] = self.mailboxes[self.rank].get(timeout=60)
        return [everyone[rank] for rank in range(self.size)]


def _bytes(tensor: Tensor) -> Any:
    """The tensor's own memory as an array of bytes, whatever its dtype."""
    return tensor.detach().view(-1).view(torch.uint8).numpy()
