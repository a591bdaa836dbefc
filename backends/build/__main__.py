"""`python -m backends.build`: compile, keep and install Horovod; `--check` only tells what is there."""

import argparse
import sys
import time
from collections.abc import Sequence

from backends.build import BuildError, tools


class Steps:
    """One line a step: its name when it begins, its seconds when the next one does."""

    def __init__(self) -> None:
        self.began: float | None = None

    def __call__(self, name: str) -> None:
        self.done()
        self.began = time.monotonic()
        print(f"  {name} ...", end=" ", flush=True)

    def done(self) -> None:
        if self.began is not None:
            print(f"{time.monotonic() - self.began:.1f} s", flush=True)
        self.began = None


def make(*, force: bool) -> None:
    """Horovod as planned for this machine, installed and loaded.

    Raises BuildError with what is missing and what to type.
    """
    step = Steps()
    try:
        step("tools")
        tools.require(tools.tools())
        from backends.build import installed, wheel  # these import torch, which is one of the tools
        from backends.build.plan import plan

        wanted = plan()
        if wanted.cuda.why_not:
            step(f"plan {wanted.key}: gloo and MPI, without NCCL ({wanted.cuda.why_not})")
        else:
            step(f"plan {wanted.key}: gloo, MPI and NCCL")
        if force or installed.installed_version() != wanted.version:
            cache = wheel.cache_root()
            file = None if force else wheel.cached(wanted, cache)
            if file is None:
                file = wheel.build(wanted, cache, step)
            step(f"install: {file}")
            wheel.install(file)
        step("load")
        found, why = installed.probe()
    finally:
        step.done()
    if found is None:
        raise BuildError(why)
    print(f"  {found}")


def check() -> int:
    """Print what is installed and what is missing; 0 where Horovod can be used."""
    from backends.build import installed

    found, why = installed.probe()
    print(found or why)
    for tool in tools.tools():
        print(f"  {tool.name:14} {tool.found or f'missing ({tool.use}); type: {tool.remedy}'}")
    if note := installed.root_note():
        print(f"  {note}")
    return 0 if found else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backends.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell what is installed and which tools are found")
    parser.add_argument("--force", action="store_true", help="compile again, even where a fitting wheel is kept")
    asked = parser.parse_args(arguments)
    if asked.check:
        return check()
    try:
        make(force=asked.force)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
