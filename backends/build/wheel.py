"""From a plan to an installed Horovod: compile once, keep the wheel outside the repository, install it."""

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from backends.build import BuildError, source
from backends.build.plan import Plan, jobs

Step = Callable[[str], None]  # told the name of each step as it begins


def cache_root() -> Path:
    """Where wheels and archives are kept: $RINGZERO_CACHE, else ~/.cache/ringzero."""
    return Path(os.environ.get("RINGZERO_CACHE") or "~/.cache/ringzero").expanduser()


def cached(plan: Plan, cache: Path) -> Path | None:
    """The wheel of this plan in `cache`; None where there is none or it is not what was written there."""
    told = cache / "wheels" / plan.key / "build.json"
    try:
        facts = json.loads(told.read_text())
        wheel = told.parent / str(facts["wheel"])
        return wheel if source.sha256(wheel) == facts["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short: it is built again
        return None


def build(plan: Plan, cache: Path, step: Step) -> Path:
    """Compile Horovod and keep the wheel in `cache`; beside it what it depends on (build.json) and the compiler's log.

    Raises BuildError with the first errors and the log's path, or with why `cache` can't be written to.
    """
    try:
        return _built(plan, cache, step)
    except OSError as error:
        raise BuildError(
            f"Horovod can't be built: {error}\n  its source, log and wheel are kept under {cache}; for another folder\n"
            "  type: export RINGZERO_CACHE=/path/to/a/folder with room, that you may write to; then: make horovod"
        ) from error


def _built(plan: Plan, cache: Path, step: Step) -> Path:
    step(f"source: Horovod {source.VERSION}, SHA-256 {source.SHA256[:12]}...")
    archive = source.archive(cache)
    folder = cache / "wheels" / plan.key
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(prefix="ringzero-horovod-") as scratch:
        tree = source.unpack(archive, Path(scratch))
        step(f"compile: {jobs()} at once, log in {log} (3 minutes on 2 cores)")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--verbose",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-build-isolation",
            "--no-deps",
            "--wheel-dir",
            scratch,
            str(tree),
        ]
        with log.open("w") as out:
            run = subprocess.run(
                pip,
                env=plan.environment(Path(scratch)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                check=False,
            )
        if run.returncode:
            raise BuildError(f"the compiler stopped; the whole log: {log}\n{_errors(log)}")
        made = next(Path(scratch).glob("horovod-*.whl"))
        wheel = folder / made.name
        _put(wheel, made.read_bytes())
    facts = {"wheel": wheel.name, "sha256": source.sha256(wheel), **plan.facts}
    _put(folder / "build.json", f"{json.dumps(facts, indent=1)}\n".encode())
    return wheel


def install(wheel: Path) -> None:
    """Put the wheel into this environment, in place of any other Horovod. Raises BuildError with pip's last words."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--force-reinstall",
        "--no-index",
        str(wheel),
    ]
    run = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BuildError(f"pip could not install {wheel}:\n{source.pip_says(run.stderr)}")


def _put(file: Path, content: bytes) -> None:
    """Whole or not at all, whoever writes the same file: checkouts share the folder, and homes are shared by hosts."""
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _errors(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    wrong = [line.strip() for line in lines if " error: " in line or "CMake Error" in line]
    return "\n".join(f"  {line[:300]}" for line in (wrong[:6] or lines[-12:]))
