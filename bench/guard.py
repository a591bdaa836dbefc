"""Waits beside a run; ends its processes once the process that started it is gone. Run as a file: `guard.py MARK VARIABLE`."""

import sys
import time
from pathlib import Path

if not __package__:  # started as a file: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.processes import DONE, end

AGAIN_S = 0.5  # the parent may have died while it started the launcher: what carries the mark is then a moment late


def main(mark: str, name: str) -> None:
    """The pipe's other end is held by the parent alone, so it closes when that is killed."""
    if sys.stdin.buffer.read() == DONE:
        return
    for _ in range(2):
        end(mark, name=name)
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
