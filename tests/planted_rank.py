"""A rank of a pool with mistakes in it: PLANT says LIBRARY:WHAT, several with commas, and that happens on the last rank.

wrong: one value of the result is another; raise, die: while the collective runs.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.collectives import groups, rank


def planted(make: Any, what: str) -> Any:
    """The library's maker, whose collectives go wrong."""

    def made(world: Any, values: int) -> Any:
        library = make(world, values)
        call = library.call

        def bad(operation: str, whole: Any, part: Any) -> Any:
            run, place = call(operation, whole, part)

            def fails() -> Any:
                if what == "raise":
                    raise RuntimeError("planted")
                if what == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = run()
                (result if place is None else place)[-1] += 1
                return result

            return (fails if world.rank == world.size - 1 else run), place

        library.call = bad
        return library

    return made


if __name__ == "__main__":
    for each in os.environ["PLANT"].split(","):
        name, _, what = each.partition(":")
        groups.MAKERS[name] = planted(groups.MAKERS[name], what)
    sys.exit(rank.main())
