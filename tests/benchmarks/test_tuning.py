"""What a search costs beside what it searches: a proposal against the start of one rank."""

import json
import subprocess
import sys
import time

import pytest

from bench.tuning import search, space
from bench.tuning.search import Tried

pytest.importorskip("optuna")
PAST, START_SHARE = 40, 0.5


@pytest.mark.long
def test_a_proposal_costs_less_than_half_the_start_of_a_rank(benchmark):
    """Forty trials are known; a rank has to load torch before it does anything, a run starts one or more of them."""
    base, knobs = space.base("deepspeed", {}), space.knobs("deepspeed")
    past: list[Tried] = []
    while len(past) < PAST:
        chosen = search.propose(knobs, base, past, seed=1)
        assert chosen is not None
        past.append(Tried(chosen, float(len(json.dumps(chosen)))))
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    start_s = time.perf_counter() - begun
    benchmark.pedantic(search.propose, args=(knobs, base, past, 1), rounds=5, warmup_rounds=1)
    benchmark.extra_info["share_of_start"] = share = benchmark.stats.stats.median / start_s
    assert share < START_SHARE
