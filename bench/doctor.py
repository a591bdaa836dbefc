"""`ringzero doctor`: what is installed, built and bound here, and what would make a number wrong."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backends.build import installed
from bench import machine
from bench.config import Engine, RunConfig
from bench.launchers import MODULES, executable, launcher, unavailable
from bench.surroundings import builds

PACKAGES = {"mpi4py": "mpi4py", "deepspeed": "deepspeed", "horovod": "horovod", "torch": "torch"}
LAUNCHERS = ("torchrun", "deepspeed", "horovodrun", "mpirun")


@dataclass(frozen=True)
class EngineFound:
    """`missing` says why it can't run and what to type; None where it can."""

    name: str
    version: str | None
    launcher: str
    missing: str | None
    note: str = ""


def engines() -> list[EngineFound]:
    """Every engine with the version of its package, and why not."""
    found = []
    for name, modules in MODULES.items():
        config = RunConfig(engine=Engine(backend=name))  # type: ignore[arg-type]  # the names are Engine's
        missing = unavailable(config)
        note = ""
        if name == "horovod" and missing is None:
            built, why = installed.probe()
            missing, note = (
                why or None,
                ", ".join(key for key, has in vars(built).items() if has is True) if built else "",
            )
        found.append(EngineFound(name, version(modules[-1]), launcher(config), missing, note))
    return found


def version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print it all. Returns 0, or 1 where no engine can run."""

    def doctor() -> None:
        """Tell what is installed, built and bound here, and what would make a number wrong. Changes nothing."""

    tyro.cli(doctor, args=argv, prog="ringzero doctor")
    console = Console(highlight=False)
    found, here = engines(), machine.look()
    console.print(_engine_table(found))
    console.print(_machine_table(here))
    said = [*machine.warnings(here), *builds(loaded=False), *unset()]
    for line in said:
        console.print(Text(f"! {line}", "yellow"))
    if not said:
        console.print(Text("nothing here is known to make a number wrong", "green"))
    return 0 if any(each.missing is None for each in found) else 1


def unset() -> list[str]:
    """Thread variables that are not set: our runs set them, but nothing else that is started here does."""
    if os.environ.get("OMP_NUM_THREADS"):
        return []
    return ["OMP_NUM_THREADS is not set: our runs set it for each rank, your own scripts would take all cores each"]


def _engine_table(found: Sequence[EngineFound]) -> Table:
    table = Table(title="engines", title_justify="left", box=None, pad_edge=False)
    for heading in ("engine", "package", "launcher", "state"):
        table.add_column(heading)
    for each in found:
        built = f" (built with {each.note})" if each.note else ""
        state = Text(f"ready{built}", "green") if each.missing is None else Text(each.missing, "red")
        table.add_row(each.name, each.version or "-", each.launcher, state)
    return table


def _machine_table(here: machine.Machine) -> Table:
    def size(count: int | None, none: str) -> str:
        return none if count is None else f"{count / machine.GIB:.1f} GiB"

    table = Table(title="machine", title_justify="left", box=None, pad_edge=False, show_header=False)
    rows = {
        "launchers": ", ".join(f"{name} {'found' if executable(name) else 'not found'}" for name in LAUNCHERS),
        "CPU": here.cpu,
        "cores": f"{here.cores} hardware threads, {here.physical or 'unknown number of'} physical; "
        f"this process may use {len(here.allowed)}: {span(here.allowed)}",
        "quota": "none" if here.quota is None else f"{here.quota:g} cores' worth of time",
        "load average": f"{here.load:.2f} (last minute)",
        "governor": here.governor or "not readable here",
        "memory": f"{size(here.memory, '')} in all, {size(here.available, '')} free; "
        f"control group: {size(here.memory_limit, 'no limit')}",
        "/dev/shm": size(here.shm, "missing"),
        "GPUs": "; ".join(here.gpus) or here.gpus_reason or "none",
        "python": f"{sys.version.split()[0]} at {sys.executable}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def span(cores: Sequence[int]) -> str:
    """0-3,8 for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
