"""Benchmarks run only when asked for: `pytest --benchmark-only`, or their path on the command line."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# What is tested is the same on every machine; ranks would take a GPU as soon as each finds one. Before anything imports torch,
# and inherited by every process that a test starts.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).parent
BENCHMARKS = ROOT / "benchmarks"
RANKS = ("parity/", "faults/", *(f"test_{name}.py" for name in (
    "collectives", "conduct", "curve", "lab", "launch", "main", "makeup", "measure", "memory_sum", "rejoin", "shared",
    "sharing", "stopwatch", "traffic", "watch", "workload",
)))  # fmt: skip


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A thread a process, as in the ranks; afterwards as many as before."""
    import torch  # here: most of the suite does without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """child(*command) starts a process that does not outlive the test."""
    started = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts ranks; deselect the benchmarks in a plain run, and everything else under --benchmark-only."""
    for item in items:
        place = item.path.relative_to(ROOT).as_posix()
        if place.startswith(RANKS):
            item.add_marker(pytest.mark.ranks)
        if place.startswith("faults/"):
            item.add_marker(pytest.mark.faults)
    named = [
        Path(config.invocation_params.dir, argument.split("::")[0]).resolve()
        for argument in config.invocation_params.args
        if not argument.startswith("-")
    ]
    if config.getoption("benchmark_only"):
        wanted = {True}
    elif any(path.is_relative_to(BENCHMARKS) for path in named):
        wanted = {True, False}
    else:
        wanted = {False}
    kept, left = [], []
    for item in items:
        (kept if item.path.is_relative_to(BENCHMARKS) in wanted else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
