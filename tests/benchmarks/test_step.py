"""A training step of each engine: RingZero's loop against a bare loop on the same live engine, in pairs, as a ratio."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.parity.conftest import BIN, LAUNCHERS

WORKER = Path(__file__).with_name("overhead.py")
ALLOWED = 1.01


def interval(ratios: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """95% bootstrap interval of the median of paired ratios."""
    drawn = np.random.default_rng(0).choice(ratios, (resamples, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


@pytest.mark.parametrize("backend", LAUNCHERS)
def test_step_costs_no_more_than_a_bare_loop(benchmark: BenchmarkFixture, backend: str, tmp_path: Path) -> None:
    """The median of the ratios, ours / bare, is at most 1.01: an interval that lies wholly above it fails."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [str(word) for word in [*LAUNCHERS[backend], WORKER, backend, tmp_path]]

    def launch() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=250, cwd=WORKER.parents[2])

    ended = benchmark.pedantic(launch, rounds=1, iterations=1)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    times = json.loads((tmp_path / "times.json").read_text())
    ratios = np.array(times["ours"]) / np.array(times["bare"])
    low, high = interval(ratios)
    benchmark.extra_info |= {
        "ratio_median": float(np.median(ratios)),
        "ratio_low": low,
        "ratio_high": high,
        "step_s_ours": float(np.median(times["ours"])),
        "step_s_bare": float(np.median(times["bare"])),
        "pairs": len(ratios),
    }
    print(
        f"\n{backend}: ours / bare = {np.median(ratios):.4f}  [{low:.4f}, {high:.4f}]  of {np.median(times['bare']) * 1e3:.1f} ms"
    )
    assert low <= ALLOWED
