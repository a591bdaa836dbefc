"""How Horovod is built: source and mends, tools, plan, the kept wheel, and what horovodrun does with it."""

import dataclasses
import errno
import os
import shutil
import stat
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backends.build import BuildError, installed, mends, source, tools, wheel
from backends.build import plan as planning
from backends.build.plan import Plan, plan
from tests import started
from tests.started import with_horovod

ROOT = Path(__file__).resolve().parents[1]
ALLREDUCE = """
import sys
from pathlib import Path
import torch
import horovod.torch as hvd
torch.set_num_threads(1)
hvd.init()
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0]), op=hvd.Sum, name="total")
Path(sys.argv[1], str(hvd.rank())).write_text(f"{hvd.size()} {total.item()} {sys.executable}")
"""


def program(file: Path, script: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


# --- the source


@pytest.mark.assets
def test_every_mend_fits_the_released_archive(tmp_path):
    tree = source.unpack(source.archive(wheel.cache_root()), tmp_path)
    for mend in mends.MENDS:
        assert mend.after in (tree / mend.path).read_text()
        assert mend.reason
    for lists in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        assert "CMAKE_CXX_STANDARD 14" not in (tree / lists).read_text()
    for folder in ("horovod/torch", "horovod/runner", "horovod/common"):
        files = [file for pattern in ("*.py", "*.txt") for file in (tree / folder).rglob(pattern)]
        assert files
        assert [str(file) for file in files if "distutils" in file.read_text()] == []


def test_a_mend_for_another_source_is_refused(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 20)\n")
    with pytest.raises(BuildError, match=r"CMakeLists\.txt holds .* 0 times"):
        mends.apply(tmp_path)


@pytest.mark.parametrize("text", ["a b\n", "a a b\n"])
def test_a_mend_is_made_once_or_not_at_all(tmp_path, text):
    file = tmp_path / "file"
    file.write_text(text)
    mend = mends.Mend("file", "a", "c", "a test")
    if text.count("a") == 1:
        mends.apply(tmp_path, (mend,))
        assert file.read_text() == "c b\n"
    else:
        with pytest.raises(BuildError, match="2 times"):
            mends.apply(tmp_path, (mend,))
        assert file.read_text() == text


def test_a_damaged_archive_is_named_with_what_to_type(tmp_path):
    file = tmp_path / "sources" / source.ARCHIVE
    file.parent.mkdir()
    file.write_bytes(b"half of it")
    with pytest.raises(BuildError) as error:
        source.archive(tmp_path)
    assert source.sha256(file) in str(error.value)
    assert source.SHA256 in str(error.value)
    assert f"rm {file}" in str(error.value)


# --- the tools


def test_missing_tools_are_all_named_before_anything_else_happens(tmp_path):
    """With nothing on the PATH there is no compiler; cmake and mpicxx lie beside Python and are found all the same."""
    run = subprocess.run(
        [sys.executable, "-m", "backends.build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "RINGZERO_CACHE": str(tmp_path / "cache")},
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    for name in ("g++", "gcc", "make"):
        assert f"  {name} is missing" in run.stderr
    for name in ("cmake", "mpicxx", "torch"):
        assert f"  {name} is missing" not in run.stderr
    assert "make horovod" in run.stderr
    assert not (tmp_path / "cache").exists()


def test_root_alone_is_told_to_install_system_packages_first(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert tools.tools()[0].remedy.startswith("apt-get install g++")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert tools.tools()[0].remedy.startswith("export CXX=")


def test_a_compiler_that_was_named_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(program(tmp_path / "mine", "exit 0")))
    assert tools.tools()[0].found == str(tmp_path / "mine")


def test_the_pinned_setuptools_is_old_enough():
    (tool,) = [tool for tool in tools.tools() if tool.name.startswith("setuptools")]
    assert tool.found
    assert int(tool.found.split(".")[0]) < tools.SETUPTOOLS_BELOW


def test_root_hears_of_mpirun(monkeypatch):
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in (installed.root_note() or "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert installed.root_note() is None


# --- the plan


def test_the_key_follows_everything_the_wheel_depends_on(monkeypatch):
    first = plan()
    assert first.key == plan().key
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert plan().key != first.key
    monkeypatch.setattr(planning, "MENDS", mends.MENDS[1:])
    assert plan().facts["mends"] != first.facts["mends"]


ANOTHER = {
    "Horovod": ("VERSION", "0.99"),
    "archive": ("SHA256", "0" * 64),
    "mends": ("MENDS", mends.MENDS[1:]),
    "torch": ("torch.__version__", "2.99.0"),
    "Python": ("sys", SimpleNamespace(implementation=SimpleNamespace(cache_tag="cpython-399"))),
    "platform": ("sysconfig.get_platform", lambda: "linux-another"),
    "C library": ("platform.libc_ver", lambda: ("glibc", "9.9")),
    "CPU": ("_cpu_flags", lambda: {"avx"}),
    "Open MPI": ("_first_line", lambda program, *words: "mpirun (Open MPI) 9.9"),
    "CUDA": ("find_cuda", lambda: planning.Cuda({"HOROVOD_GPU_OPERATIONS": "NCCL"})),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_another_machine_or_version_is_another_wheel(what, monkeypatch):
    monkeypatch.setattr(planning, "_cpu_flags", lambda: {"avx", "fma", "another"})
    first = plan()
    name, value = ANOTHER[what]
    monkeypatch.setattr(f"backends.build.plan.{name}", value)
    assert plan().key != first.key


def test_a_cpu_flag_that_horovod_has_no_use_for_changes_nothing(monkeypatch):
    monkeypatch.setattr(planning, "_cpu_flags", lambda: {"avx"})
    first = plan()
    monkeypatch.setattr(planning, "_cpu_flags", lambda: {"avx", "another"})
    assert plan().key == first.key


@pytest.fixture
def cuda(monkeypatch, tmp_path) -> Path:
    """A torch that says CUDA 13.0, an nvcc of the same, and NCCL as torch's wheels bring it: no plain libnccl.so."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    home = tmp_path / "cuda"
    program(home / "bin" / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    monkeypatch.setenv("CUDA_HOME", str(home))
    nccl = tmp_path / "nccl"
    for file in ("include/nccl.h", "lib/libnccl.so.2"):
        (nccl / file).parent.mkdir(parents=True)
        (nccl / file).touch()
    monkeypatch.setenv("HOROVOD_NCCL_HOME", str(nccl))
    return home


def test_nccl_goes_in_where_all_of_cuda_is_found(cuda, tmp_path):
    made = plan()
    assert made.cuda.why_not is None
    assert made.flags["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert made.flags["HOROVOD_CUDA_HOME"] == str(cuda)
    env = made.environment(tmp_path)
    assert Path(env["HOROVOD_NCCL_LIB"], "libnccl.so").resolve() == tmp_path / "nccl" / "lib" / "libnccl.so.2"
    assert env["HOROVOD_LOCAL_VERSION"] in made.version


def test_cuda_without_nccl_says_what_is_missing(cuda, tmp_path, monkeypatch):
    (tmp_path / "nccl" / "include" / "nccl.h").unlink()
    made = planning.find_cuda()
    assert (made.flags, made.library) == ({}, None)
    assert "HOROVOD_NCCL_HOME" in (made.why_not or "")


def test_another_cuda_than_torchs_is_refused(cuda):
    program(cuda / "bin" / "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.99'")
    with pytest.raises(BuildError, match=r"torch was built for CUDA 13\.0"):
        planning.find_cuda()


def test_without_cuda_nothing_of_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not [name for name in plan().flags if "GPU" in name or "CUDA" in name or "NCCL" in name]


# --- the kept wheel


@pytest.fixture
def kept(tmp_path) -> tuple[Plan, Path]:
    made = plan()
    file = tmp_path / "wheels" / made.key / "horovod.whl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a wheel")
    (file.parent / "build.json").write_text(f'{{"wheel": "horovod.whl", "sha256": "{source.sha256(file)}"}}')
    return made, file


def test_a_kept_wheel_is_used_for_the_same_plan_only(kept, tmp_path):
    made, file = kept
    assert wheel.cached(made, tmp_path) == file
    assert wheel.cached(dataclasses.replace(made, facts={**made.facts, "torch": "2.0"}), tmp_path) is None


def test_a_damaged_kept_wheel_is_built_again(kept, tmp_path):
    made, file = kept
    file.write_bytes(b"half")
    assert wheel.cached(made, tmp_path) is None


@pytest.mark.parametrize("text", ["", '{"wheel": "horo', "[]", "{}", '{"wheel": null, "sha256": null}'])
def test_a_wheel_whose_facts_were_cut_short_is_built_again(kept, tmp_path, text):
    made, file = kept
    file.with_name("build.json").write_text(text)
    assert wheel.cached(made, tmp_path) is None


def test_the_cache_may_be_named_from_the_home(monkeypatch):
    monkeypatch.setenv("RINGZERO_CACHE", "~/elsewhere")
    assert wheel.cache_root() == Path.home() / "elsewhere"


@pytest.fixture
def compiles(tmp_path, monkeypatch) -> Path:
    """A folder for the cache; fetching does nothing, and compiling leaves a wheel at once."""
    monkeypatch.setattr(source, "archive", lambda cache: cache)
    monkeypatch.setattr(source, "unpack", lambda file, folder: (folder / "horovod-0-any.whl").write_bytes(b"new"))
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: SimpleNamespace(returncode=0, stdout="-", stderr=""))
    return tmp_path / "cache"


def test_two_checkouts_write_the_same_wheel_each_its_own_way(compiles, monkeypatch):
    made, seen = plan(), []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda part, file: seen.append((part, file)) or replace(part, file))
    for _ in range(2):
        assert wheel.build(made, compiles, lambda step: None) == wheel.cached(made, compiles)
    assert [file.name for _, file in seen] == ["horovod-0-any.whl", "build.json"] * 2
    assert len({part for part, _ in seen}) == 4
    assert not list(compiles.rglob("*.part"))


def test_a_cache_that_takes_nothing_is_named_with_what_to_type(compiles):
    compiles.write_text("a file where a folder should be: nobody may write below it, root neither")
    with pytest.raises(BuildError, match=r"export RINGZERO_CACHE=") as error:
        wheel.build(plan(), compiles, lambda step: None)
    assert str(compiles) in str(error.value)


def test_a_full_disk_leaves_the_wheel_that_was_there(compiles, monkeypatch):
    made = plan()
    file = wheel.build(made, compiles, lambda step: None)
    write = Path.write_bytes

    def full(part: Path, content: bytes) -> None:
        write(part, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(source, "unpack", lambda file, folder: write(folder / "horovod-0-any.whl", b"newer"))
    with pytest.raises(BuildError, match="No space left on device"):
        wheel.build(made, compiles, lambda step: None)
    assert wheel.cached(made, compiles) == file
    assert not list(compiles.rglob("*.part"))


def test_a_compiler_error_is_shown_with_its_log(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text("raise SystemExit('thing.cc:7:1: error: no such thing')")
    monkeypatch.setattr(source, "archive", lambda cache: cache)
    monkeypatch.setattr(source, "unpack", lambda file, folder: tree)
    steps: list[str] = []
    with pytest.raises(BuildError, match=r"thing\.cc:7:1: error: no such thing") as error:
        wheel.build(plan(), tmp_path, steps.append)
    log = tmp_path / "wheels" / plan().key / "build.log"
    assert str(log) in str(error.value)
    assert [step.split(":")[0] for step in steps] == ["source", "compile"]
    assert not list(log.parent.glob("*.whl"))


# --- what is installed


def test_horovod_is_here_wherever_it_can_be_built():
    """Its other tests are skipped without it: that must not hide a build that broke."""
    if missing := [tool.name for tool in tools.tools() if tool.found is None]:
        pytest.skip(f"Horovod can't be built here, without {', '.join(missing)}: make horovod")
    assert find_spec("horovod"), "every tool is here, Horovod is not; what stopped the build: make horovod"


def test_only_the_tests_of_an_engine_that_is_not_built_are_skipped(monkeypatch):
    monkeypatch.setattr(started, "find_spec", lambda name: None)
    started.need("ddp")
    with pytest.raises(pytest.skip.Exception, match="make horovod"):
        started.need("horovod")


def test_mpirun_starts_more_ranks_than_there_are_cores(monkeypatch):
    monkeypatch.setattr("bench.launchers.slots", lambda: 1)  # one core with two threads, say
    assert started.mpirun()[-3:] == ["--map-by", ":OVERSUBSCRIBE", sys.executable]


@with_horovod
def test_the_installed_horovod_is_the_planned_one():
    found, why = installed.probe()
    assert found is not None, why
    assert (found.version, found.torch) == (plan().version, torch.__version__)
    assert found.gloo
    assert found.mpi
    assert found.nccl == ("HOROVOD_GPU_OPERATIONS" in plan().flags)


@with_horovod
def test_it_finds_its_libraries_from_where_it_lies():
    library = next(file for file in distribution("horovod").files or [] if "mpi_lib_v2" in file.name)
    assert b"$ORIGIN/../../../..:$ORIGIN/../../torch/lib" in Path(str(library.locate())).read_bytes()


@with_horovod
def test_it_imports_without_a_warning():
    code = "import horovod.torch, horovod.runner.launch"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@with_horovod
@pytest.mark.parametrize("controller", [[], ["--gloo"], ["--mpi"]], ids=["plain", "gloo", "mpi"])
def test_horovodrun_starts_ranks_in_an_environment_that_nobody_activated(controller, tmp_path):
    """mpirun and python are found beside horovodrun, and root needs no variable of Open MPI's."""
    script = tmp_path / "allreduce.py"
    script.write_text(ALLREDUCE)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    horovodrun = Path(sys.executable).with_name("horovodrun")
    command = [str(horovodrun), *controller, "-np", "2", "python", str(script), str(tmp_path)]
    run = subprocess.run(
        command,
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    interpreter = shutil.which("python", path=str(horovodrun.parent))
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"2 3.0 {interpreter}"] * 2
