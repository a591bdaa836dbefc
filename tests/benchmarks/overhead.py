"""One rank of the comparison of RingZero's loop with a bare one: `overhead.py BACKEND FOLDER`, under the engine's own launcher.

Both take the same steps on the same live engine, turn by turn, so that they meet the same machine: B R R B B R R B ...
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

import backends
from backends.base import Backend
from backends.world import World
from bench.loop import train
from bench.measure.clock import Clock
from bench.progress import Progress
from bench.watch import Watch
from tests.parity import cases

PAIRS, WARMUP = 40, 4
CASE = cases.Case(optimizer="adamw", lr=1e-4, clip_norm=1.0)


def bare(backend: Any, make: Callable[[int, int], Any]) -> None:
    """One optimizer step as a user of the engine alone would write it."""
    last = cases.ACCUMULATION - 1
    step = backend.steps
    for micro in range(cases.ACCUMULATION):
        batch = make(step, micro)
        if backend.name == "deepspeed":
            loss = backend.engine(batch).total / cases.ACCUMULATION
            backend.engine.backward(loss, scale_wrt_gas=False)
            backend.engine.step()
            continue
        model = backend.model
        if backend.name == "ddp":
            model = backend.wrapped
            model.require_backward_grad_sync = micro == last
        elif backend.name == "fsdp":
            model.set_requires_gradient_sync(micro == last)
        elif backend.name == "ring":
            backend.sync = micro == last
        (model(batch).total / cases.ACCUMULATION).backward()
    if backend.name == "horovod":
        backend.optimizer.synchronize()
    elif backend.name == "ring":
        backend._finish_exchange()
    if backend.name != "deepspeed":
        float(nn.utils.clip_grad_norm_(backend.parameters, CASE.clip_norm, foreach=True))
        if backend.name == "horovod":
            with backend.optimizer.skip_synchronize():
                backend.optimizer.step()
        else:
            backend.optimizer.step()
        if backend.name == "ring":
            backend._clear_gradients()
        else:
            backend.optimizer.zero_grad()
    backend.steps += 1


def seconds(work: Callable[[], Any], backend: Backend) -> float:
    """Of one step, all ranks starting together."""
    backend.gather(None)
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Rank 0 writes the seconds of the slowest rank of each step."""
    torch.set_num_threads(1)
    name, folder = sys.argv[1], Path(sys.argv[2])
    world = World.from_env()
    watch = Watch(world.rank, world.size, 120, launched=world.launcher != "python")
    watch.start()
    backend = backends.load(name)(world, cases.engine_config(world, CASE, cases.ACCUMULATION))
    watch.join(folder, lambda failure, measured: print(failure))
    cases.setup(backend, CASE)
    made = cases.batches(world, cases.ACCUMULATION)
    ready = {(step, micro): made(step, micro) for step in range(4) for micro in range(cases.ACCUMULATION)}
    progress = Progress(name, 10**6, cases.GLOBAL_BATCH, show=world.rank == 0)

    def make(step: int, micro: int) -> Any:
        return ready[step % 4, micro]

    def ours() -> None:
        train(
            backend,
            make,
            steps=1,
            accumulation=cases.ACCUMULATION,
            clock=Clock(backend.device),
            watch=watch,
            after_step=lambda step: progress.step(step.losses["total"].item()),
        )

    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for pair in range(WARMUP + PAIRS):
        order = [("bare", lambda: bare(backend, make)), ("ours", ours)]
        for side, work in order if pair % 2 else reversed(order):
            own = seconds(work, backend)
            if pair >= WARMUP:
                times[side].append(own)
    everyone = backend.gather(times)
    if world.rank == 0:
        slowest = {side: [max(rank[side][i] for rank in everyone) for i in range(PAIRS)] for side in times}
        (folder / "times.json").write_text(json.dumps(slowest))
    backend.gather(None)
    watch.finish()
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()
