"""A data set of one file an image: the order of its epochs, its references, its foreign sources, its test images."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from model import assets
from model.data.cache import ImageCache
from model.data.dataset import ORDER, Dataset, read_image
from model.data.sample import DataError, TestItem, TestItems, choose, spread

RESERVED = 32  # references a class: taken out of the training images, evenly over their order


@dataclass(frozen=True)
class TestFile:
    """A test image before it is read; a defective one without a mask is of a data set that has none."""

    __test__: ClassVar[bool] = False  # pytest collects classes of this name

    path: Path
    class_id: int
    defective: bool
    mask: Path | None = None


class FileDataset(Dataset):
    """Normal images of a finite set, whole and resized: in a new order each epoch, in file order for the test split.

    They are decoded once and kept in the cache folder (`ImageCache`).
    """

    asset: ClassVar[str]
    reserved: ClassVar[int] = RESERVED
    has_masks: ClassVar[bool] = False
    policy: str = "squash"  # how an image becomes square; part of what names its decoded form

    def __init__(self, *, image_size: int, seed: int, split: str = "train", folder: Path | None = None) -> None:
        super().__init__(image_size=image_size, seed=seed, split=split, folder=folder)
        self._look()
        train, test = self._normal_files("train"), self._normal_files("test")
        self._reserved = [self._references(class_id, files) for class_id, files in enumerate(train)]
        kept = self._samples_of(train) if split == "train" else test
        self._files = kept
        self._samples = [(class_id, path) for class_id, files in enumerate(kept) for path in files]
        for path in [path for group in (*kept, *self._reserved) for path in group]:
            if not path.is_file():
                raise DataError(f"image {path} is missing; {self._remedy}")
        self.pairs = len(self._samples)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def packaged(self) -> Path:
        return assets.fetch(self.asset)

    def _look(self) -> None:
        """Find the classes where the folder decides them, before its files are listed. Raises DataError."""

    @abstractmethod
    def _normal_files(self, split: str) -> list[list[Path]]:
        """Normal images of a split, by class, in file order. Raises DataError."""

    @abstractmethod
    def _defective_files(self) -> list[list[TestFile]]:
        """Defective test images, by class, in file order. Raises DataError."""

    @property
    def _remedy(self) -> str:
        return f"delete the folder {self.folder} and type `python -m model.assets {self.asset}`"

    def _references(self, class_id: int, files: list[Path]) -> list[Path]:
        """The reference images of a class, from its training images."""
        return [files[number] for number in spread(len(files), self.reserved)]

    def _samples_of(self, train: list[list[Path]]) -> list[list[Path]]:
        """The training images that are served as samples."""
        return [sorted(set(files) - set(out)) for files, out in zip(train, self._reserved, strict=True)]

    def normal(self, pair: int) -> tuple[int, np.ndarray]:
        epoch, place = divmod(pair, len(self._samples))
        class_id, path = self._samples[self._order(epoch)[place] if self.split == "train" else place]
        return class_id, self._read(path)

    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        other = (class_id + 1 + int(rng.integers(len(self.classes) - 1))) % len(self.classes)
        return self._read(self._files[other][int(rng.integers(len(self._files[other])))])

    def normals(self, k: int) -> np.ndarray:
        if not 1 <= k <= self.reserved:
            raise ValueError(f"k is {k}; {self.name} keeps 1 to {self.reserved} reference images a class")
        images = [[self._read(files[number]) for number in spread(len(files), k)] for files in self._reserved]
        return np.array(images)

    def test_items(self, n: int | None) -> Sequence[TestItem]:
        normal = [
            [TestFile(path, class_id, False) for path in files]
            for class_id, files in enumerate(self._normal_files("test"))
        ]
        pairs = zip(normal, self._defective_files(), strict=True)
        return TestItems(choose([group for pair in pairs for group in pair], n), self._test_item)

    def _test_item(self, file: TestFile) -> TestItem:
        image = self._decode_test(file.path)
        mask = self._mask(file.mask) if file.mask else np.zeros(image.shape[:2], np.uint8) if self.has_masks else None
        if file.mask and mask is not None and not mask.any():  # else each pixel of a defect would count as normal
            raise DataError(
                f"mask {file.mask} shows no defect at {self.image_size} x {self.image_size} pixels, though its image is "
                f"defective; {self._mask_rule}"
            )
        name = file.path.relative_to(self.folder).as_posix()
        return TestItem(image, mask, file.defective, file.class_id, self._test_question(file.class_id), name)

    def _test_question(self, class_id: int) -> str:
        return self.questions[class_id]

    @property
    def _mask_rule(self) -> str:
        """What to do about a mask that shows nothing."""
        return self._remedy

    def _mask(self, path: Path) -> np.ndarray:
        """A mask file as (H, W) uint8 in {0, 1}. Raises DataError."""
        raise NotImplementedError(f"{self.name} has no masks")

    def _read(self, path: Path) -> np.ndarray:
        return self._cache[path]

    @cached_property
    def _cache(self) -> ImageCache:
        files = sorted({path for group in (*self._files, *self._reserved) for path in group})
        return ImageCache(self.name, files, self.image_size, self.policy, self._decode)

    def _decode(self, path: Path) -> np.ndarray:
        return self._resized(read_image(path, self._remedy))

    def _decode_test(self, path: Path) -> np.ndarray:
        """A test image, which is read once and therefore not kept."""
        return self._decode(path)

    def _resized(self, image: Image.Image) -> np.ndarray:
        return np.array(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self.rng(ORDER, epoch).permutation(len(self._samples))
