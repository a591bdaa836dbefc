"""What is changed in Horovod's source before it is compiled: each change whole, with its reason; nothing else."""

from dataclasses import dataclass
from pathlib import Path

from backends.build import BuildError


@dataclass(frozen=True)
class Mend:
    """In the file `path`, the text `before`, which occurs there exactly once, becomes `after`."""

    path: str
    before: str
    after: str
    reason: str


MENDS: tuple[Mend, ...] = (
    Mend(
        path="CMakeLists.txt",
        before="set(CMAKE_CXX_STANDARD 14)\n",
        after="set(CMAKE_CXX_STANDARD 17)\n",
        reason="torch's headers need C++17 since torch 2.1",
    ),
    Mend(
        path="horovod/torch/CMakeLists.txt",
        before="set(CMAKE_CXX_STANDARD 14)\n",
        after="set(CMAKE_CXX_STANDARD 17)\n",
        reason="the torch library sets the standard a second time",
    ),
    Mend(
        path="horovod/torch/CMakeLists.txt",
        before="from distutils.sysconfig import get_python_inc; print(get_python_inc())",
        after="from sysconfig import get_path; print(get_path('include'))",
        reason="distutils left Python in 3.12; without it the path of Python.h is silently empty",
    ),
    Mend(
        path="CMakeLists.txt",
        before="set(CMAKE_CXX_EXTENSIONS OFF)\n",
        after=(
            "set(CMAKE_CXX_EXTENSIONS OFF)\n"
            "set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
            'set(CMAKE_INSTALL_RPATH "$ORIGIN/../../../.." "$ORIGIN/../../torch/lib")\n'
            "set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)\n"
        ),
        reason="the library then finds libmpi and torch relative to itself, so a kept wheel serves any environment",
    ),
    Mend(
        path="horovod/runner/js_run.py",
        before="from distutils.spawn import find_executable\n",
        after="from shutil import which as find_executable\n",
        reason="horovodrun imports this file at every start, and distutils left Python in 3.12",
    ),
    Mend(
        path="horovod/runner/mpi_run.py",
        before="return list(_OMPI_FLAGS), list(_NO_BINDING_ARGS), _OMPI_IMPL",
        after="return list(_OMPI_FLAGS), ['--bind-to none', '--map-by slot'], _OMPI_IMPL",
        reason="Open MPI 5 reads `-bind-to none` as a program called none; two dashes suit Open MPI 4 and 5",
    ),
    Mend(
        path="horovod/runner/launch.py",
        before="def run_commandline():\n    args = parse_args()\n",
        after=(
            "def run_commandline():\n"
            "    beside = os.path.dirname(sys.executable)\n"
            "    os.environ['PATH'] = os.pathsep.join([beside, os.environ.get('PATH', os.defpath)])\n"
            "    args = parse_args()\n"
        ),
        reason="mpirun and python lie beside horovodrun; without this they are found only in an activated environment",
    ),
)


def apply(tree: Path, mends: tuple[Mend, ...] = MENDS) -> None:
    """Make every change in the unpacked source `tree`.

    Raises BuildError where a file is missing or does not hold the old text exactly once: then it is another source.
    """
    for mend in mends:
        file = tree / mend.path
        found = file.read_text(encoding="utf-8").count(mend.before) if file.is_file() else 0
        if found != 1:
            raise BuildError(
                f"{mend.path} holds {mend.before.strip()!r} {found} times where 1 was expected: "
                "the mends in backends/build/mends.py are for another source than this one"
            )
        file.write_text(file.read_text(encoding="utf-8").replace(mend.before, mend.after), encoding="utf-8")
