"""The house in order: pins, packages, imports, the README's tree and commands, the Makefile and the set-up."""

import ast
import errno
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import lanes
from tests.started import UNSEEN

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("bench", "backends", "model")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = [file for top in TOPS for file in sorted((ROOT / top).rglob("*.py"))]
BUILT_HERE = {"horovod"}  # not a dependency: backends.build makes it
PROVIDED = importlib.metadata.packages_distributions()  # module -> the distributions that bring it


def pins() -> dict[str, Version]:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): Version(pin) for name, pin in (line.split("==") for line in lines)}


def declared() -> list[Requirement]:
    """Every requirement of pyproject, those of the extras included."""
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != project["name"]]


def comes_with_cuda(name: str) -> bool:
    """Whether a torch for GPUs brings this package, and decides its version; the pins are those of every torch."""
    plain = canonicalize_name(name)
    return plain.startswith(("nvidia-", "cuda-", "triton")) and plain != "nvidia-ml-py"  # that one we ask for ourselves


def listed() -> list[Path]:
    """The files that git knows or would add; where there is no git, or no repository, all that a set-up or a run did not make."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        said = ""
    return [ROOT / name for name in said.split("\0") if name] or walked(ROOT)


def walked(root: Path) -> list[Path]:
    """What .gitignore leaves, near enough: no folder of tools, nothing built, no runs of one's own."""
    made = re.compile(r"(build|dist|checkpoints)/|results/(?!README\.md$|reference/)")
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name == ".ci" or not re.match(r"\.|__pycache__$|.*\.egg-info$", name)]
        found += [Path(folder, name) for name in names]
    return [file for file in found if not made.match(file.relative_to(root).as_posix())]


def in_folders(files: Iterable[Path]) -> set[str]:
    """Those of the project's own folders: what else lies in somebody's checkout is theirs."""
    names = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    return {
        name
        for name in names
        if name.startswith(tuple(f"{top}/" for top in (*TOPS, ".ci", "docs", "results", "tests")))
    }


def text_files() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository but this one, which has to name what it forbids."""
    for file in listed():
        if file.is_file() and file != Path(__file__).resolve():
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a picture, or weights
                continue


def test_without_git_the_same_files_are_found(monkeypatch):
    """In an archive that was unpacked, or where git does not trust who owns the folder."""
    known = in_folders(listed())
    monkeypatch.setenv("PATH", "/nowhere")
    found = listed()
    assert in_folders(found) == known
    assert ROOT / "Makefile" in found
    assert not [file for file in found if {".venv", ".git"} & {*file.parts}]


# --- versions


def test_every_line_of_the_constraints_is_an_exact_pin():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)]
    assert wrong == []
    assert "torch==2.13.0" in lines


def test_every_dependency_is_pinned_and_its_pin_is_allowed():
    pinned = pins()
    for requirement in declared():
        assert canonicalize_name(requirement.name) in pinned, f"pin {requirement.name} in constraints.txt"
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_what_the_dependencies_need_is_pinned_to_what_is_installed():
    """Walks from pyproject through the installed packages' own requirements."""
    pinned, seen = pins(), set()
    waiting = [(requirement.name, frozenset(requirement.extras)) for requirement in declared()]
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this environment was made without
        if comes_with_cuda(name):
            continue
        assert canonicalize_name(name) in pinned, f"{name} {found.version} is installed and not pinned"
        assert Version(found.version).public == str(pinned[canonicalize_name(name)]), f"{name} is not the pinned one"
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((needed.name, frozenset(needed.extras)))


def test_what_a_torch_for_gpus_brings_needs_no_pin(monkeypatch):
    """Its wheels, Triton included, have plain versions where torch itself is the index's own."""
    distribution = importlib.metadata.distribution

    def found(name: str) -> object:
        real = distribution("packaging" if comes_with_cuda(name) else name)
        more = ["nvidia-cublas==13.1", "nvidia_nccl_cu13", "cuda-bindings>=13", "triton==3.7"] * (name == "torch")
        return SimpleNamespace(version=real.version, requires=[*(real.requires or []), *more])

    monkeypatch.setattr(importlib.metadata, "distribution", found)
    test_what_the_dependencies_need_is_pinned_to_what_is_installed()
    assert not comes_with_cuda("nvidia-ml-py")


