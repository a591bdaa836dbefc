"""One rank of an engine that takes training steps when told: `stepper.py DOOR BARRIER ENGINE STEPS FLAGS`, under its launcher.

Answers as `bench.collectives.rank` does, so the same pool drives it: all engines stay alive, one at a time is awake.
"""

import gc
import os
import socket
import sys
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backends.world import World
from bench.collectives.rank import Barrier
from bench.cores import apply_threads, settle
from bench.flags import parse
from bench.heap import keep_freed

BATCHES = 4  # steps whose samples are made beforehand, and then taken again


class Quiet:
    """Nobody watches: a pool has its own limit."""

    def at(self, step: int, phase: str) -> None:
        del step, phase


class Stepper:
    """An engine that has joined its ranks; `prepare` brings it to where steps can be taken, again for each preset."""

    def __init__(self, world: World, barrier: Barrier, words: list[str]) -> None:
        self.world, self.barrier = world, barrier
        gc.disable()  # what is imported stays: looking through it again and again would be a fifth of the time it takes
        from bench.measure.clock import Clock
        from bench.run import join

        self.backend = join(parse(words), world)
        gc.enable()
        self.clock = Clock(self.backend.device)

    def prepare(self, words: list[str]) -> dict[str, Any]:
        """Set the engine up, from nothing, as the flags say, and take two steps of warm-up."""
        from bench.workload import Workload, optimizer_factory

        gc.unfreeze()
        self.backend.release()
        config = parse(words)
        training = config.training
        self.accumulation = training.accumulation
        workload = Workload(config, self.world.rank, self.world.size)
        workload.make_ahead(range(BATCHES))
        self.ready = {
            (step, micro): workload.batches(step, micro)
            for step in range(BATCHES)
            for micro in range(self.accumulation)
        }
        self.backend.config = replace(
            self.backend.config, accumulation=self.accumulation, micro_batch=config.micro_batch(self.world.size)
        )
        factory = optimizer_factory(
            training.optimizer, lr=training.lr, weight_decay=training.weight_decay, device=self.backend.device
        )
        self.backend.setup(workload.build(), factory)
        self.steps(count=2)
        gc.freeze()  # what is there stays: each later collection would go through all of it
        return {}

    def steps(self, count: int) -> dict[str, Any]:
        """Nanoseconds of each step on this rank, all ranks starting together, and the total loss of the last."""
        from bench.loop import train

        took: list[int] = []
        loss = float("nan")
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                self.barrier.wait()
                begin = time.perf_counter_ns()
                (step,) = train(
                    self.backend,
                    lambda step, micro: self.ready[step % BATCHES, micro],
                    steps=1,
                    accumulation=self.accumulation,
                    clock=self.clock,
                    watch=Quiet(),
                )
                took.append(time.perf_counter_ns() - begin)
                loss = step.losses["total"]
        finally:
            gc.enable()
        return {"ns": took, "loss": loss}


def main() -> int:
    """Returns 0 when told to leave or where the parent is gone; 1 after an error, which the parent was told."""
    address, barrier, _, _, words = sys.argv[1:]
    world = World.from_env()
    cores = settle(world, bind=True)
    threads = apply_threads(cores)
    keep_freed()
    door = socket.socket(socket.AF_UNIX)
    door.connect(address)
    with Connection(door.detach()) as link:
        link.send({"rank": world.rank, "pid": os.getpid()})
        try:
            rank = Stepper(world, Barrier(Path(barrier), world.rank, world.size), words.split(","))
            link.send({"threads": threads})
            while (message := link.recv()) is not None:
                link.send(getattr(rank, message.pop("do"))(**message))
        except EOFError:
            return 0
        except Exception as error:  # noqa: BLE001 - the parent decides what it means
            traceback.print_exc()
            link.send({"error": f"{type(error).__name__}: {error}"})
            return 1
        rank.backend.close()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
