"""Who am I: the rank that the launcher gave to this process. Reads the environment only, so a mistake is told before torch loads."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Each launcher's own names for (rank, size, local rank, local size), asked in this order, and the variable that gives it away.
_LAUNCHERS: dict[str, tuple[str, tuple[str, str, str, str]]] = {
    "horovodrun": ("HOROVOD_RANK", ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")),
    "torchrun": ("TORCHELASTIC_RUN_ID", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")),
    "deepspeed": ("CROSS_SIZE", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
}

# Which launchers may start which engine, the usual one first, and what a user types.
ACCEPTED: dict[str, tuple[str, ...]] = {
    "single": ("python",),
    "ddp": ("torchrun",),
    "fsdp": ("torchrun",),
    "deepspeed": ("deepspeed", "torchrun"),
    "horovod": ("horovodrun", "mpirun"),
    "ring": ("mpirun", "torchrun"),
}
COMMANDS = {
    "python": "python -m bench.run --backend {backend}",
    "torchrun": "torchrun --nproc-per-node {n} -m bench.run --backend {backend}",
    "deepspeed": "deepspeed --num_accelerators {n} bench/run.py --backend {backend}",
    "horovodrun": "horovodrun -np {n} python -m bench.run --backend {backend}",
    "mpirun": "mpirun -np {n} python -m bench.run --backend {backend}",
}


class LaunchError(RuntimeError):
    """This process was started in a way that its engine can't use; the message holds the right command."""


@dataclass(frozen=True)
class World:
    """One process among `size`; `local_*` counts the processes of this host. `launcher` is what started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "python"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "World":
        """Read the launcher's variables; a process that nobody launched is rank 0 of 1.

        Raises LaunchError when a launcher is recognised but left its ranks incomplete.
        """
        for launcher, (witness, names) in _LAUNCHERS.items():
            if witness not in env:
                continue
            missing = [name for name in names if not env.get(name, "").isdigit()]
            if missing:
                raise LaunchError(f"{launcher} started this process but did not set {', '.join(missing)}")
            rank, size, local_rank, local_size = (int(env[name]) for name in names)
            return cls(rank, size, local_rank, local_size, launcher)
        return cls()

    def check_launcher(self, backend: str) -> None:
        """Raise LaunchError, with the command to type, unless this world's launcher can start `backend`."""
        accepted = ACCEPTED[backend]
        if self.launcher in accepted:
            return
        how = COMMANDS[accepted[0]].format(n=max(self.size, 2), backend=backend)
        started = "was started without a launcher" if self.launcher == "python" else f"was started by {self.launcher}"
        raise LaunchError(f"backend {backend!r} {started}; it needs {' or '.join(accepted)}. Type:\n    {how}")
