"""A run that outlives its ranks: started again from the newest checkpoint, with as many ranks or with those that are left."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import launch, launchers
from bench.config import ConfigError, RunConfig
from bench.launchers import Command
from bench.report import load
from bench.restarts import Restarts

# What another start may not meet again. Not what would come back: a wrong flag, no memory, a full disk, a loss that is no number.
PASSING = ("peer lost", "interrupted", "time limit", "launcher", "error")
LOST = ("peer lost", "interrupted")  # a rank is gone, and its place with it as far as anybody here knows


Build = Callable[[RunConfig, int], Command]


def command(config: RunConfig, ranks: int, restarts: Restarts, build: Build = launchers.command) -> Command:
    """What is started. Raises as `build`, and ConfigError."""
    restarts.check(config, ranks)
    made = build(config, ranks)
    if not restarts.by_launcher(config, ranks):
        return made
    program, *rest = made.argv
    return dataclasses.replace(made, argv=[program, "--max-restarts", str(restarts.max_restarts), *rest])


def run(
    config: RunConfig,
    ranks: int,
    restarts: Restarts,
    *,
    limit_s: float,
    echo: Callable[[str], None],
    build: Build = launchers.command,
) -> Path:
    """`bench.launch.run`, again and again where that is asked for; the last record. `limit_s`: seconds of all starts together."""
    restarts.check(config, ranks)
    begun, at_most = time.monotonic(), 1
    if build is launchers.command and restarts.by_launcher(config, ranks):  # over hosts each has a torchrun of its own
        build = partial(command, restarts=restarts, build=build)
    elif restarts.elastic:
        at_most += restarts.max_restarts
    for number in range(1, at_most + 1):
        left_s = limit_s - (time.monotonic() - begun)
        path = launch.run(config, ranks, limit_s=left_s, echo=echo, build=build)
        record = load.read(path)
        cause = (record["failure"] or {}).get("cause")
        if cause not in PASSING or number == at_most or time.monotonic() - begun >= limit_s:
            break
        ranks = after(record, config, ranks, restarts)
        config = dataclasses.replace(config, checkpoints=dataclasses.replace(config.checkpoints, resume="auto"))
        echo(f"\n{cause} ({path.name}); start {number + 1} of at most {at_most}, on {ranks} ranks\n")
    return path


def after(record: dict[str, Any], config: RunConfig, ranks: int, restarts: Restarts) -> int:
    """Ranks of the next start: those that are left, if fewer may do and can share the batch; else as many as before."""
    if restarts.min_ranks is None or record["failure"]["cause"] not in LOST:
        return ranks
    for fewer in range(ranks - 1, restarts.min_ranks - 1, -1):
        try:
            config.micro_batch(fewer)
        except ConfigError:
            continue
        return fewer
    return ranks
