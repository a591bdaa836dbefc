"""Real runs: the categories of every rank's memory add up to its measured peak, and its states are those derived."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ENGINES = {"fsdp": ["--backend", "fsdp"], "zero-3": ["--backend", "deepspeed", "--zero-stage", "3"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_categories_add_up_to_the_peak(engine, tmp_path):
    """The two that allocate most beside what they hold: gathered parameters, buckets, coordinators."""
    asked = [sys.executable, "-m", "bench", "launch", "--ranks", "2", *ENGINES[engine], "--results", str(tmp_path),
             "--steps", "1", "--warmup", "2", "--proof-steps", "0", "--phase-steps", "0"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        asked, env=env, capture_output=True, text=True, timeout=240, cwd=Path(bench.__file__).parents[1]
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    (file,) = tmp_path.glob("*.json")
    ranks = json.loads(file.read_text())["ranks"]
    assert len(ranks) == 2
    for memory in (rank["memory"] for rank in ranks):
        assert sum(memory["at_peak"].values()) == pytest.approx(memory["peak_bytes"], rel=0.05)
        assert memory["derived"] == {name: memory[name] for name in ("parameters", "gradients", "optimizer")}
        assert memory["peak_bytes"] < 350 * 2**20, "looking at what is held must not become what is held"
