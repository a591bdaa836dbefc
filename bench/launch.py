"""From a configuration and a rank count to the exact command of the engine's launcher, and to the record."""

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from backends.world import ACCEPTED
from bench import failed, failure, processes
from bench.config import ConfigError, RunConfig
from bench.failed import End
from bench.flags import defaults
from bench.record import PLACE, now, sync_folder

HERE = Path(__file__).resolve().parent
RUN = "bench.run"
INCOMING = ".incoming"  # inside the results folder: one private folder a run, so that its record can't be mistaken
LIMIT_S = 1800.0
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # how a launcher, or a shell in between, tells of SIGKILL

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


class LaunchFailed(RuntimeError):
    """Nothing was started; the message says what is missing and what to type."""


@dataclass(frozen=True)
class Command:
    """What is started: `argv`, and `env`, the variables set on top of the caller's."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A line for a shell."""
        return shlex.join([*(["env", *(f"{k}={v}" for k, v in self.env.items())] if self.env else []), *self.argv])


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


def launcher(config: RunConfig) -> str:
    """Which program starts this engine's ranks."""
    engine = config.engine
    return "torchrun" if engine.backend == "ring" and engine.transport == "torch" else ACCEPTED[engine.backend][0]


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
    what = under(launcher(config), ranks)
    return Command(what.argv + flags(config), what.env)


def under(name: str, ranks: int, module: str = RUN, *, words: Sequence[str] = ()) -> Command:
    """The command that starts `ranks` ranks of a module on this host with a launcher, `words` being flags of the launcher's own.

    Arguments of the module go behind it. Raises LaunchFailed for a launcher that is not known.
    """
    program = executable(name) or name
    python = [sys.executable, "-m", module]
    env = {
        "PATH": _with(Path(sys.executable).parent, os.environ.get("PATH", "")),  # deepspeed looks for ninja there
        "PYTHONPATH": _with(HERE.parent, os.environ.get("PYTHONPATH", "")),  # every rank runs this code
    }
    match name:
        case "python":
            argv = python
        case "torchrun":  # a port of its own: the default, 29500, may still be held by the run before
            argv = [program, "--nproc-per-node", str(ranks), "--master-port", str(free_port()), *words, "-m", module]
        case "deepspeed":  # without --no_local_rank it puts a flag of its own before ours
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
            if os.geteuid() == 0:  # mpirun refuses to run as root unless told twice
                env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        case _:
            raise LaunchFailed(f"no way to start ranks with {name}")
    return Command(argv, {k: v for k, v in env.items() if os.environ.get(k) != v})


def run(
    config: RunConfig,
    ranks: int,
    *,
    limit_s: float = LIMIT_S,
    echo: Callable[[str], None] | None = None,
    build: Callable[[RunConfig, int], Command] = command,
    place: str | None = None,
) -> Path:
    """Start a run under its launcher, wait for it, and return its finished record in `config.output.results`.

    The record says `done` or `failed`: where the run left none, or an unfinished one, it is closed here as failed with
    the end of the log, which lies beside it. Raises LaunchFailed or ConfigError only where nothing was started. Ctrl-C
    and `limit_s` (seconds, whole run) end every process of the run; Ctrl-C is raised again once the record is kept.
    `place`: NAME~INDEX of the comparison that this run is part of; the record says so, and where this process is killed
    its folder under `.incoming` is found by that name.
    """
    results = config.output.results
    mark = f"{place}~{uuid.uuid4().hex[:12]}" if place else uuid.uuid4().hex[:12]
    private = results / INCOMING / mark
    inside = dataclasses.replace(config, output=dataclasses.replace(config.output, results=private))
    what = build(inside, ranks)
    try:
        private.mkdir(parents=True)
    except OSError as error:
        raise LaunchFailed(
            f"no records can be written to {results}: {error.strerror}; give another --results"
        ) from error
    log = private / "log"
    started = now()
    end = End("launcher", "the launcher ended without a record")
    kills = failure.memory_kills()
    env = what.env | {failure.WORD: str((private / failed.WORD_FILE).absolute())} | ({PLACE: place} if place else {})
    try:
        ended = processes.run(what.argv, env, log, limit_s=limit_s, mark=mark, echo=echo)
        if ended.limit:
            end = End("time limit", f"ended after {limit_s:.0f} s, the limit of a whole run", ours=True)
        elif ended.code in KILLED:
            cause, how = failure.killed(signal.SIGKILL, kills, failure.memory_kills())
            itself = ended.code < 0 and launcher(config) != "python"  # not one of its ranks
            end = End("launcher" if itself and cause == "peer lost" else cause, f"{launcher(config)} {how}")
        else:
            end = End("launcher", f"{launcher(config)} ended with status {ended.code} and left no finished record")
    except OSError as error:
        end = End("launcher", f"could not start {what.argv[0]}: {error}")
    except KeyboardInterrupt:
        end = End("interrupted", "interrupted by the user", ours=True)
        raise
    finally:
        record = keep(private, config, ranks, what, end, started, place)
    return record


def keep(
    private: Path, config: RunConfig, ranks: int, what: Command, end: End, started: str, place: str | None = None
) -> Path:
    """Move the finished record and the log out of the private folder, and remove that. Returns the record's new path."""
    results, log = config.output.results, private / "log"
    record = failed.close(private, config, ranks, what.argv, end, log, started, place)
    target = record.replace(results / record.name)  # its name holds the millisecond of its start
    if log.exists():
        log.replace(target.with_suffix(".log"))
    sync_folder(results)
    shutil.rmtree(private)
    with contextlib.suppress(OSError):  # not empty: another run uses it
        private.parent.rmdir()
    return target


def _with(folder: Path, path: str) -> str:
    """A search path that holds `folder`: as it is where it does, with `folder` in front where it does not."""
    parts = [part for part in path.split(os.pathsep) if part]
    return path if str(folder) in parts else os.pathsep.join([str(folder), *parts])
