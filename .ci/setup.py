"""What `make` does before anything else: .venv with the pinned wheels, and Horovod built against the torch in it.

Only the standard library: this runs before there is anything else. A second call sees that nothing changed and returns.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "ringzero.json"
LOG = VENV / "setup.log"
OLDEST = (3, 11)
INPUTS = ("pyproject.toml", "constraints.txt", ".ci/setup.py", "backends/build/*.py")
PIP = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt"]
LAST_LINES = 12  # of the log, shown when a step fails


class SetupError(RuntimeError):
    """The set-up can't go on; the message says what to type."""


def key(python: str = sys.version) -> str:
    """Digest of all that decides what the environment holds, the folder and the Python included."""
    digest = hashlib.sha256(f"{ROOT} {python}".encode())
    for pattern in INPUTS:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def stamp() -> dict[str, str | None]:
    """What the last complete set-up left; empty where there was none, it was cut short, or its Python is gone."""
    try:
        left = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return left if isinstance(left, dict) and PYTHON.exists() else {}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One set-up of this folder at a time: two would fill the same .venv, or delete it under the other."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another make is setting up this folder; waiting for it", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, or without those of folders
            pass
        yield
    finally:
        os.close(folder)


def kept(last: dict[str, str | None]) -> str | None:
    """The Python of a .venv that works; None where it does not, is too old, or PYTHON names the one to take.

    Another python3 that has come first on the PATH is no reason to delete it.
    """
    if "PYTHON" in os.environ or last.get("root") != str(ROOT):
        return None
    asked = "import json, sys; print(json.dumps([sys.version, sys.version_info[:2] >= tuple(map(int, sys.argv[1:]))]))"
    said = quiet(str(PYTHON), "-I", "-c", asked, *map(str, OLDEST))
    return last["python"] if said.returncode == 0 and json.loads(said.stdout) == [last.get("python"), True] else None


def run(what: str, *command: str) -> None:
    """One step on one line: what it does, then its seconds. Its output goes to the log.

    Raises SetupError with the end of the log.
    """
    print(f"{what} ...", end=" ", flush=True)
    began = time.monotonic()
    with LOG.open("a") as log:
        print(f"\n$ {' '.join(command)}", file=log, flush=True)
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    print(f"{time.monotonic() - began:.1f} s", flush=True)
    if done.returncode:
        lines = [line for line in LOG.read_text(errors="replace").splitlines() if not line.startswith("WARNING")]
        raise SetupError("\n    ".join([f"this step failed; the end of {LOG}:", *lines[-LAST_LINES:]]))


def quiet(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def make_venv() -> None:
    """An empty environment with pip in it, also where Debian's python3 came without python3-venv."""
    print(f"1/5 .venv: Python {sys.version.split()[0]} from {sys.executable} ...", end=" ", flush=True)
    began = time.monotonic()
    shutil.rmtree(VENV, ignore_errors=True)
    made = quiet(sys.executable, "-m", "venv", str(VENV))
    if made.returncode:  # no ensurepip: a pip from elsewhere can put a pip there
        bare = quiet(sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV))
        if bare.returncode or quiet(sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "pip").returncode:
            raise SetupError(
                f"{sys.executable} can make no virtual environment with pip in it:\n{made.stdout}\n"
                "type: export PYTHON=/path/to/a/python3 of pyenv, uv or conda: these are complete; then make again\n"
                "(or, as root: apt-get install python3-venv)"
            )
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def build_horovod() -> str | None:
    """Build and install Horovod; its steps print themselves. Returns its version, None where it can't be built."""
    print("5/5 Horovod, compiled against this torch; the wheel is kept for the next time", flush=True)
    command = [str(PYTHON), "-m", "backends.build"]
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
        print("  Horovod is left out; the other engines go on without it.", flush=True)
        return None
    return quiet(str(PYTHON), "-c", "import importlib.metadata as m; print(m.version('horovod'))").stdout.strip()


def set_up(*, horovod_again: bool) -> str | None:
    """Bring .venv up to date with the files in INPUTS. Returns Horovod's version, None without it.

    Raises SetupError.
    """
    last = stamp()
    python = kept(last) or sys.version
    if python == sys.version and sys.version_info[:2] < OLDEST:
        raise SetupError(
            f"{sys.executable} is Python {sys.version.split()[0]}; "
            f"the pinned wheels need {'.'.join(map(str, OLDEST))} or newer\n"
            "type: export PYTHON=python3.11   (or the path of a newer one), then make again"
        )
    now = key(python)
    if last.get("key") == now and not horovod_again:
        built = last.get("horovod")
        print(f"set-up {now} is current; Horovod {built or 'is not built: make horovod says why'}", flush=True)
        return built
    if last.get("key") != now:
        STAMP.unlink(missing_ok=True)
        if last.get("python") != python or last.get("root") != str(ROOT):
            make_venv()
        run("2/5 pip and setuptools", *PIP, "--upgrade", "pip", "setuptools", "wheel")
        run("3/5 torch, which others are built against", *PIP, "torch", "numpy", "ninja", "packaging")
        run("4/5 all other wheels: engines, Open MPI, models, tools", *PIP, "--no-build-isolation", "-e", ".[all]")
    built = build_horovod()
    whole = STAMP.with_suffix(".part")
    whole.write_text(json.dumps({"key": now, "python": python, "root": str(ROOT), "horovod": built}))
    whole.replace(STAMP)
    return built


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--horovod", action="store_true", help="try Horovod again; fail without it")
    asked = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # a package from elsewhere must not stand in for a pinned one
    began = time.monotonic()
    try:
        with alone():
            built = set_up(horovod_again=asked.horovod)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"\nthe set-up stopped: {error}\nput that right, then make again: it goes on", file=sys.stderr)
        return 1
    if time.monotonic() - began > 5:
        print(f"set-up done in {time.monotonic() - began:.0f} s", flush=True)
    return 1 if asked.horovod and built is None else 0


if __name__ == "__main__":
    sys.exit(main())
