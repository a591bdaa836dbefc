"""Answers questions about the host it runs on, a line of JSON each, until its input ends. Run as a file."""

import sys
from pathlib import Path

if not __package__:  # started as a file: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import hashlib
import json
import os
import platform
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil

from bench import environment, machine
from bench.launchers import HERE

CODE = ("bench", "backends", "model")
LISTENING: list[socket.socket] = []  # held until the input ends


def look(names: list[str], cwd: str, folder: str, token: str) -> dict[str, Any]:
    """This host. `names`: of all hosts, to be resolved here; `cwd`: where commands are to be started; `folder`: of the results,
    where `token` is a file that may be seen."""
    return {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "packages": environment.versions(),
        **environment.commit(),
        "code": code(),
        "machine": dataclasses.asdict(machine.look()),
        "interfaces": interfaces(),
        "resolved": {name: resolve(name) for name in names},
        "missing_cwd": None if Path(cwd).is_dir() else cwd,
        "shares_results": (Path(folder) / token).is_file(),
        "writes_results": writable(Path(folder)),
    }


def clock() -> float:
    """Seconds since the epoch, as this host has it."""
    return time.time()


def listen() -> int:
    """A port on which this host now takes connections, on every address."""
    server = socket.create_server(("", 0), backlog=128)
    LISTENING.append(server)
    port: int = server.getsockname()[1]
    return port


def connect(address: str, port: int, seconds: float) -> str | None:
    """Why a port of another host can't be reached from here; None where it can."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def code(root: Path = HERE.parent) -> str:
    """A hash of every source file: two checkouts of one commit differ where somebody changed one."""
    whole = hashlib.sha256()
    for path in sorted(file for top in CODE for file in (root / top).rglob("*.py")):
        whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]


def interfaces() -> dict[str, list[str]]:
    """Addresses (IPv4) of every network interface that is up."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = {
        name: [each.address for each in addresses if each.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }
    return {name: addresses for name, addresses in sorted(found.items()) if addresses}


def resolve(name: str) -> str | None:
    """The address (IPv4) that this host has for a name; None for an unknown one."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that exists, takes files."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


ANSWERS: dict[str, Callable[..., Any]] = {"look": look, "clock": clock, "listen": listen, "connect": connect}


def main() -> None:
    """Each line is {"ask": NAME, arguments}; its answer is {"answer": VALUE}. A login may print before the first one."""
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"answer": ANSWERS[asked.pop("ask")](**asked)}), flush=True)


if __name__ == "__main__":
    main()