def test_extras_that_messages_name_exist():
    extras = PYPROJECT["project"]["optional-dependencies"]
    named = [
        (str(file.relative_to(ROOT)), extra)
        for file, text in text_files()
        if "tests" not in file.parts
        for names in re.findall(r"(?:^|[\s'\"])\.\[([\w,-]+)\]", text)
        for extra in names.split(",")
    ]
    assert ("model/convert.py", "assets") in named
    assert [each for each in named if each[1] not in extras] == []


# --- packages and imports


def test_the_listed_packages_are_those_that_exist():
    exist = {".".join(file.parent.relative_to(ROOT).parts) for file in SOURCES}
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(exist)
    assert [name for name in sorted(exist) if not (ROOT / name.replace(".", "/") / "__init__.py").exists()] == []


def test_every_file_of_a_package_is_installed_with_it():
    """Data lies in the folder of a package, or below one that is none, and its patterns name it."""
    packages = PYPROJECT["tool"]["setuptools"]["packages"]
    kept = {
        file
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
        if package in packages
    }
    data = {file for file in listed() if file.relative_to(ROOT).parts[0] in TOPS and file.suffix != ".py"}
    assert data
    assert sorted(data - kept) == []


def test_a_source_archive_holds_what_make_needs(tmp_path):
    """setuptools' own list of what it would pack."""
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info", "--egg-base", tmp_path]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    packed = set((tmp_path / "ringzero.egg-info" / "SOURCES.txt").read_text().splitlines())
    wanted = in_folders(listed()) | {"Makefile", "constraints.txt", "tox.ini", "pyproject.toml", "LICENSE", "README.md"}
    assert sorted(wanted - packed) == []


def imports(file: Path) -> set[str]:
    """Top-level names that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way_and_are_declared(file):
    top = file.relative_to(ROOT).parts[0]
    found = imports(file)
    forbidden = {"bench": set(), "backends": {"bench", "model"}, "model": {"bench", "backends"}}[top]
    assert not found & forbidden, "bench imports backends and model, never the other way"
    known = {canonicalize_name(requirement.name) for requirement in declared()}
    others = found - sys.stdlib_module_names - {*TOPS, *BUILT_HERE}
    missing = {name for name in others if not {canonicalize_name(each) for each in PROVIDED.get(name, [name])} & known}
    assert not missing, "declare these in pyproject.toml"


def test_no_file_of_bench_has_the_name_of_a_standard_module():
    """`deepspeed bench/run.py` puts that folder first on the path."""
    assert [file.name for file in (ROOT / "bench").glob("*.py") if file.stem in sys.stdlib_module_names] == []


# --- the README


def tree(text: str) -> set[str]:
    """The paths of the file tree in a README: lines of names (`a.py b.py  what they do`), folders end in a slash."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    block = next((each for each in blocks if re.search(r"^\W*bench/(\s|$)", each, re.MULTILINE)), "")
    paths: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        plain = re.sub("[│├└─]", " ", line).rstrip()
        indent = len(plain) - len(plain.lstrip())
        names = re.match(r"(?:\S*[./]\S*(?:\s|$))*", plain.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        for name in names[0].split() if names else []:
            path = (folders[-1][1] if folders else "") + name
            if name.endswith("/"):
                folders.append((indent, path))
            else:
                paths.add(path)
    return paths


def test_the_tree_is_read_as_a_person_reads_it():
    rows = ["bench/       commands", "  run.py cli.py  one rank. Two", "  measure/", "    clock.py  time", "model/"]
    plain = "\n".join(["```", *rows, "  a.py", "```", ""])
    drawn = plain.replace("  run", "├── run").replace("  measure", "└── measure").replace("    clock", "    └── clock")
    assert tree(plain) == {"bench/run.py", "bench/cli.py", "bench/measure/clock.py", "model/a.py"}
    assert tree(drawn) == tree(plain)


def test_the_readmes_tree_lists_every_file_and_no_other():
    listed = {path for path in tree((ROOT / "README.md").read_text()) if path.startswith(TOPS) and path.endswith(".py")}
    exist = {str(file.relative_to(ROOT)) for file in SOURCES if file.name != "__init__.py"}
    assert sorted(exist - listed) == []
    assert [path for path in sorted(listed - exist) if not (ROOT / path).is_file()] == []


def test_each_field_of_a_record_is_told_once():
    tables = [part for part in (ROOT / "results/README.md").read_text().split("\n\n") if part.startswith("| ")]
    assert tables
    for table in tables:
        fields = [row.split("|")[1] for row in table.splitlines()]
        assert len(fields) > 2
        assert [field for field in fields if fields.count(field) > 1] == []


@pytest.mark.parametrize("command", ["make bench", "make test"])
def test_the_readme_shows_the_command(command):
    assert command in (ROOT / "README.md").read_text()


# --- words


@pytest.mark.parametrize(
    "word",
    [
        r"\bTODO\b",
        r"\bFIXME\b",
        r"\bXXX\b",
        "future work",
        "not yet implemented",
        r"/work/",
        r"/tmp/w\b",
        r"\bpypi\.org",
        "pythonhosted",
        "npmjs",
        r"file:///",
    ],
)
def test_nothing_names_what_does_not_belong_here(word):
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file, text in text_files()
        for match in re.finditer(word, text, 0 if word.isupper() else re.IGNORECASE)
    ]
    assert found == []


