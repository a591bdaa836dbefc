"""Memory that malloc keeps is not faulted in again."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from bench.heap import keep_freed
if sys.argv[1] == "keep":
    print(keep_freed())
def step():
    made = [np.ones(2**17) for _ in range(8)]  # of 1 MiB each
def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
before = count()
for _ in range(10):
    step()
print(count() - before)
"""


def faults(*, keep: bool) -> tuple[int, list[str]]:
    """Page faults of ten equal steps of a process, after three to warm up, and what else it said."""
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}  # where glibc's own moving one happens to stand low
    command = [sys.executable, "-c", FAULTS, "keep" if keep else "leave"]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    return int(said[-1]), said[:-1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_a_step_faults_in_nothing_that_the_step_before_had():
    page = os.sysconf("SC_PAGE_SIZE")
    without, _ = faults(keep=False)
    assert without > 10 * 2**20 / page  # the trap is real: most of it comes and goes
    with_it, said = faults(keep=True)
    assert said == ["True"]
    assert with_it < 20
