"""A training step of the ring beside Horovod's and DDP's: every engine alive, a step of each by turns, ratios of the same rounds."""

import itertools
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import launchers, stats
from bench.collectives.pool import Pool
from bench.config import Engine, RunConfig
from bench.launchers import Command

STEPPER = Path(__file__).with_name("stepper.py")
RANKS = 2
HELD_BYTES = 2**31
ENGINES = ("ring", "horovod", "ddp")
# global batch, accumulation, rounds: each of the six orders of the engines equally often
PRESETS = {"tiny": (8, 2, 12), "small": (2, 1, 6)}
MOST = {"horovod": 1.0, "ddp": 1.05}  # the ring's step over the other's


def command(engine: str) -> Command:
    """What starts the steppers of an engine: its launcher with this script in the place of the run."""
    name = launchers.launcher(RunConfig(engine=Engine(backend=engine)))
    what = launchers.under(name, RANKS, "tests.benchmarks.stepper")
    return Command(what.argv, what.env | {"OMP_NUM_THREADS": "1"})


def scattered_bytes() -> int:
    """Free memory in blocks of less than 2 MiB, by /proc/buddyinfo: its columns count blocks of 1, 2, 4, ... pages."""
    counts = [[int(word) for word in line.split()[4:]] for line in Path("/proc/buddyinfo").read_text().splitlines()]
    return mmap.PAGESIZE * sum(count << order for zone in counts for order, count in enumerate(zone[:9]))


def scattered_pages() -> mmap.mmap:
    """Memory that takes the pages that lie scattered: the kernel gives those first, and whoever gets them is slower for ever.

    Without it the engine that is started first loses up to 10 % to its equal started fourth (four pools of one engine). Root
    asks the kernel to put them together before: after hours of work gigabytes lie scattered.
    """
    with suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")
    held = mmap.mmap(-1, min(max(HELD_BYTES, scattered_bytes()), psutil.virtual_memory().available // 4))
    held[:: mmap.PAGESIZE] = bytes([1]) * len(range(0, len(held), mmap.PAGESIZE))
    return held


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[str, Pool]]:
    """A pool of ranks of each engine, joined: each takes both presets, for a start costs more than a preset."""
    with ExitStack() as stack:
        stack.enter_context(closing(scattered_pages()))
        yield {
            engine: stack.enter_context(
                closing(
                    Pool(engine, command(engine), RANKS, values=0, libraries=["--backend", engine], limit_s=120),
                )
            )
            for engine in ENGINES
        }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_of_the_ring_is_no_slower(benchmark: BenchmarkFixture, pools: dict[str, Pool], preset: str) -> None:
    batch, count, rounds = PRESETS[preset]
    flags = f"--preset {preset} --global-batch {batch} --accumulation {count} --optimizer sgd"
    for engine, pool in pools.items():
        pool.ask("prepare", words=f"--backend {engine} {flags}".split())
    rounds = int(os.environ.get("RINGZERO_ROUNDS", rounds))
    orders = itertools.cycle(itertools.permutations(ENGINES))
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    losses: dict[str, list[float]] = {engine: [] for engine in ENGINES}

    def turn() -> None:
        for engine in next(orders):
            answers = pools[engine].ask("steps", count=1)
            seconds[engine].append(max(answer["ns"][0] for answer in answers) / 1e9)  # of the slowest rank
            losses[engine].append(float(np.mean([answer["loss"] for answer in answers])))

    benchmark.pedantic(turn, rounds=rounds)
    for engine in MOST:
        np.testing.assert_allclose(losses["ring"], losses[engine], rtol=1e-4)  # they trained the same model
    took = {engine: np.array(values) for engine, values in seconds.items()}
    benchmark.extra_info |= {"preset": preset, "ranks": RANKS, "cores": len(os.sched_getaffinity(0))}
    benchmark.extra_info |= {f"{engine}_median_s": float(np.median(values)) for engine, values in took.items()}
    found = {other: stats.median_interval([took["ring"] / took[other]]) for other in MOST}
    for other, ratio in found.items():
        benchmark.extra_info[f"ring over {other}: median, low, high"] = [ratio.median, ratio.low, ratio.high]
        print(
            f"\n{preset}: ring {np.median(took['ring']) * 1e3:.1f} ms over {other}'s {np.median(took[other]) * 1e3:.1f} ms: "
            f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        )
    for other, most in MOST.items():
        assert found[other].high <= most
