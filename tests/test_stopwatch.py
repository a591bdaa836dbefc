"""The throughput that a record gives, against a stopwatch in another process that knows nothing of the run's clock."""

import json
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from bench import stats
from tests.faults.conftest import LAUNCH, ROOT, environment

SCRIPT = Path(__file__).with_name("stopwatch.py")
STEPS, BATCH = 8, 8
TRIES = 3  # a machine that does other things may hold one of the processes up; wrong arithmetic is wrong each time


def timed(backend: str, ranks: int, folder: Path) -> tuple[dict, np.ndarray]:
    """The record of a run, and the seconds of its steps as seen from here: shape (steps,), until the last rank is through."""
    folder.mkdir()
    ends = np.full((ranks, STEPS + 1), np.nan)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, open(folder / "output.txt", "w+") as output:
        channel.bind(str(folder / "marks"))
        channel.settimeout(240)
        flags = ["--results", folder / "results", "--steps", STEPS, "--global-batch", BATCH, "--proof-steps", 0]
        words = [*LAUNCH[backend], SCRIPT, "--backend", backend, *flags, "--warmup", 1]
        run = subprocess.Popen(
            [str(word) for word in words],
            stdout=output,
            stderr=output,
            env=environment(MARKS=str(folder / "marks")),
            cwd=ROOT,
        )
        try:
            while np.isnan(ends).any():
                said = channel.recv(64)
                rank, step = map(int, said.split())
                ends[rank, step] = time.perf_counter()
            assert run.wait(timeout=120) == 0, output.seek(0) or output.read()
        finally:
            run.kill()
            run.wait()
    (path,) = (folder / "results").glob("*.json")
    return json.loads(path.read_text()), np.diff(np.concatenate([[ends[:, 0].min()], ends[:, 1:].max(axis=0)]))


@pytest.mark.parametrize(("backend", "ranks"), [("single", 1), ("ddp", 2)])
def test_throughput_is_that_of_a_stopwatch_outside_the_process_within_1_percent(
    tmp_path: Path, backend: str, ranks: int
) -> None:
    """Over the window, and of the median step. Data loading is inside."""
    errors = []
    for attempt in range(TRIES):
        record, outside = timed(backend, ranks, tmp_path / str(attempt))
        inside = stats.slowest(record["ranks"])
        window = inside.sum() / outside.sum() - 1
        throughput = stats.throughput([record]).median / (BATCH / np.median(outside)) - 1
        assert len(record["ranks"]) == ranks
        for memory in (rank["memory"] for rank in record["ranks"]):  # one step of warm-up saw no optimizer state
            assert memory["peak_bytes"] is memory.get("optimizer") is None
            assert "--warmup 2" in memory["peak_bytes_reason"]
        assert (
            sum(sum(rank["data_s"]) for rank in record["ranks"]) > 0.02 * outside.sum()
        )  # else nobody would see it missing
        errors.append((float(window), float(throughput)))
        print(f"stopwatch: window {window:+.3%}, throughput {throughput:+.3%}")
        if max(map(abs, errors[-1])) < 0.01:
            return
    pytest.fail(f"(window, throughput) differ from the stopwatch by {errors}")
