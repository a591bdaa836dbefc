"""A comparison killed at random moments ends nothing half: no hang, no orphan, no record lost, and `--resume` completes it.

A handful of moments; RINGZERO_KILLS=50 takes so many, over every launcher.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.kills import Harness, check

KILLS = int(os.environ.get("RINGZERO_KILLS", "3"))
ENGINES = ("ddp", "horovod", "ring", "zero-1")
MATRIX = """engines = ["single", "{engine}"]
ranks = [2]
[config.training]
steps = 2
[config.measure]
warmup = 0
proof_steps = 0
"""


@pytest.mark.timeout(60 * max(5, KILLS))
def test_killed_at_random_moments(tmp_path: Path) -> None:
    seed = int(os.environ.get("RINGZERO_SEED", "0")) or time.time_ns() % 10**6
    print(f"RINGZERO_SEED={seed}")
    draw = random.Random(seed)
    killed: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    number = 0
    while killed.total() < KILLS:
        engine = ENGINES[number % len(ENGINES)] if KILLS > 10 else "ddp"
        matrix = tmp_path / f"{number}.toml"
        matrix.write_text(MATRIX.format(engine=engine))
        harness = Harness(tmp_path / f"results{number}", matrix, draw, longest_s=8.0)
        harness.complete(min(6, KILLS - killed.total()))
        found = check(harness)
        print(engine, dict(harness.killed), dict(found), flush=True)
        killed += harness.killed
        causes += found
        number += 1
    print(f"{number} comparisons, killed {dict(killed)}, causes {dict(causes)}")
