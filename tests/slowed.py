"""bench.run with each step made longer by a planted share: SLOWDOWN in the environment, 0.05 for 5 %."""

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.run

SHARE = float(os.environ["SLOWDOWN"])


def main() -> int:
    """Sleep, in a step's first micro-batch, a share of what the step before took without its own sleep."""
    from bench import workload

    os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))}
    )  # one thread: two would wait for each other on a busy machine
    made = workload.Workload.batches
    begun = asleep = 0.0

    def batches(self: Any, step: int, micro: int) -> Any:
        nonlocal begun, asleep
        if micro == 0:
            now = time.perf_counter()
            took, begun = now - begun - asleep, now
            asleep = SHARE * took if took < 10 else 0.0  # not after setup or proof
            time.sleep(asleep)
        return made(self, step, micro)

    workload.Workload.batches = batches  # type: ignore[method-assign]
    return bench.run.main()


if __name__ == "__main__":
    sys.exit(main())