# --- make


def make(*arguments: str) -> str:
    """What make prints, also where the tests themselves were started by `make test`."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def test_make_help_lists_every_target():
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert re.findall(r"make (\w+)", make("help")) == targets


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("bench", "ringzero compare quick"),
        ("test", "tests/lanes.py"),
        ("microbench", "-m pytest --benchmark-only"),
    ],
)
def test_make_sets_up_first(target, command):
    setup, what = make("-n", target).strip().splitlines()
    assert setup.endswith(".ci/setup.py")
    assert what.endswith(command)


@pytest.mark.parametrize(("last_word", "status"), [("exit 0", 0), ("exit 1", 1), ("kill -SEGV $$", 128 + 11)])
def test_a_suite_that_was_killed_is_red(last_word, status, tmp_path, monkeypatch):
    """Python tells of a signal by a negative number: less than the 0 of the lane beside it."""
    suite = tmp_path / "python"
    suite.write_text(f'#!/bin/sh\ncase "$*" in *faulty*) {last_word};; esac\n')
    suite.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(suite))
    monkeypatch.setattr(sys, "argv", ["lanes.py"])
    monkeypatch.setattr(lanes, "LANES", {"ranks": ["faulty"], "others": ["one", "another"]})
    assert lanes.main() == status


def test_no_test_sees_a_gpu():
    code = "from backends.world import World; import os; World(launcher='deepspeed').publish(); print(dict(os.environ))"
    deepspeed = {**UNSEEN, "CUDA_VISIBLE_DEVICES": "0,1"}  # what its launcher makes of it
    for env in ({**os.environ}, {**os.environ, **deepspeed}):
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        assert ast.literal_eval(ran.stdout)["CUDA_VISIBLE_DEVICES"] == ""


def test_ci_runs_what_the_readme_says():
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.fixture
def setup(tmp_path, monkeypatch) -> ModuleType:
    """`.ci/setup.py` in a folder of its own, in which nothing may be run."""
    spec = importlib.util.spec_from_file_location("ringzero_setup", ROOT / ".ci" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {
        "ROOT": tmp_path,
        "VENV": tmp_path / ".venv",
        "STAMP": tmp_path / ".venv" / "ringzero.json",
        "LOG": tmp_path / ".venv" / "setup.log",
        "PYTHON": Path(sys.executable),
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.delenv("PYTHON", raising=False)
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return module


def test_a_second_set_up_runs_nothing(setup, monkeypatch, capsys):
    ran: list[str] = []
    monkeypatch.setattr(setup, "make_venv", lambda: ran.append("venv"))
    monkeypatch.setattr(setup, "run", lambda what, *command: ran.append(what.split()[0]))
    monkeypatch.setattr(setup, "build_horovod", lambda: ran.append("horovod"))
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    assert setup.main() == 0
    assert ran == ["venv", "2/5", "3/5", "4/5", "horovod"]
    ran.clear()
    assert setup.main() == 0
    assert ran == []
    assert "Horovod is not built" in capsys.readouterr().out
    with (setup.ROOT / "constraints.txt").open("a") as constraints:
        constraints.write("another==1.0\n")
    assert setup.main() == 0
    assert ran == ["2/5", "3/5", "4/5", "horovod"]


@pytest.mark.parametrize("text", ["", '{"key": "12', "[]", "null"])
def test_a_stamp_that_was_cut_short_is_none(setup, text):
    setup.STAMP.write_text(text)
    assert setup.stamp() == {}


def test_two_set_ups_of_one_folder_take_turns(setup, child, monkeypatch, capfd):
    """The other one holds the folder and leaves a stamp: there is nothing left to do."""
    other = (
        "import fcntl, os, pathlib, sys, time; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "pathlib.Path(sys.argv[1], 'held').touch(); time.sleep(1); pathlib.Path(sys.argv[2]).write_text(sys.argv[3])"
    )
    stamp = json.dumps({"key": setup.key(), "python": sys.version, "root": str(setup.ROOT), "horovod": "0"})
    child(sys.executable, "-c", other, str(setup.ROOT), str(setup.STAMP), stamp)
    while not (setup.ROOT / "held").exists():
        time.sleep(0.01)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    assert setup.main() == 0
    first, second = capfd.readouterr().out.splitlines()
    assert first == "another make is setting up this folder; waiting for it"
    assert "is current" in second


def test_a_set_up_without_room_says_so(setup, monkeypatch, capsys):
    def full(**asked: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(setup, "set_up", full)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    assert setup.main() == 1
    assert "No space left on device" in capsys.readouterr().err


def test_horovod_alone_is_tried_again_and_missed(setup, monkeypatch):
    setup.STAMP.write_text(f'{{"key": "{setup.key()}", "horovod": null}}')
    monkeypatch.setattr(setup, "build_horovod", lambda: None)
    monkeypatch.setattr(sys, "argv", ["setup.py", "--horovod"])
    assert setup.main() == 1


def test_an_old_python_is_refused_with_what_to_type(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup, "OLDEST", (9, 0))
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    assert setup.main() == 1
    assert "export PYTHON=" in capsys.readouterr().err  # named for one command, the next would take python3 again


@pytest.fixture
def done(setup, monkeypatch) -> list[str]:
    """The steps of a set-up that is complete, by this Python; now another one is first on the PATH."""
    steps: list[str] = []
    monkeypatch.setattr(setup, "make_venv", lambda: steps.append("venv"))
    monkeypatch.setattr(setup, "run", lambda what, *command: steps.append(what.split()[0]))
    monkeypatch.setattr(setup, "build_horovod", lambda: None)
    setup.set_up(horovod_again=False)
    steps.clear()
    monkeypatch.setattr(sys, "version", "3.99.0 (another)")
    return steps


def test_a_venv_that_works_outlives_another_python_on_the_path(setup, done, monkeypatch):
    setup.set_up(horovod_again=False)
    assert done == []
    with (setup.ROOT / "constraints.txt").open("a") as constraints:
        constraints.write("another==1.0\n")
    setup.set_up(horovod_again=False)
    assert done == ["2/5", "3/5", "4/5"]  # brought up to date in the Python that it has
    assert json.loads(setup.STAMP.read_text())["python"] != sys.version


@pytest.mark.parametrize("why", ["named", "moved", "broken", "too old"])
def test_a_venv_is_made_again_where_it_must_be(why, setup, done, monkeypatch, tmp_path):
    if why == "named":
        monkeypatch.setenv("PYTHON", "python3.99")
    elif why == "moved":
        setup.STAMP.write_text(json.dumps(json.loads(setup.STAMP.read_text()) | {"root": "/elsewhere"}))
    elif why == "broken":
        monkeypatch.setattr(setup, "PYTHON", Path(shutil.which("false") or ""))
    else:
        monkeypatch.setattr(setup, "OLDEST", (3, 98))
        monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    setup.set_up(horovod_again=False)
    assert done[0] == "venv"
    assert json.loads(setup.STAMP.read_text())["python"] == sys.version


def test_a_failed_step_shows_the_end_of_its_log(setup):
    with pytest.raises(setup.SetupError, match=r"this step failed(.|\n)*the reason"):
        setup.run("a step", sys.executable, "-c", "raise SystemExit('the reason')")
