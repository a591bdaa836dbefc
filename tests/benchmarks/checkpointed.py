"""One rank of the comparison of steps with checkpoints and without: `checkpointed.py BACKEND FOLDER PAIRS`, under its own launcher.

Stretches of EVERY steps on the same live engine, with and without by turns: P C C P P C C P ... The snapshot of a stretch is
taken after its first step, so that its writing ends inside it too.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import backends
from backends.world import World
from bench.config import Checkpoints, Engine, RunConfig
from bench.keeper import Keeper
from bench.loop import train
from bench.measure.clock import Clock
from bench.restart import Start
from tests.parity import cases

EVERY = 5
CASE = cases.Case(optimizer="adamw", lr=1e-4, clip_norm=1.0)


def main() -> None:
    """Rank 0 writes the seconds of the slowest rank of each stretch."""
    torch.set_num_threads(1)
    name, folder, pairs = sys.argv[1].partition("-")[0], Path(sys.argv[2]), int(sys.argv[3])
    world = World.from_env()
    backend = backends.load(name)(world, cases.engine_config(world, CASE, cases.ACCUMULATION))
    cases.setup(backend, CASE)
    made = cases.batches(world, cases.ACCUMULATION)
    ready = {(step, micro): made(step, micro) for step in range(4) for micro in range(cases.ACCUMULATION)}
    config = RunConfig(engine=Engine(backend=backend.name))  # type: ignore[arg-type]
    config = replace(config, checkpoints=Checkpoints(checkpoint_every=EVERY, checkpoint_folder=folder / "kept"))
    keeper = Keeper(backend, config, cases.Quiet(), Start(), "benchmark")
    keeper.go_on(10**9)

    def take(steps: int, kept: bool) -> float:
        backend.gather(None)
        begin = time.perf_counter()
        hooks: dict[str, Any] = {"before_update": keeper.before_update, "after_update": keeper.after_update}
        train(
            backend,
            lambda step, micro: ready[step % 4, micro],
            steps=steps,
            accumulation=cases.ACCUMULATION,
            clock=Clock(backend.device),
            watch=cases.Quiet(),
            **(hooks if kept else {}),
        )
        return time.perf_counter() - begin

    take(EVERY - 1, False)  # warm, and one step before a checkpoint is due
    take(EVERY, True)
    times: dict[str, list[float]] = {"plain": [], "kept": [], "blocked": []}
    for pair in range(pairs):
        for side in ("plain", "kept") if pair % 2 else ("kept", "plain"):
            blocked = sum(keeper.snapshot_s) + sum(keeper.writer.waited_s)
            times[side].append(take(EVERY, side == "kept"))
            if side == "kept":
                times["blocked"].append(sum(keeper.snapshot_s) + sum(keeper.writer.waited_s) - blocked)
    keeper.close()
    everyone = backend.gather(times)
    if world.rank == 0:
        slowest = {side: [max(rank[side][i] for rank in everyone) for i in range(pairs)] for side in times}
        (folder / "times.json").write_text(json.dumps(slowest))
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()
