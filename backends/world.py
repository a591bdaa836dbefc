"""Who am I: the rank that the launcher gave to this process. Reads the environment only, so a mistake is told before torch loads."""

import os
import re
from collections.abc import Mapping, MutableMapping
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
# Slurm names no local size: it is read out of the tasks of each node. Asked last, since the others work inside its steps.
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
_SRUN_TASKS = "SLURM_STEP_TASKS_PER_NODE"
BY_SRUN = "RINGZERO_SRUN"  # set for a step that is ours: one task then is a run of one rank

# CUDA_VISIBLE_DEVICES as the run was given it: DeepSpeed's launcher shows its ranks 0, 1, ... whatever that says.
GPUS = "RINGZERO_GPUS"

# Which launchers may start which engine, the usual one first, and what a user types.
ACCEPTED: dict[str, tuple[str, ...]] = {
    "single": ("python",),
    "ddp": ("torchrun", "srun"),
    "fsdp": ("torchrun", "srun"),
    "deepspeed": ("deepspeed", "torchrun", "srun"),
    "horovod": ("horovodrun", "mpirun", "srun"),
    "ring": ("mpirun", "torchrun", "srun"),
}
MEET = ("ddp", "fsdp", "deepspeed")  # over torch's store, whose place each rank must know
COMMANDS = {
    "python": "python -m bench.run --backend {backend}",
    "torchrun": "torchrun --nproc-per-node {n} -m bench.run --backend {backend}",
    "deepspeed": "deepspeed --num_accelerators {n} bench/run.py --backend {backend}",
    "horovodrun": "horovodrun -np {n} python -m bench.run --backend {backend}",
    "mpirun": "mpirun -np {n} python -m bench.run --backend {backend}",
    "srun": "srun --ntasks {n} --cpu-bind none --mpi pmix python -m bench.run --backend {backend}",
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
        return cls._of_srun(env)

    @classmethod
    def _of_srun(cls, env: Mapping[str, str]) -> "World":
        """A task of a step of several. A step of one that is not ours is a shell in an allocation: what runs in it, nobody launched."""
        if env.get("SLURM_STEP_NUM_TASKS", "1") == "1" and BY_SRUN not in env:
            return cls()
        if missing := [name for name in _SRUN if not env.get(name, "").isdigit()]:
            raise LaunchError(f"srun started this process but did not set {', '.join(missing)}")
        rank, size, local_rank, node = (int(env[name]) for name in _SRUN)
        counts: list[int] = []
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get(_SRUN_TASKS, "")):  # 4(x2),3: 4, 4 and 3
            counts += [int(count)] * int(times or 1)
        if node >= len(counts) or sum(counts) != size:
            raise LaunchError(
                f"srun started {size} tasks, this one on node {node}, but {_SRUN_TASKS} is {env.get(_SRUN_TASKS)!r}"
            )
        return cls(rank, size, local_rank, counts[node], "srun")

    def publish(self, env: MutableMapping[str, str] = os.environ) -> None:
        """Tell torch and DeepSpeed under their own names what srun told under its; other launchers did so themselves.

        Under deepspeed the GPUs are again those that the other launchers' ranks see. Call before torch is imported.
        """
        if self.launcher == "deepspeed" and GPUS in env:
            env["CUDA_VISIBLE_DEVICES"] = env[GPUS]
        if self.launcher == "srun":
            env.update(RANK=str(self.rank), WORLD_SIZE=str(self.size))
            env.update(LOCAL_RANK=str(self.local_rank), LOCAL_WORLD_SIZE=str(self.local_size))

    def check_launcher(self, backend: str) -> None:
        """Raise LaunchError, with the command to type, unless this world's launcher can start `backend`."""
        accepted = ACCEPTED[backend]
        if self.launcher == "srun" and backend in MEET and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise LaunchError(
                f"srun tells the ranks of {backend} not where to meet; before srun, type:\n"
                "    export MASTER_ADDR=$(scontrol show hostnames | head -n 1) MASTER_PORT=29400"
            )
        if self.launcher in accepted:
            return
        how = COMMANDS[accepted[0]].format(n=max(self.size, 2), backend=backend)
        started = "was started without a launcher" if self.launcher == "python" else f"was started by {self.launcher}"
        raise LaunchError(f"backend {backend!r} {started}; it needs {' or '.join(accepted)}. Type:\n    {how}")
