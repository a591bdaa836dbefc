"""From a plan to an installed Horovod: compile once, keep the wheel outside the repository, install it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from backends.build import BuildError, source
from backends.build.plan import Plan, jobs

Step = Callable[[str], None]  # told the name of each step as it begins


def cache_root() -> Path:
    """Where wheels and archives are kept: $RINGZERO_CACHE, else ~/.cache/ringzero."""
    return Path(os.environ.get("RINGZERO_CACHE") or Path.home() / ".cache" / "ringzero")


def cached(plan: Plan, cache: Path) -> Path | None:
    """The wheel of this plan in `cache`; None where there is none or it is not what was written there."""
    told = cache / "wheels" / plan.key / "build.json"
    if not told.exists():
        return None
    facts = json.loads(told.read_text())
    wheel = told.parent / facts["wheel"]
    return wheel if wheel.exists() and source.sha256(wheel) == facts["sha256"] else None


def build(plan: Plan, cache: Path, step: Step) -> Path:
    """Compile Horovod and keep the wheel in `cache`; beside it what it depends on (build.json) and the compiler's log.

    Raises BuildError with the first errors and the log's path.
    """
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
        _move(made, wheel)
    facts = {"wheel": wheel.name, "sha256": source.sha256(wheel), **plan.facts}
    (folder / "build.json").write_text(json.dumps(facts, indent=1) + "\n")
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


def _move(made: Path, wheel: Path) -> None:
    """Across file systems, whole or not at all."""
    part = wheel.with_suffix(".part")
    part.write_bytes(made.read_bytes())
    part.replace(wheel)


def _errors(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    wrong = [line.strip() for line in lines if " error: " in line or "CMake Error" in line]
    return "\n".join(f"  {line[:300]}" for line in (wrong[:6] or lines[-12:]))
