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
ALLOWED = 0.01
# 400 on a quiet machine show the ratio itself to within half a percent
PAIRS = int(os.environ.get("RINGZERO_PAIRS", 16))
SHARED = {"horovod": 2, "ring-torch": 2}  # its thread shares the core with what is measured: so many times the pairs


def interval(ratios: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """95% bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(ratios, (resamples, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


ONCE_MORE = "ring-torch"  # the ring over another transport
CASES = [pytest.param(each, marks=pytest.mark.long) if each == ONCE_MORE else each for each in LAUNCHERS]


@pytest.mark.parametrize("backend", CASES)
def test_step_costs_no_more_than_a_bare_loop(benchmark: BenchmarkFixture, backend: str, tmp_path: Path) -> None:
    """Of the median step, what RingZero adds outside the engine is at most 1% (upper end of the interval); the ratio agrees."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    pairs = PAIRS * SHARED.get(backend, 1)
    command = [str(word) for word in [*LAUNCHERS[backend], WORKER, backend, tmp_path, pairs]]

    def launch() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, cwd=WORKER.parents[2])

    ended = benchmark.pedantic(launch, rounds=1, iterations=1)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    times = {side: np.array(values) for side, values in json.loads((tmp_path / "times.json").read_text()).items()}
    bare = float(np.median(times["bare"]))
    found = {
        "ratio": times["ours"] / times["bare"],
        "own_share": (times["ours_outside"] - times["bare_outside"]) / bare,
    }
    benchmark.extra_info |= {"pairs": pairs, "step_s_bare": bare, "step_s_ours": float(np.median(times["ours"]))}
    for name, values in found.items():
        low, high = interval(values)
        benchmark.extra_info |= {f"{name}_median": float(np.median(values)), f"{name}_low": low, f"{name}_high": high}
    info = benchmark.extra_info
    print(
        f"\n{backend}: ours / bare = {info['ratio_median']:.4f}  [{info['ratio_low']:.4f}, {info['ratio_high']:.4f}]  of "
        f"{bare * 1e3:.1f} ms; own {info['own_share_median']:.2%}  [{info['own_share_low']:.2%}, {info['own_share_high']:.2%}]"
    )
    assert info["own_share_high"] <= ALLOWED
    assert info["ratio_low"] <= 1 + ALLOWED
