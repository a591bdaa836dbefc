"""What this machine gives to a run, read from the kernel: cores, quota, load, governor, memory, shared memory, GPUs."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.cores import THREAD_VARIABLES

GIB = 2**30
MATTERS = (
    "HOROVOD_",
    "NCCL_",
    "GLOO_",
    "TORCH_",
    "OMPI_MCA_",
    "PRTE_MCA_",
    "DS_",
    "DEEPSPEED_",
    "OMP_",
    "MKL_",
    "KMP_",
    "CUDA_",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Sizes in bytes; None is unknown, or no limit where the name says limit."""

    cpu: str
    cores: int  # hardware threads
    physical: int | None
    allowed: tuple[int, ...]  # affinity of this process
    quota: float | None  # cores' worth of time that the control group may use
    load: float  # runnable tasks, mean of the last minute
    governor: str | None
    memory: int
    available: int
    memory_limit: int | None
    shm: int | None
    gpus: tuple[str, ...]
    gpus_reason: str | None
    variables: Mapping[str, str]  # of the environment, those that change what an engine does

    @property
    def usable(self) -> int:
        """Hardware threads that a run can keep busy."""
        return max(1, int(min(len(self.allowed), self.quota or len(self.allowed))))


def look(root: Path = Path("/")) -> Machine:
    """Read this machine; `root` is where /proc, /sys and /dev lie."""
    memory = psutil.virtual_memory()
    shm = root / "dev/shm"
    gpus, reason = _gpus()
    return Machine(
        cpu=_cpu(root),
        cores=os.cpu_count() or 1,
        physical=psutil.cpu_count(logical=False),
        allowed=tuple(sorted(os.sched_getaffinity(0))),
        quota=_quota(root),
        load=os.getloadavg()[0],
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory=memory.total,
        available=memory.available,
        memory_limit=_memory_limit(root),
        shm=shutil.disk_usage(shm).total if shm.is_dir() else None,
        gpus=gpus,
        gpus_reason=reason,
        variables={k: v for k, v in sorted(os.environ.items()) if k.startswith(MATTERS)},
    )


def warnings(machine: Machine) -> list[str]:
    """What would make a number wrong, or another run's number different, with what to do about it."""
    said = []
    if machine.load > 0.25 * machine.usable:
        said.append(
            f"load average is {machine.load:.1f} on {machine.usable} usable cores: other work shares them; wait for it"
        )
    if machine.governor not in (None, "performance"):
        said.append(
            f"the CPU governor is {machine.governor!r}: clocks follow the load; "
            "as root: cpupower frequency-set -g performance"
        )
    if machine.quota is not None and machine.quota < len(machine.allowed):
        said.append(
            f"the control group allows {machine.quota:g} cores' worth of time on {len(machine.allowed)} cores: "
            "steps stall when "
            "it is used up; raise the quota, or use no more ranks than it allows"
        )
    if machine.physical and machine.physical < machine.cores:
        said.append(
            f"{machine.cores} hardware threads on {machine.physical} cores: "
            f"ranks beyond {machine.physical} share a core's units"
        )
    room = min(machine.available, machine.memory_limit or machine.available)
    if room < 4 * GIB:
        said.append(
            f"{room / GIB:.1f} GiB of memory can be used: larger presets may be killed by the kernel (status -9)"
        )
    if machine.shm is not None and machine.shm < GIB // 4:
        said.append(
            f"/dev/shm holds {machine.shm / 2**20:.0f} MiB: MPI and NCCL pass messages through it; "
            "in Docker start with --shm-size=1g"
        )
    if inherited := [name for name in machine.variables if name not in THREAD_VARIABLES]:  # those a run sets itself
        said.append(f"every run inherits {', '.join(inherited)}: unset what you did not mean")
    return said


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cpu(root: Path) -> str:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _quota(root: Path) -> float | None:
    """Control groups, version 2 (cpu.max) or 1 (cfs); the limit of the group that a container sees as its root."""
    if new := _text(root / "sys/fs/cgroup/cpu.max"):
        quota, period = new.split()
        return None if quota == "max" else int(quota) / int(period)
    quota1, period1 = (_text(root / f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota1) / int(period1) if quota1 and period1 and int(quota1) > 0 else None


def _memory_limit(root: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        value = _text(root / "sys/fs/cgroup" / name)
        if value and value.isdigit() and int(value) < 2**60:  # version 1 says "none" with a huge number
            return int(value)
    return None


def _gpus() -> tuple[tuple[str, ...], str | None]:
    try:
        import pynvml
    except ImportError:
        return (), "pynvml is not installed; type: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"no NVIDIA driver ({error})"
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, total = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total
            found.append(f"{name}, {total / GIB:.0f} GiB")
        return tuple(found), None if found else "the driver lists no GPU"
    except pynvml.NVMLError as error:  # one that fell off its bus, or that this user may not ask
        return (), f"the NVIDIA driver does not tell its GPUs ({error}); look at nvidia-smi"
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
