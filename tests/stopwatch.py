"""bench.run that tells somebody outside when its window opens, when each step ends, and nothing of any clock.

What it tells it tells by a datagram to the socket that MARKS names. Each step's samples come late on one rank, in turn, so that
a time without its data loading would be seen to be short.
"""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.run
from backends.world import World

LATE_S = 0.1  # each micro-batch on the rank whose turn it is


def main() -> int:
    """Put the marks around the loop, then run."""
    from bench import experiment, workload

    if World.from_env().size == 1:  # one thread, as each of two ranks has on two cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    world, channel = World.from_env(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.connect(os.environ["MARKS"])
    batches, train = workload.Workload.batches, experiment.train

    def late(self: Any, step: int, micro: int) -> Any:
        if step % world.size == world.rank:
            time.sleep(LATE_S)
        return batches(self, step, micro)

    def marked(*given: Any, **named: Any) -> Any:
        if named.get("lr") is None:  # warm-up and proof are no window
            return train(*given, **named)
        after = named.pop("after_step")

        def ended(step: Any) -> None:
            channel.send(f"{world.rank} {step.number + 1}".encode())
            after(step)

        channel.send(f"{world.rank} 0".encode())
        return train(*given, after_step=ended, **named)

    workload.Workload.batches = late  # type: ignore[method-assign]
    experiment.train = marked  # type: ignore[attr-defined, assignment]
    return bench.run.main()


if __name__ == "__main__":
    sys.exit(main())
