"""What would make a run's numbers wrong: told by each rank of itself, compared over ranks and hosts on rank 0."""

import dataclasses
import mmap
import os
import platform
import re
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

from bench import machine
from bench.cores import Cores
from bench.environment import versions

SANITIZERS = ("libasan", "libtsan", "libubsan", "libmsan", "liblsan")
SLOW_VARIABLES = {  # what costs time in every step, by the values that switch it on
    "CUDA_LAUNCH_BLOCKING": "1",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    "NCCL_DEBUG": "TRACE",
    "PYTHONDEVMODE": "1",
    "PYTHONMALLOC": "debug",
}
COMPARED = ("kernel", "python", "cpu", "governor", "threads", "packages")


def seen(cores: Cores, threads: int, *, first: bool) -> dict[str, Any]:
    """This rank, in JSON values. `first` of its host: also the machine's own warnings. Torch must be loaded."""
    here = machine.look()
    # At a run's start the load is still that of the run before it, and the launcher has set its variables.
    quiet = dataclasses.replace(here, load=0.0, variables={})
    return {
        "host": socket.gethostname(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "cpu": here.cpu,
        "governor": here.governor,
        "packages": versions(),
        "threads": threads,
        "cores": list(cores.seen),
        "builds": builds(loaded=True),
        "machine": machine.warnings(quiet) if first else [],
    }


def warnings(everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """In words, each once; `everyone`: what `seen` gave on each rank, in rank order."""
    hosts = list(dict.fromkeys(each["host"] for each in everyone))
    said = [f"{each['host']}: {line}" if len(hosts) > 1 else line for each in everyone for line in each["machine"]]
    for host in hosts:
        said += _cores([(rank, each) for rank, each in enumerate(everyone) if each["host"] == host])
    for name in COMPARED:
        said += _differing(name, [(each["host"], each[name]) for each in everyone])
    said += [line for each in everyone for line in each["builds"]]
    return list(dict.fromkeys(said))


def _cores(ranks: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    said = []
    shared = [(a, b) for (a, one), (b, other) in combinations(ranks, 2) if set(one["cores"]) & set(other["cores"])]
    if shared:
        a, b = shared[0]
        more = f" and {len(shared) - 1} more pairs" if len(shared) > 1 else ""
        said.append(f"ranks {a} and {b}{more} share cores: start fewer ranks than cores, and do not give --no-bind")
    for rank, each in ranks:
        if each["threads"] > len(each["cores"]):
            said.append(f"rank {rank} has {each['threads']} threads on {len(each['cores'])} cores: they take turns")
    return said


def _differing(name: str, values: Sequence[tuple[str, Any]]) -> list[str]:
    """A line where hosts differ; packages one by one."""
    if any(isinstance(value, Mapping) for _, value in values):
        keys = sorted({key for _, value in values for key in value})
        return [line for key in keys for line in _differing(key, [(host, value.get(key)) for host, value in values])]
    by_value: dict[Any, list[str]] = {}
    for host, value in values:
        if host not in (known := by_value.setdefault(value, [])):
            known.append(host)
    if len(by_value) < 2:
        return []
    parts = (f"{value or 'none'} on {', '.join(hosts)}" for value, hosts in by_value.items())
    return [f"ranks differ in {name}: {'; '.join(parts)}: make them equal, the slowest decides"]


def builds(*, loaded: bool) -> list[str]:
    """Builds and tools that make everything slower. `loaded`: of a run's own process, so only what it has loaded counts."""
    import torch

    said = []
    kind = re.search(r"BUILD_TYPE=(\w+)", torch.__config__.show())
    if torch.version.debug or (kind and kind[1] not in ("Release", "RelWithDebInfo", "MinSizeRel")):
        said.append("torch is a debug build: install a release wheel")
    if sysconfig.get_config_var("Py_DEBUG"):
        said.append("Python is a debug build: use a release one")
    mapped = Path("/proc/self/maps").read_text()
    if found := [name for name in SANITIZERS if name in mapped]:
        said.append(f"{', '.join(found)} is loaded: a sanitizer makes everything several times slower")
    for name, value in SLOW_VARIABLES.items():
        if os.environ.get(name, "").upper() == value.upper():
            said.append(f"{name}={value} costs time in every step: unset it")
    if sys.gettrace() is not None or sys.getprofile() is not None:
        said.append("a debugger, profiler or coverage tool follows every call: run without it")
    if (tracer := re.search(r"TracerPid:\s*([1-9]\d*)", Path("/proc/self/status").read_text())) is not None:
        said.append(f"process {tracer[1]} traces this one (strace, gdb): detach it")
    spec = find_spec("horovod")
    if spec is not None and spec.submodule_search_locations and (not loaded or "horovod.torch" in sys.modules):
        for library in sorted(Path(spec.submodule_search_locations[0]).glob("torch/*.so")):
            said += unoptimised(library)
    return said


def unoptimised(library: Path) -> list[str]:
    """A line where the compiler's own note in the library's debug information shows a build without -O2 or -O3.

    A library without such a note says nothing.
    """
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(b"GNU C++")
        flags = content[at : content.find(b"\0", at)].decode(errors="replace").split() if at >= 0 else []
    levels = [flag for flag in flags if re.fullmatch(r"-O\w*", flag)]
    if not flags or (levels and levels[-1] in ("-O2", "-O3", "-Ofast")):
        return []
    how = levels[-1] if levels else "no -O at all"
    return [f"{library.name} was compiled with {how}: build it again: python -m backends.build"]
