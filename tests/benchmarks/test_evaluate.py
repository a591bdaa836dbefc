"""What streaming costs beside keeping every pixel for scikit-learn. Only ratios within one run mean anything."""

import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.metrics import roc_auc_score

from model.metrics import Histogram

SIDE, FEW, MANY = 128, 25, 100


def images(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Smooth score maps, as upsampled ones are, and one defect in every second image."""
    draw = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if number % 2:
            top, left = draw.integers(0, SIDE - 20, 2)
            mask[top : top + 20, left : left + 12] = 1
        yield (0.3 * draw.random((SIDE, SIDE)) + 0.1 * mask).astype(np.float32), mask


def streamed(count: int) -> float:
    histogram = Histogram()
    for scores, mask in images(count):
        histogram.add(scores, mask)
    value = histogram.auroc().value
    assert value is not None
    return value


def kept(count: int) -> float:
    scores, masks = zip(*images(count), strict=True)
    return float(roc_auc_score(np.ravel(masks), np.ravel(scores)))


def peak(work: Callable[[int], object], count: int) -> int:
    """Bytes at most, by tracemalloc, which sees NumPy's arrays."""
    tracemalloc.start()
    try:
        work(count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_pixel_auroc(benchmark: BenchmarkFixture) -> None:
    """Records time and memory of streaming over scikit-learn's on all pixels, and how each grows with the images."""

    def ratio() -> float:
        start = time.perf_counter()
        streamed(MANY)
        middle = time.perf_counter()
        kept(MANY)
        return (middle - start) / (time.perf_counter() - middle)

    found = benchmark.pedantic(ratio, rounds=2)
    assert streamed(MANY) == pytest.approx(kept(MANY), abs=1e-4)
    memory = {name: [peak(work, count) for count in (FEW, MANY)] for name, work in (("s", streamed), ("k", kept))}
    benchmark.extra_info["time, streamed / all pixels"] = found
    benchmark.extra_info["memory, streamed / all pixels"] = memory["s"][1] / memory["k"][1]
    benchmark.extra_info[f"memory, {MANY} / {FEW} images, streamed"] = memory["s"][1] / memory["s"][0]
    benchmark.extra_info[f"memory, {MANY} / {FEW} images, all pixels"] = memory["k"][1] / memory["k"][0]
    assert memory["s"][1] / memory["s"][0] < 2 < memory["k"][1] / memory["k"][0]
    assert memory["s"][1] < memory["k"][1]
