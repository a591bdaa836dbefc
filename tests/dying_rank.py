"""bench.run whose last rank is killed once: DIE says STEP:SECONDS, so long after the step begins; DIED is a file that it leaves."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.run
from backends.world import World


def main() -> int:
    """Plant the death, then run."""
    from bench import workload

    made = workload.Workload.batches
    step, _, seconds = os.environ["DIE"].partition(":")
    mark, world = Path(os.environ["DIED"]), World.from_env()

    def batches(self: Any, number: int, micro: int) -> dict[str, Any]:
        if number == int(step) and world.rank == world.size - 1 and not mark.exists():
            mark.write_text(str(number))
            threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return made(self, number, micro)

    workload.Workload.batches = batches  # type: ignore[method-assign]
    return bench.run.main()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
