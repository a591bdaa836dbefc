"""What a report costs: it must grow with the number of records, not with its square. Only ratios mean anything."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import frame
from bench.report import load, table
from bench.report.rows import groups
from tests import made

FEW, MANY = 20, 200
LABELS = ("single", "ddp", "fsdp", "zero-1", "ring")


def folder(path: Path, count: int) -> Path:
    """`count` records of five engines, so that the rows stay and the runs of a row grow."""
    made.write(path, *(made.record(LABELS[i % 5], 1 if i % 5 == 0 else 2, repeat=i // 5) for i in range(count)))
    return path


def report(path: Path) -> str:
    return table.markdown(groups(load.load(path).records))


@pytest.mark.parametrize("count", [FEW, MANY])
def test_report(benchmark: BenchmarkFixture, tmp_path: Path, count: int) -> None:
    text = benchmark(report, folder(tmp_path, count))
    assert text.count("*verified*") == len(LABELS) - 1


@pytest.mark.parametrize(("what", "make"), [("report", report), ("frame", frame.load)], ids=["report", "frame"])
def test_ten_times_the_records_cost_no_more_than_ten_times(
    benchmark: BenchmarkFixture, tmp_path: Path, what: str, make: Callable[[Path], object]
) -> None:
    few, many = folder(tmp_path / "few", FEW), folder(tmp_path / "many", MANY)

    def best(path: Path) -> float:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            make(path)
            times.append(time.perf_counter() - begun)
        return min(times)

    ratio = benchmark.pedantic(lambda: best(many) / best(few), rounds=3, warmup_rounds=1)
    benchmark.extra_info[f"{what}: 200 records / 20"] = ratio
    assert ratio < 2 * MANY / FEW  # twice over linear: noise; a square would be 100
