"""What a sample costs: a normal one, a defective one, and their batch. Only ratios within one run mean anything."""

import itertools
import time
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import ByT5Tokenizer

from model.data import Collator, Dataset, load


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("textures", image_size=224, seed=0)


def seconds(make: Callable[[int], object], indices: range) -> float:
    start = time.perf_counter()
    for index in indices:
        make(index)
    return time.perf_counter() - start


@pytest.mark.parametrize("kind", ["normal", "defective"])
def test_sample(benchmark: BenchmarkFixture, dataset: Dataset, kind: str) -> None:
    indices = itertools.count(kind == "defective", 2)
    sample = benchmark(lambda: dataset[next(indices)])
    assert sample.mask.any() == (kind == "defective")


def test_defects_cost_more_than_normals(benchmark: BenchmarkFixture, dataset: Dataset) -> None:
    """Records the ratio of a defective to a normal sample; it must exceed 1, for the first contains the second."""

    def ratio() -> float:
        return seconds(dataset.__getitem__, range(1, 121, 2)) / seconds(dataset.__getitem__, range(0, 120, 2))

    found = benchmark.pedantic(ratio, rounds=3, warmup_rounds=1)
    benchmark.extra_info["defective / normal"] = found
    assert found > 1


def test_batch(benchmark: BenchmarkFixture, dataset: Dataset) -> None:
    collate = Collator(ByT5Tokenizer(), dataset)
    samples = [dataset[index] for index in range(8)]
    batch = benchmark(collate, samples)
    assert batch["image"].shape == (8, 3, 224, 224)
