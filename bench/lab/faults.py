"""Faults that are done to a run over a laboratory's hosts, from outside: what each does, and how such a run must end."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.failure import Cause
from bench.lab import holder, memory
from bench.lab.host import Host
from bench.lab.lab import Lab
from bench.lab.link import Link
from bench.lab.rights import LabError, tool

SLOW = "20mbit"
DISK_BYTES = 4 << 20


@dataclass(frozen=True)
class Scene:
    """Where a fault happens. `victim`: the host; `rank`: process id of its rank; `results`: the run's folder."""

    lab: Lab
    victim: Host
    results: Path
    port: int
    rank: int = 0


@dataclass(frozen=True)
class Kind:
    """`ground` is done to the results folder before there are hosts, `before` before the run starts, `strike` in the middle of
    it, `after` some seconds later.

    `ends`: what the record may then say: `done`, or a cause of failure. `blames`: the message names the victim. `launchers`:
    those that have what is broken.
    """

    about: str
    ends: tuple[Cause | Literal["done"], ...]
    ground: Callable[[Path], AbstractContextManager[None]] = lambda results: contextlib.nullcontext()
    before: Callable[[Scene], AbstractContextManager[None]] = lambda scene: contextlib.nullcontext()
    strike: Callable[[Scene], None] | None = None
    after: Callable[[Scene], None] | None = None
    after_s: float = 0.0
    blames: bool = True
    launchers: tuple[str, ...] = field(default=("torchrun", "deepspeed", "horovodrun", "mpirun"))


def cut(scene: Scene) -> None:
    """Pull the victim's cable."""
    scene.victim.cable(scene.lab.switch, plugged=False)


def plug(scene: Scene) -> None:
    """Put it in again."""
    scene.victim.cable(scene.lab.switch, plugged=True)


def slow(scene: Scene) -> None:
    """Its link has a fraction of its bandwidth from now on."""
    scene.lab.reshape(Link.read(SLOW), only=scene.victim)


def send(number: signal.Signals) -> Callable[[Scene], None]:
    """A signal to the victim's rank."""

    def strike(scene: Scene) -> None:
        os.kill(scene.rank, number)

    return strike


def kill_launcher(scene: Scene) -> None:
    """SIGKILL to what started the victim's rank: the nearest process above it that is no rank."""
    import psutil

    parent = psutil.Process(scene.rank).parent()
    if parent is None or holder.network_of(parent.pid) != scene.victim.network:
        raise LabError(f"rank {scene.rank} has no launcher on {scene.victim.name} any more")
    parent.kill()


def fill(scene: Scene) -> None:
    """No room is left where records are written."""
    with contextlib.suppress(OSError), open(scene.results / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 65536)


@contextlib.contextmanager
def small_disk(results: Path) -> Iterator[None]:
    """The results folder is a file system of a few MiB for all hosts that are made meanwhile; its records are kept."""
    results.mkdir(parents=True, exist_ok=True)
    tool("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(results))
    try:
        yield
    finally:
        kept = {path: path.read_bytes() for path in [*results.glob("*.json"), *results.glob("*.log")]}
        tool("umount", "--lazy", str(results))
        for path, content in kept.items():
            path.write_bytes(content)


@contextlib.contextmanager
def groups(scene: Scene) -> Iterator[None]:
    """Memory can be limited; what is made for that is removed."""
    if why := memory.unavailable():
        raise LabError(f"memory can't be limited here: {why}")
    with memory.cleaned():
        yield


def starve(scene: Scene) -> None:
    """Another process takes the memory that the victim's rank may have."""
    memory.limit(scene.rank)


@contextlib.contextmanager
def port_taken(scene: Scene) -> Iterator[None]:
    """Somebody listens where the ranks shall meet, on the first host."""
    script = f"import socket, time; s = socket.create_server(('', {scene.port})); print(flush=True); time.sleep(600)"
    first = scene.lab.hosts[0]
    with subprocess.Popen([*first.enter(scene.lab.state), "python3", "-c", script], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        try:
            yield
        finally:
            listener.kill()


@contextlib.contextmanager
def refused(scene: Scene) -> Iterator[None]:
    """The victim takes no connection."""
    scene.lab.shut(scene.victim, closed=True)
    try:
        yield
    finally:
        scene.lab.shut(scene.victim, closed=False)


KINDS: dict[str, Kind] = {
    "cut": Kind("the host's cable is pulled and stays out", ("time limit", "peer lost"), strike=cut),
    "flap": Kind("the cable is pulled and put in again", ("done",), strike=cut, after=plug, after_s=1.0, blames=False),
    "slow": Kind(f"the host's link has {SLOW} from now on", ("done",), strike=slow, blames=False),
    "kill": Kind("SIGKILL to the host's rank", ("peer lost",), strike=send(signal.SIGKILL)),
    "freeze": Kind("SIGSTOP to the host's rank", ("time limit",), strike=send(signal.SIGSTOP)),
    "launcher": Kind("SIGKILL to what started the host's rank", ("launcher", "peer lost", "interrupted"), strike=kill_launcher),
    "disk": Kind("the results folder fills up", ("done", "disk"), ground=small_disk, strike=fill, blames=False),
    "memory": Kind("another process takes the memory of the host's rank", ("does not fit",), before=groups, strike=starve),
    "port": Kind("the port where ranks meet is taken", ("launcher",), before=port_taken, blames=False,
                 launchers=("torchrun", "deepspeed")),
    "ssh": Kind("the host refuses connections", ("launcher",), before=refused),
}  # fmt: skip
