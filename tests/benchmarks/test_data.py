"""What a sample costs: normal, defective, read from disk, and a batch. Only ratios within one run mean anything."""

import itertools
import time
from collections.abc import Callable, Sequence

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import ByT5Tokenizer

from model.data import Collator, Dataset, load
from model.data.files import FileDataset
from tests import layouts


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("textures", image_size=224, seed=0)


def seconds(make: Callable[[int], object], indices: Sequence[int]) -> float:
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileDataset:
    """Images as large as MVTec-AD's, their decoded forms already made."""
    root = tmp_path_factory.mktemp("files")
    folder = layouts.mvtec(root / "set", ("bottle",), good=1, defects=(), side=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGZERO_CACHE", str(root / "cache"))
        made = load("mvtec", image_size=224, seed=0, folder=folder)
        assert isinstance(made, FileDataset)
        assert made.normal(0)[1].shape == (224, 224, 3)
    return made


def test_reading_costs_less_than_decoding(benchmark: BenchmarkFixture, files: FileDataset) -> None:
    """Records the ratio of reading a kept image to decoding its file; it must be below a tenth, or keeping is in vain."""
    paths = [path for _, path in files._samples]

    def ratio() -> float:
        read = seconds(lambda number: files._read(paths[number % len(paths)]), range(200)) / 200
        return read / (seconds(lambda number: files._decode(paths[number]), range(len(paths))) / len(paths))

    found = benchmark.pedantic(ratio, rounds=3, warmup_rounds=1)
    benchmark.extra_info["read / decode"] = found
    assert found < 0.1


def test_the_full_synthesis_beside_the_short_one(benchmark: BenchmarkFixture, files: FileDataset) -> None:
    """Records the ratio of a defect by the full synthesis to one by the short form; above 20, tries are wasted."""
    images = [files.normal(pair) for pair in range(4)]

    def full(number: int) -> object:
        return files.defect(*images[number % 4], files.rng(9, number))

    def short(number: int) -> object:
        return Dataset.defect(files, *images[number % 4], files.rng(9, number))

    found = benchmark.pedantic(lambda: seconds(full, range(24)) / seconds(short, range(24)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["full / short"] = found
    assert found < 20


def test_batch(benchmark: BenchmarkFixture, dataset: Dataset) -> None:
    collate = Collator(ByT5Tokenizer(), dataset)
    samples = [dataset[index] for index in range(8)]
    batch = benchmark(collate, samples)
    assert batch["image"].shape == (8, 3, 224, 224)
