"""What is built here: the build's environment variables, from the tools and the torch that are found."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from backends.build import BuildError
from backends.build.mends import MENDS
from backends.build.source import SHA256, VERSION
from backends.build.tools import search_path, which

MEMORY_PER_JOB = 2 * 2**30  # bytes; a file that includes torch's headers takes about 1.5 GB to compile
SIMD = ("avx", "f16c", "fma")  # what Horovod's CMake looks for on the building machine, and compiles for


@dataclass(frozen=True)
class Cuda:
    """How NCCL gets in. `flags` is empty where it can't, and `why_not` says what is missing."""

    flags: dict[str, str]
    library: Path | None = None  # a libnccl.so.N of torch's own wheels, which lack the plain name that linkers look for
    why_not: str | None = None


@dataclass(frozen=True)
class Plan:
    """A build: `flags` decide what is compiled, `facts` are all that the wheel depends on, `key` is their digest."""

    flags: dict[str, str]
    facts: dict[str, object]
    cuda: Cuda

    @property
    def key(self) -> str:
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        return f"rz{digest[:8]}"  # a letter first: a version's local part that is a number loses its zeros

    @property
    def version(self) -> str:
        return f"{VERSION}+{self.key}"

    def environment(self, scratch: Path) -> dict[str, str]:
        """The variables of the compiling process. `scratch`: a folder for links that the linker needs."""
        env = {
            **os.environ,
            **self.flags,
            "PATH": search_path(),
            "MAKEFLAGS": f"-j{jobs()}",
            "HOROVOD_LOCAL_VERSION": self.key,
            "HOROVOD_CMAKE": which("cmake") or "cmake",
        }
        if self.cuda.library:
            (scratch / "libnccl.so").symlink_to(self.cuda.library)
            env["HOROVOD_NCCL_LIB"] = str(scratch)
        return env


def plan() -> Plan:
    """The build for this Python, torch, MPI and, where all of it is found, CUDA and NCCL."""
    cuda = find_cuda()
    flags = {
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITH_MPI": "1",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # the CMakeLists of 2023 ask for a CMake that CMake 4 no longer imitates
        **cuda.flags,
    }
    facts: dict[str, object] = {
        "horovod": VERSION,
        "archive": SHA256,
        "mends": [[mend.path, mend.before, mend.after] for mend in MENDS],
        "torch": torch.__version__,
        "python": sys.implementation.cache_tag,
        "platform": f"{sysconfig.get_platform()} {'-'.join(platform.libc_ver())}",
        "simd": sorted(set(SIMD) & _cpu_flags()),
        "mpi": _first_line(which("mpirun"), "--version"),
        "flags": flags,
    }
    return Plan(flags, facts, cuda)


def jobs() -> int:
    """Compilers at once: one a core, as far as memory goes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // MEMORY_PER_JOB))


def find_cuda() -> Cuda:
    """NCCL needs a torch with CUDA, the same CUDA's compiler, and nccl.h.

    Raises BuildError where torch and nvcc are of different major versions: that would compile, and fail later.
    """
    wanted = torch.version.cuda
    if wanted is None:
        return Cuda({}, why_not="this torch has no CUDA")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = which(home and f"{home}/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return Cuda({}, why_not=f"torch has CUDA {wanted}, but nvcc is missing: set CUDA_HOME to that CUDA's folder")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.\d+", said)
    if release is None or release[1] != wanted.split(".")[0]:
        raise BuildError(
            f"torch was built for CUDA {wanted}, and {nvcc} says: {said.strip().splitlines()[-2:]}\n"
            f"  type: export CUDA_HOME=/path/to/cuda-{wanted}"
        )
    given = os.environ.get("HOROVOD_NCCL_HOME")
    shipped = Path(torch.__file__).parents[1] / "nvidia" / "nccl"  # torch's CUDA wheels bring their NCCL here
    for folder in (*([Path(given)] if given else []), shipped, Path(nvcc).resolve().parents[1], Path("/usr")):
        if (folder / "include" / "nccl.h").is_file():
            break
    else:
        return Cuda({}, why_not="nccl.h is missing: set HOROVOD_NCCL_HOME to the folder whose include/ holds it")
    flags = {
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_CUDA_HOME": str(Path(nvcc).resolve().parents[1]),
        "HOROVOD_NCCL_HOME": str(folder),
        "HOROVOD_NCCL_LINK": "SHARED",  # the very library that torch loads
    }
    plain = (folder / "lib" / "libnccl.so").exists()
    return Cuda(flags, library=None if plain else next(iter(sorted((folder / "lib").glob("libnccl.so.*"))), None))


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _first_line(program: str | None, *arguments: str) -> str | None:
    if program is None:
        return None
    run = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).strip().splitlines()[0]
