"""Which libraries are compared, which processes they live in, and what they do not offer. Data; loads nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, get_args

from bench import launchers
from bench.config import ConfigError
from bench.launchers import INSTALL, Command

Operation = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
RANK = "bench.collectives.rank"


@dataclass(frozen=True)
class Start:
    """How a pool's ranks are started: launcher, flags of the launcher's own, variables, modules that they import."""

    launcher: str
    words: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ("torch",)


# Libraries that stand on the same launcher and the same group share processes: they never run at the same time.
POOLS: dict[str, Start] = {
    "mpi": Start("mpirun", modules=("torch", "mpi4py")),
    "torch": Start("torchrun"),
    "horovod-gloo": Start(
        "horovodrun",
        words=("--gloo",),
        env={"HOROVOD_GLOO_TIMEOUT_SECONDS": "86400"},  # its clock goes on while the pool is stopped for others' turns
        modules=("torch", "horovod"),
    ),
    "horovod-mpi": Start(
        "mpirun",
        env={"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"},
        modules=("torch", "horovod"),
    ),
    "deepspeed": Start("deepspeed", env={"DS_ACCELERATOR": "cpu"}, modules=("torch", "deepspeed")),
}

HANDED_ON = "its broadcast is that of the library that carries its messages: see {}"
ALL_REDUCE_ONLY: dict[str, str] = {
    name: "it is an all-reduce and nothing else" for name in OPERATIONS if name != "all_reduce"
}


@dataclass(frozen=True)
class Library:
    """`pool`: the processes that it lives in. `lacks`: operations that it does not offer, and why. `elsewhere`: a scattered or
    gathered result lies in another buffer than what was put in."""

    name: str
    pool: str
    what: str
    lacks: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False


LIBRARIES: dict[str, Library] = {
    each.name: each
    for each in (
        Library("ring", "mpi", "the ring over memory that the ranks of a host share"),
        Library("ring-mpi", "mpi", "the ring over MPI messages", {"broadcast": HANDED_ON.format("mpi")}),
        Library("ring-torch", "torch", "the ring over gloo messages", {"broadcast": HANDED_ON.format("gloo")}),
        Library("ring-naive", "mpi", "everybody's buffer to everybody, over MPI messages", ALL_REDUCE_ONLY),
        Library("ring-doubling", "mpi", "recursive doubling over MPI messages", ALL_REDUCE_ONLY),
        Library("ring-halving", "mpi", "halving-doubling over MPI messages", ALL_REDUCE_ONLY),
        Library("mpi", "mpi", "mpi4py on buffers", elsewhere=True),
        Library("gloo", "torch", "torch.distributed with gloo", elsewhere=True),
        Library("horovod-gloo", "horovod-gloo", "Horovod, its gloo", elsewhere=True),
        Library("horovod-mpi", "horovod-mpi", "Horovod over MPI", elsewhere=True),
        Library("deepspeed", "deepspeed", "deepspeed.comm", elsewhere=True),
        Library(
            "deepspeed-shm", "deepspeed", "deepspeed.comm.inference_all_reduce, its shared memory", ALL_REDUCE_ONLY
        ),
        Library("nccl", "torch", "torch.distributed with NCCL, on GPUs"),
    )
}


def choose(names: Sequence[str]) -> list[Library]:
    """Libraries by name, each once, in the order of the catalog; all where none is named. Raises ConfigError for others."""
    if unknown := [name for name in names if name not in LIBRARIES]:
        raise ConfigError(f"no library {unknown[0]!r}; there are: {', '.join(LIBRARIES)}")
    return [library for library in LIBRARIES.values() if not names or library.name in names]


def unavailable(pool: str) -> str | None:
    """Why the ranks of a pool can't be started on this machine, and what to type; None where they can."""
    start = POOLS[pool]
    for module in start.modules:
        if find_spec(module) is None:
            return f"{module} is not installed; type: {INSTALL[module]}"
    if launchers.executable(start.launcher) is None:
        return f"{start.launcher} is not installed; type: {INSTALL.get(start.launcher, INSTALL['deepspeed'])}"
    return None


def command(pool: str, ranks: int) -> Command:
    """What starts the ranks of a pool, without the arguments of a rank."""
    start = POOLS[pool]
    what = launchers.under(start.launcher, ranks, RANK, words=start.words)
    return Command(what.argv, what.env | dict(start.env))
