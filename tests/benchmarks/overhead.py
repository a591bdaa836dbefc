"""One rank of the comparison of RingZero's loop with a bare one: `overhead.py BACKEND FOLDER PAIRS`, under its own launcher.

Both take the same steps on the same live engine, turn by turn, so that they meet the same machine: B R R B B R R B ..., each
letter a turn of a few steps, as a run takes many in one call of the loop. Beside the ratio, whose noise is the machine's, the
loop's own part is measured inside its steps: what does not pass in a call of the engine, and the processor time of the
watching thread, spread evenly over the steps of the turn.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

gc.disable()  # what is imported stays: looking through it again and again would be a fifth of the time it takes
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

import backends
from backends.base import Backend
from backends.world import World
from bench.heap import keep_freed
from bench.loop import Step, train
from bench.measure.clock import Clock
from bench.progress import Progress
from bench.watch import Watch
from tests.parity import cases

TURN = 4  # steps
CASE = cases.Case(optimizer="adamw", lr=1e-4, clip_norm=1.0)


def bare(backend: Any, make: Callable[[int, int], Any]) -> float:
    """One optimizer step as a user of the engine alone would write it; seconds of it outside the engine's calls."""
    last = cases.ACCUMULATION - 1
    step = backend.steps
    outside = 0.0
    for micro in range(cases.ACCUMULATION):
        batch = make(step, micro)
        model = backend.model
        if backend.name == "deepspeed":
            model = backend.engine
        elif backend.name == "ddp":
            model = backend.wrapped
            model.require_backward_grad_sync = micro == last
        elif backend.name == "fsdp":
            model.set_requires_gradient_sync(micro == last)
        elif backend.name == "ring":
            backend.sync = micro == last
        losses = model(batch)
        begin = time.perf_counter()
        loss = losses.total / cases.ACCUMULATION
        outside += time.perf_counter() - begin
        if backend.name == "deepspeed":
            backend.engine.backward(loss, scale_wrt_gas=False)
            backend.engine.step()
        else:
            loss.backward()
        begin = time.perf_counter()
        del losses, loss  # the graph's nodes go here
        outside += time.perf_counter() - begin
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
    return outside


class Inside:
    """Seconds that pass inside the engine's own calls: the rest of a step is RingZero's."""

    def __init__(self, backend: Backend) -> None:
        self.total = 0.0
        for name in ("forward", "backward", "step"):
            setattr(backend, name, self._timed(getattr(backend, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args, **keywords)
            finally:
                self.total += time.perf_counter() - begin

        return timed


Seconds = list[tuple[float, float]]  # of each step of a turn: in all, and outside the engine's calls


def main() -> None:
    """Rank 0 writes the seconds of the slowest rank of each step."""
    gc.enable()
    torch.set_num_threads(1)
    keep_freed()
    name, folder, pairs = sys.argv[1].partition("-")[0], Path(sys.argv[2]), int(sys.argv[3])
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

    def bare_turn() -> Seconds:
        turn = []
        for _ in range(TURN):
            begin = time.perf_counter()
            outside = bare(backend, make)
            turn.append((time.perf_counter() - begin, outside))
        return turn

    def our_turn() -> Seconds:
        watched = time.clock_gettime(thread)
        marks = [(time.perf_counter(), inside.total)]

        def told(step: Step) -> None:
            progress.step(lambda: step.losses["total"])
            marks.append((time.perf_counter(), inside.total))

        train(
            backend,
            make,
            steps=TURN,
            accumulation=cases.ACCUMULATION,
            clock=Clock(backend.device),
            watch=watch,
            after_step=told,
        )
        marks[-1] = time.perf_counter(), inside.total  # what the call itself costs belongs to its steps
        watching = (time.clock_gettime(thread) - watched) / TURN
        spent = [(end - begin, after - before) for (begin, before), (end, after) in itertools.pairwise(marks)]
        return [(took, took - engine + watching) for took, engine in spent]

    sides = {"bare": bare_turn, "ours": our_turn}
    times: dict[str, list[float]] = {name: [] for side in sides for name in (side, f"{side}_outside")}
    inside = Inside(backend)
    thread = time.pthread_getcpuclockid(watch.thread_id)
    for pair in range(1 + -(-pairs // TURN)):
        for side in sides if pair % 2 else reversed(sides):
            backend.gather(None)  # all ranks start together
            turn = sides[side]()
            if pair:  # the first is the warm-up
                times[side] += [took for took, _ in turn]
                times[f"{side}_outside"] += [outside for _, outside in turn]
    everyone = backend.gather(times)
    if world.rank == 0:
        slowest = {side: [max(each) for each in zip(*(rank[side] for rank in everyone), strict=True)] for side in times}
        (folder / "times.json").write_text(json.dumps(slowest))
    backend.gather(None)
    watch.finish()
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()
