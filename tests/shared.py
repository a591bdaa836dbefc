"""One rank of the tests of shared memory: `shared.py TASK`; says on stdout what came of it, a line each."""

import os
import resource
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from backends.ring.reduction import MEAN
from backends.ring.shared import SharedMemory
from backends.ring.transport import ExchangeError, TorchTransport

LIMIT_S, LENGTH, TIMES = 2.0, 100_000, 1000


def main() -> None:
    """The last rank dies or freezes before an exchange; or all of them exchange many times."""
    task = sys.argv[1]
    dist.init_process_group("gloo")
    links = TorchTransport()
    memory = SharedMemory(links, 4 * LENGTH, LIMIT_S)
    buffer = memory.take(LENGTH, torch.float32)
    buffer.fill_(links.rank)
    memory.allreduce(buffer, MEAN)
    print(buffer.unique().tolist(), flush=True)
    if task == "many":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(TIMES):
            memory.allreduce(buffer, MEAN)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(memory.plans), flush=True)
    elif links.rank == links.size - 1:
        os.kill(os.getpid(), signal.SIGKILL if task == "dies" else signal.SIGSTOP)
    else:
        try:
            memory.allreduce(buffer, MEAN)
        except ExchangeError as error:
            print(error, flush=True)
        os._exit(0)  # the group can't be left in order: a rank of it is gone
    links.close()


if __name__ == "__main__":
    main()
