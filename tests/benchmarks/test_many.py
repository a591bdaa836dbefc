"""Ten thousand records, read and reported: over what parsing the same files costs with Python's json. Only ratios mean anything."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.comparison import SUFFIX
from bench.report import load, page, table, verdicts
from bench.report.rows import groups

REAL = Path(__file__).resolve().parents[2] / "results" / "reference"
COUNT, PAIRS = 10_000, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a real comparison as if it had been repeated: names, starts and step times of their own."""
    made, draw = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    real = [json.loads(path.read_bytes()) for path in sorted(REAL.glob("*.json")) if not path.name.endswith(SUFFIX)]
    for index in range(COUNT):
        record = real[index % len(real)]
        at = f"{index // 86400 + 1:02d}T{index // 3600 % 24:02d}:{index // 60 % 60:02d}:{index % 60:02d}"
        ranks = [
            rank | {"step_s": (np.array(rank["step_s"]) * draw.lognormal(0, 0.02, len(rank["step_s"]))).tolist()}
            for rank in record["ranks"]
        ]
        name = f"202601{at.replace(':', '')}Z_{record['engine']['label']}_np{record['world']['size']}_abc1234"
        copy = record | {"run_id": name, "started": f"2026-01-{at}+00:00", "ranks": ranks}
        (made / f"{name}.json").write_bytes(orjson.dumps(copy, option=orjson.OPT_INDENT_2))
    return made


def parse(folder: Path) -> None:
    """What reading costs at least with the standard library; the objects are kept, as a report keeps them."""
    kept = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert len(kept) == COUNT


def report(folder: Path) -> None:
    """As `ringzero report --all --html`: tables, pairs of engines, and the page."""
    records = load.load(folder).records
    made, files = groups(records), verdicts.by_file(records)
    found = [verdicts.compare(group, files) for group in made]
    text = table.markdown(made)
    written = page.write(made, records, folder / "page.html", folder=".", found=found)
    assert len(made) == 1
    assert text.count("*verified*") == len(made[0].rows) - 1
    assert f"of {COUNT} records are in this page" in written.read_text()


@pytest.mark.long
def test_ten_thousand_records_cost_little_more_than_parsing_them(benchmark: BenchmarkFixture, folder: Path) -> None:
    """Each pair of measurements back to back, in seconds of this process; every run verified, 64 pairs of engines tested."""

    def seconds(work: Callable[[Path], None]) -> float:
        begun = time.process_time()
        work(folder)
        return time.process_time() - begun

    pairs = benchmark.pedantic(lambda: [(seconds(report), seconds(parse)) for _ in range(PAIRS)], rounds=1)
    ratios = [ours / bare for ours, bare in pairs]
    benchmark.extra_info["CPU seconds: read and report"] = statistics.median(ours for ours, _ in pairs)
    benchmark.extra_info["CPU seconds: json.loads"] = statistics.median(bare for _, bare in pairs)
    benchmark.extra_info["ratio: median, lowest, highest"] = [statistics.median(ratios), min(ratios), max(ratios)]
    print(f"\n10,000 records: {pairs}")
    assert statistics.median(ratios) < 2.5  # 1.7 here; with each run compared number by number, 4 and more
