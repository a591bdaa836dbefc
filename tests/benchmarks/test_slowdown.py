"""A slowdown of 5 %, planted into real runs, is found with the default repeats: where the machine is quiet enough to see it."""

import json
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import aa, pairwise
from tests.faults.conftest import environment, refused

SCRIPT, SHARE = Path(__file__).parents[1] / "slowed.py", 0.05
FLAGS = ["--backend", "single", "--steps", 20, "--warmup", 1, "--proof-steps", 0]


@pytest.mark.long
def test_a_planted_slowdown_of_5_percent_is_found(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    def run(name: str, share: float, repeat: int) -> dict:
        folder = tmp_path / f"{name}{repeat}"
        code, text = refused(
            [sys.executable, SCRIPT, *FLAGS, "--results", folder], env=environment(SLOWDOWN=str(share))
        )
        assert code == 0, text
        (path,) = folder.glob("*.json")
        return json.loads(path.read_text())

    def compared() -> pairwise.Pair:
        sides: dict[str, list] = {"slow": [], "plain": []}
        for repeat in range(aa.REPEATS):
            for name in ("slow", "plain") if repeat % 2 else ("plain", "slow"):
                sides[name].append(run(name, SHARE if name == "slow" else 0.0, repeat))
        return pairwise.family([(pairwise.times(sides["slow"]), pairwise.times(sides["plain"]))])[0]

    pair = benchmark.pedantic(compared, rounds=1)
    benchmark.extra_info["ratio: median, low, high"] = [pair.ratio.median, pair.ratio.low, pair.ratio.high]
    benchmark.extra_info["detectable"] = pair.detectable
    benchmark.extra_info["verdict"] = pair.verdict()

    assert pair.detectable is not None
    if pair.detectable > SHARE:
        pytest.skip(f"this machine is not quiet: at its spread {pair.detectable:.1%} is the least that could be found")
    assert pair.verdict() == "slower"
    assert pair.ratio.low < 1 + 2 * SHARE
