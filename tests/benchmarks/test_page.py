"""What the page costs: it must grow with the number of records, not with its square. Only ratios mean anything."""

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.report import page
from bench.report.page.raw import EMBED_BYTES
from bench.report.rows import Group, groups
from tests import made

FEW, MANY = 1000, 10_000
LABELS = ("single", "ddp", "fsdp", "zero-1", "ring")
BASE = [made.record(label, 1 if label == "single" else 2) for label in LABELS]
Made = tuple[list[Group], list[dict]]


def records(count: int, *, experiments: int) -> Made:
    """`count` records of five engines; their rows are computed outside the clock."""
    every = []
    for index in range(count):
        base, repeat = BASE[index % 5], index // 5
        every.append(base | {"run_id": f"{repeat:05d}_{base['run_id']}", "experiment": f"e{repeat % experiments}"})
    return groups(every), every


@pytest.mark.parametrize("experiments", [1, 200])
def test_ten_times_the_records_cost_no_more_than_ten_times(
    benchmark: BenchmarkFixture, tmp_path: Path, experiments: int
) -> None:
    few, many = records(FEW, experiments=max(1, experiments // 10)), records(MANY, experiments=experiments)

    def once(made_of: Made) -> float:
        begun = time.perf_counter()
        page.write(*made_of, tmp_path / "page.html", folder="results")
        return time.perf_counter() - begun

    took: list[float] = []

    def grown() -> float:
        least = min(once(few) for _ in range(3))
        took.append(once(many))
        return took[-1] / least

    ratio = benchmark.pedantic(grown, rounds=2)
    benchmark.extra_info["10,000 records / 1,000"] = ratio
    benchmark.extra_info["records a second"] = MANY / min(took)
    size = (tmp_path / "page.html").stat().st_size
    benchmark.extra_info["MB"] = size / 1e6
    assert ratio < 2 * MANY / FEW  # twice over linear: noise; a square would be 100
    assert size < 4 * EMBED_BYTES + MANY * 500  # raw records are not all in it
