"""The step without the wire: for a while, the collectives of torch's process groups are copies inside this process.

A process group hands each collective to the backend that is registered for the tensor's device, whoever calls: DDP's reducer in
C++, FSDP2, DeepSpeed. Registering another one is therefore the same cut for all of them, takes no part in the steps around it,
and leaves buckets, hooks, copies and streams as they are: only what travels is gone.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import FakeProcessGroup, HashStore, ProcessGroup

KINDS = {"gloo": ProcessGroup.BackendType.GLOO, "nccl": ProcessGroup.BackendType.NCCL}
Make = Callable[[ProcessGroup, str], Any]


def copies(group: ProcessGroup, kind: str) -> Any:
    """Collectives as if every rank held this one's data: what others would send is a copy of one's own, so values stay finite.

    torch's own class (FakeProcessGroup.hpp, "collective semantics"). Its work has no result for DDP to read: see `alone`.
    """
    return FakeProcessGroup._create_internal(group.rank(), group.size())


def alone(group: ProcessGroup, kind: str) -> Any:
    """A real group of this rank only, of the same kind: an all-reduce that has nobody to wait for."""
    if kind == "nccl":
        return dist.ProcessGroupNCCL(HashStore(), 0, 1, dist.ProcessGroupNCCL.Options())
    return dist.ProcessGroupGloo(HashStore(), 0, 1, timedelta(seconds=60))


@contextmanager
def cut(make: Make, kept: dict[str, Any], devices: Container[str] = ("cpu", "cuda")) -> Iterator[None]:
    """Inside, every collective on these kinds of device stays in this process; afterwards the wire is back, whatever happened.

    `kept` holds what was made, by the group's name: a group takes one substitute for its whole life.
    """
    real = [
        (group, device, group._get_backend(device))
        for group in list(dist.distributed_c10d._world.pg_map)
        for device in group._device_types
        if device.type in devices
    ]
    try:
        for group, device, backend in real:
            if group.group_name not in kept:
                kept[group.group_name] = make(group, backend.name())
            group._register_backend(device, ProcessGroup.BackendType.CUSTOM, kept[group.group_name])
        yield
    finally:
        for group, device, backend in real:
            group._register_backend(device, KINDS[backend.name()], backend)
