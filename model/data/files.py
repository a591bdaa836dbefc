"""A data set of one file an image: the order of its epochs, its references, its foreign sources."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from model import assets
from model.data.dataset import ORDER, Dataset, read_image
from model.data.sample import DataError

RESERVED = 32  # references a class: taken out of the training images, evenly over their order


class FileDataset(Dataset):
    """Normal images of a finite set, whole and resized: in a new order each epoch, in file order for the test split."""

    asset: ClassVar[str]

    def __init__(self, *, image_size: int, seed: int, split: str = "train", folder: Path | None = None) -> None:
        super().__init__(image_size=image_size, seed=seed, split=split, folder=folder)
        train, test = self._normal_files("train"), self._normal_files("test")
        self._reserved = [[files[number] for number in _spread(len(files))] for files in train]
        if split == "train":
            kept = [sorted(set(files) - set(out)) for files, out in zip(train, self._reserved, strict=True)]
        else:
            kept = test
        self._files = kept
        self._samples = [(class_id, path) for class_id, files in enumerate(kept) for path in files]
        for path in [path for group in (*kept, *self._reserved) for path in group]:
            if not path.is_file():
                raise DataError(f"image {path} is missing; {self._remedy}")
        self.pairs = len(self._samples)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def packaged(self) -> Path:
        return assets.fetch(self.asset)

    @abstractmethod
    def _normal_files(self, split: str) -> list[list[Path]]:
        """Normal images of a split, by class, in file order. Raises DataError."""

    @property
    def _remedy(self) -> str:
        return f"delete the folder {self.folder} and type `python -m model.assets {self.asset}`"

    def normal(self, pair: int) -> tuple[int, np.ndarray]:
        epoch, place = divmod(pair, len(self._samples))
        class_id, path = self._samples[self._order(epoch)[place] if self.split == "train" else place]
        return class_id, self._read(path)

    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        other = (class_id + 1 + int(rng.integers(len(self.classes) - 1))) % len(self.classes)
        return self._read(self._files[other][int(rng.integers(len(self._files[other])))])

    def normals(self, k: int) -> np.ndarray:
        if not 1 <= k <= RESERVED:
            raise ValueError(f"k is {k}; {self.name} keeps 1 to {RESERVED} reference images a class")
        images = [[self._read(files[number]) for number in _spread(len(files), k)] for files in self._reserved]
        return np.array(images)

    def _read(self, path: Path) -> np.ndarray:
        return self._resized(read_image(path, self._remedy))

    def _resized(self, image: Image.Image) -> np.ndarray:
        return np.array(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self.rng(ORDER, epoch).permutation(len(self._samples))


def _spread(length: int, k: int = RESERVED) -> Sequence[int]:
    """k places, evenly over a sequence."""
    return [(2 * number + 1) * length // (2 * k) for number in range(k)]
