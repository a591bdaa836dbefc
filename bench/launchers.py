"""How each launcher is started on this host: from a configuration and a rank count to the exact command."""

import dataclasses
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from backends.world import ACCEPTED, GPUS
from bench import gpus
from bench.config import ConfigError, RunConfig
from bench.flags import defaults

HERE = Path(__file__).resolve().parent
RUN = "bench.run"

# Python modules that a process of each engine imports, and what to type where one is missing.
MODULES: dict[str, tuple[str, ...]] = {
    "single": ("torch",),
    "ddp": ("torch",),
    "fsdp": ("torch",),
    "deepspeed": ("torch", "deepspeed"),
    "horovod": ("torch", "horovod"),
    "ring": ("torch", "mpi4py"),
}
INSTALL = {
    "torch": "pip install -c constraints.txt -e .",
    "deepspeed": "pip install -c constraints.txt -e '.[deepspeed]'",
    "horovod": "python -m backends.build",
    "mpi4py": "pip install -c constraints.txt -e '.[mpi]'",
    "torchrun": "pip install -c constraints.txt -e .",
    "horovodrun": "python -m backends.build",
    "mpirun": "pip install -c constraints.txt -e '.[mpi]'",
}
# mpirun takes the job of a scheduler that it was started in for the place to run. Its parts that read one, of Open MPI 5 (PRTE_MCA_)
# and 4 (OMPI_MCA_); a name that a build does not have is passed over.
NO_JOB = dict.fromkeys(("PRTE_MCA_ras", "OMPI_MCA_ras"), "^slurm,pbs,lsf,gridengine,flux,tm,alps,loadleveler")


class LaunchFailed(RuntimeError):
    """Nothing was started; the message says what is missing and what to type."""


@dataclass(frozen=True)
class Command:
    """What is started: `argv`, and `env`, the variables set on top of the caller's; `files` (path: text) are written before."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A line for a shell."""
        written = [f"printf %s {shlex.quote(text)} > {shlex.quote(path)}" for path, text in self.files.items()]
        started = shlex.join([*(["env", *(f"{k}={v}" for k, v in self.env.items())] if self.env else []), *self.argv])
        return " && ".join([*written, started])


def flags(config: RunConfig) -> list[str]:
    """The flags of `python -m bench.run` that make this configuration: those whose value is not the default."""
    made: list[str] = []
    variant = config.workload.variant
    trained_as = defaults(["--variant", variant]) if variant else None  # a variant has its own defaults
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        for each in dataclasses.fields(values):
            value, name = getattr(values, each.name), each.name.replace("_", "-")
            default = (
                getattr(trained_as.training, each.name) if trained_as and group.name == "training" else each.default
            )
            if value == default:
                continue
            made += [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return made


def launcher(config: RunConfig, ranks: int = 1) -> str:
    """Which program starts this engine's ranks; `ranks`: of them on one host, on which it depends what they compute."""
    engine = config.engine
    if engine.backend == "ring" and engine.transport in ("auto", "torch"):  # MPI's messages lie in host memory
        on_torch = engine.transport == "torch" or gpus.takes(engine.device, ranks)
        return "torchrun" if on_torch else ACCEPTED["ring"][0]
    return ACCEPTED[engine.backend][0]


def executable(name: str) -> str | None:
    """Where a program is: beside the running interpreter (a venv that nobody activated), else on the PATH."""
    beside = Path(sys.executable).parent / name  # not resolved: a venv's python is a link to the system's
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def unavailable(config: RunConfig) -> str | None:
    """Why this engine can't be started on this machine and what to type; None where it can. Imports nothing heavy."""
    for module in MODULES[config.engine.backend]:
        if find_spec(module) is None:
            return f"{module} is not installed; type: {INSTALL[module]}"
    name = launcher(config)
    if name != "python" and executable(name) is None:
        return f"{name} is neither beside {sys.executable} nor on the PATH; type: {INSTALL[name]}"
    return None


def free_port() -> int:
    """A TCP port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def slots() -> int:
    """Ranks that mpirun starts without being told to oversubscribe: physical cores, not hardware threads."""
    return min(psutil.cpu_count(logical=False) or 1, len(psutil.Process().cpu_affinity()))


def command(config: RunConfig, ranks: int) -> Command:
    """The command that starts `ranks` ranks of this run on this host.

    Raises LaunchFailed where a program is missing, ConfigError where the ranks can't share the batch or `single` is
    asked for more than one.
    """
    config.micro_batch(ranks)
    if config.engine.backend == "single" and ranks != 1:
        raise ConfigError(f"--backend single is one plain process; it can't have {ranks} ranks (try --backend ddp)")
    if why := unavailable(config):
        raise LaunchFailed(f"{config.engine.label} can't run here: {why}")
    what = under(launcher(config, ranks), ranks)
    return Command(what.argv + flags(config), what.env)


def under(name: str, ranks: int, module: str = RUN, *, words: Sequence[str] = ()) -> Command:
    """The command that starts `ranks` ranks of a module on this host with a launcher, `words` being flags of the launcher's own.

    Arguments of the module go behind it. Raises LaunchFailed for a launcher that is not known.
    """
    program = executable(name) or name
    python = [sys.executable, "-m", module]
    env = {
        "PATH": searched(Path(sys.executable).parent, os.environ.get("PATH", "")),  # deepspeed looks for ninja there
        "PYTHONPATH": searched(HERE.parent, os.environ.get("PYTHONPATH", "")),  # every rank runs this code
    }
    match name:
        case "python":
            argv = python
        case "torchrun":  # a port of its own: the default, 29500, may still be held by the run before
            argv = [program, "--nproc-per-node", str(ranks), "--master-port", str(free_port()), *words, "-m", module]
        case "deepspeed":  # without --no_local_rank it puts a flag of its own before ours
            if gpus.VISIBLE in os.environ:
                env[GPUS] = os.environ[gpus.VISIBLE]
            argv = [
                program,
                "--num_accelerators",
                str(ranks),
                "--master_port",
                str(free_port()),
                "--no_local_rank",
                *words,
                *([str(HERE / "run.py")] if module == RUN else ["--module", module]),
            ]
        case "horovodrun":
            argv = [program, "-np", str(ranks), *words, *python]
        case "mpirun":
            argv = [program, "-np", str(ranks), *words]
            argv += ["--bind-to", "none"]  # ours is the binding, the same under every launcher; mpirun's is its own
            if ranks > slots():
                argv += [
                    "--map-by",
                    ":OVERSUBSCRIBE",
                ]  # else mpirun refuses; --oversubscribe is deprecated in Open MPI 5
            argv += python
            env |= {name: os.environ.get(name, value) for name, value in NO_JOB.items()}  # the user's own choice counts
            if os.geteuid() == 0:  # mpirun refuses to run as root unless told twice
                env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        case _:
            raise LaunchFailed(f"no way to start ranks with {name}")
    return Command(argv, {k: v for k, v in env.items() if os.environ.get(k) != v})


def searched(folder: Path, path: str) -> str:
    """A search path that holds `folder`: as it is where it does, with `folder` in front where it does not."""
    parts = [part for part in path.split(os.pathsep) if part]
    return path if str(folder) in parts else os.pathsep.join([str(folder), *parts])
