"""A run that outlives its ranks and hosts: started again from the newest checkpoint, with as many ranks or with those that are left."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import launch, launchers
from bench.config import ConfigError, RunConfig
from bench.failure import PASSING
from bench.hosts.lost import Build, Place
from bench.hosts.start import SILENT_S
from bench.launchers import Command
from bench.report import load
from bench.restarts import Restarts

LOST = ("peer lost", "interrupted")  # a rank is gone, and its place with it as far as anybody here knows
POLL_S = 1.0  # between two looks at hosts


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
    place: Callable[[Restarts], Place] | None = None,
) -> Path:
    """`bench.launch.run`, again and again where that is asked for; the last record. `limit_s`: seconds of all starts together.

    `place` tells after each loss where the next start can be, of hosts of which some may be lost; None: where the first was.
    It is told how many restarts are left: a launcher over hosts may take them itself.
    """
    restarts.check(config, ranks)
    begun, at_most, number = time.monotonic(), 1, 0
    if build is launchers.command and restarts.by_launcher(config, ranks):  # over hosts each has a torchrun of its own
        build = partial(command, restarts=restarts, build=build)
    elif restarts.elastic:
        at_most += restarts.max_restarts
    while True:
        left_s, kept = limit_s - (time.monotonic() - begun), _records(config.output.results)
        path = launch.run(config, ranks, limit_s=left_s, echo=echo, build=build)
        # a launcher that starts ranks again leaves a record of each start
        number += max(1, len(_records(config.output.results) - kept))
        record = load.read(path)
        cause = (record["failure"] or {}).get("cause")
        if cause not in PASSING or number >= at_most or time.monotonic() - begun >= limit_s:
            break
        wait_s = min(restarts.host_wait_s, limit_s - (time.monotonic() - begun))
        left = dataclasses.replace(restarts, max_restarts=at_most - number)
        where = partial(Place, build) if place is None else partial(place, left)
        there, fit = again(record, config, ranks, restarts, where, wait_s)
        said = f"{cause} ({path.name}){'; no answer from ' if there.lost else ''}{', '.join(there.lost)}"
        if fit is None:
            echo(
                f"\n{said}. The other hosts take {there.most} ranks, {ranks} are needed: --min-ranks lets it go on with fewer, "
                "and one more of --hosts stands in for a lost one\n"
            )
            break
        ranks, build = fit, there.build
        config = dataclasses.replace(config, checkpoints=dataclasses.replace(config.checkpoints, resume="auto"))
        echo(f"\n{said}; start {number + 1} of at most {at_most}, on {ranks} ranks\n")
    return path


def again(
    record: dict[str, Any], config: RunConfig, ranks: int, restarts: Restarts, place: Callable[[], Place], wait_s: float
) -> tuple[Place, int | None]:
    """Where the next start is, and on how many ranks: None where too few hosts answer within `wait_s` seconds."""
    begun = time.monotonic()
    # a host that nobody reaches ends its ranks by itself, but not at once; until then they may hold the checkpoints' folder
    ended_s = min(SILENT_S, 2 * config.measure.limit_s)
    while True:
        there = place()
        fit = after(record, config, ranks, restarts, there)
        if not there.lost or time.monotonic() - begun >= (wait_s if fit is None else ended_s):
            return there, fit
        time.sleep(POLL_S)


def after(record: dict[str, Any], config: RunConfig, ranks: int, restarts: Restarts, there: Place) -> int | None:
    """Ranks of the next start: as many as before where there is room for them, else, if fewer may do, the most that can share
    the batch. None where there is no room."""
    most, least = ranks, ranks
    if restarts.min_ranks is not None:
        least = restarts.min_ranks
        if record["failure"]["cause"] in LOST and not there.lost:
            most -= 1
    for fewer in range(most if there.most is None else min(most, there.most), least - 1, -1):
        try:
            config.micro_batch(fewer)
        except ConfigError:
            continue
        return fewer
    return ranks if there.most is None or there.most >= ranks else None


def _records(results: Path) -> set[Path]:
    return set(results.glob("*.json"))
