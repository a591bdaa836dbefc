"""The doctor reads the kernel's files right, and warns of exactly what would make a number wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.build.installed import Installed
from bench import doctor, machine
from bench.__main__ import main
from bench.cores import THREAD_VARIABLES
from bench.machine import GIB, Machine

QUIET = Machine(
    cpu="Made-up CPU",
    cores=8,
    physical=8,
    allowed=tuple(range(8)),
    quota=None,
    load=0.1,
    governor="performance",
    memory=64 * GIB,
    available=60 * GIB,
    memory_limit=None,
    shm=8 * GIB,
    gpus=(),
    gpus_reason="none",
    variables={},
)


BUILT = Installed(version="0.28.1", torch="2.13.0", gloo=True, mpi=False, nccl=False, cuda=False)


def test_a_quiet_machine_has_no_warning() -> None:
    assert machine.warnings(QUIET) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"load": 6.0}, "load average is 6.0 on 8 usable cores"),
        ({"governor": "powersave"}, "cpupower frequency-set"),
        ({"quota": 2.0}, "2 cores' worth of time on 8 cores"),
        ({"physical": 4}, "8 hardware threads on 4 cores"),
        ({"available": 2 * GIB}, "2.0 GiB of memory"),
        ({"memory_limit": GIB}, "1.0 GiB of memory"),
        ({"shm": 64 * 2**20}, "--shm-size"),
        ({"variables": {"NCCL_DEBUG": "INFO"}}, "inherits NCCL_DEBUG"),
    ],
)
def test_each_trouble_is_one_warning(change: dict, words: str) -> None:
    (said,) = machine.warnings(dataclasses.replace(QUIET, **change))
    assert words in said


def test_what_can_not_be_read_is_no_trouble() -> None:
    unknown = dataclasses.replace(QUIET, governor=None, shm=None, physical=None, variables={"OMP_NUM_THREADS": "3"})
    assert machine.warnings(unknown) == []


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_both_kinds_of_control_groups(tmp_path: Path) -> None:
    new = machine.look(
        put(
            tmp_path / "new",
            sys__fs__cgroup__cpu_dot_max="150000 100000\n",
            sys__fs__cgroup__memory_dot_max="1073741824\n",
        )
    )
    assert (new.quota, new.memory_limit) == (1.5, GIB)
    none = machine.look(
        put(tmp_path / "none", sys__fs__cgroup__cpu_dot_max="max 100000\n", sys__fs__cgroup__memory_dot_max="max\n")
    )
    assert (none.quota, none.memory_limit) == (None, None)
    old = machine.look(
        put(
            tmp_path / "old",
            sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="200000",
            sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000",
            sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712",
        )
    )
    assert (old.quota, old.memory_limit) == (2.0, None)


def test_cpu_and_governor_are_named(tmp_path: Path) -> None:
    seen = machine.look(
        put(
            tmp_path,
            proc__cpuinfo="processor : 0\nmodel name : Big CPU 9000\n",
            sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
        )
    )
    assert (seen.cpu, seen.governor) == ("Big CPU 9000", "powersave")
    assert machine.look(tmp_path / "nothing").cpu == "unknown"


def test_this_machine_can_be_read() -> None:
    seen = machine.look()
    assert 1 <= seen.usable <= seen.cores
    assert 0 < seen.available <= seen.memory
    assert seen.gpus or seen.gpus_reason


def test_every_engine_is_told_with_its_version_or_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.installed, "probe", lambda: (BUILT, ""))
    monkeypatch.setattr(doctor, "unavailable", lambda config: "type: that" if config.engine.backend == "ring" else None)
    found = {each.name: each for each in doctor.engines()}
    assert set(found) == {"single", "ddp", "fsdp", "deepspeed", "horovod", "ring"}
    assert found["ddp"].version is not None
    assert found["ddp"].version.startswith("torch 2")
    assert (found["ring"].missing, found["horovod"].note) == ("type: that", "gloo")


def test_a_horovod_that_does_not_load_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.installed, "PROBE", "raise ImportError('undefined symbol')")
    monkeypatch.setattr(doctor.installed, "installed_version", lambda: "0.28.1")
    monkeypatch.setattr(doctor, "unavailable", lambda config: None)
    horovod = next(each for each in doctor.engines() if each.name == "horovod")
    assert horovod.missing is not None
    assert "undefined symbol" in horovod.missing
    assert "python -m backends.build" in horovod.missing


def test_engines_are_not_imported_to_be_looked_at() -> None:
    code = (
        "import sys; from bench import doctor; doctor.engines(); "
        "print(sorted({'torch', 'horovod', 'deepspeed', 'mpi4py'} & set(sys.modules)))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(doctor.__file__).parents[1]
    )
    assert asked.stdout.strip() == "[]"


def test_the_whole_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")  # whichever tests ran before
    monkeypatch.setattr(doctor.installed, "probe", lambda: (BUILT, ""))
    monkeypatch.setattr(machine, "look", lambda: QUIET)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for said in (
        "engine",
        "ddp",
        "horovod",
        "launchers",
        "torchrun found",
        "Made-up CPU",
        "8: 0-7",
        "/dev/shm",
        "GPUs",
        "nothing here is known",
    ):
        assert said in " ".join(text.split())
    monkeypatch.setattr(doctor, "unavailable", lambda config: "[not] installed")
    assert main(["doctor"]) == 1
    assert "[not] installed" in capsys.readouterr().out  # square brackets are text, not style


@pytest.mark.parametrize(("cores", "text"), [([0], "0"), ([0, 1, 2, 3], "0-3"), ([0, 2, 3, 8], "0,2-3,8"), ([], "")])
def test_cores_are_written_short(cores: list[int], text: str) -> None:
    assert doctor.span(cores) == text


def test_a_gpu_that_does_not_answer_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def lost(index: int) -> None:
        raise NVMLError("GPU is lost")

    def quiet() -> None:
        pass

    driver = {"NVMLError": NVMLError, "nvmlInit": quiet, "nvmlShutdown": quiet, "nvmlDeviceGetCount": lambda: 2}
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**driver, nvmlDeviceGetHandleByIndex=lost))
    here = machine.look()
    assert here.gpus == ()
    assert here.gpus_reason == "the NVIDIA driver does not tell its GPUs (GPU is lost); look at nvidia-smi"
