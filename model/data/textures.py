"""`textures`: crops of brick, grass and gravel photographs that scikit-image installs. No download.

Each 512 x 512 photograph is cut once into three regions; no crop leaves its region, so train, test and reference
images share no pixel: columns 288-511 are test, columns 0-287 train (rows 224-511) and reference (rows 0-223).
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from model.data.dataset import NORMAL, REFERENCE, Dataset, read_image
from model.data.sample import DataError, TestItem, TestItems
from model.data.synthesis import Box

SIDE = 512
REGIONS = {
    "train": Box(224, 0, SIDE, 288),
    "test": Box(0, 288, SIDE, SIDE),
    "reference": Box(0, 0, 224, 288),
}
MAX_SIZE = 224  # the short side of the smallest region
QUARTER_TURNS = (False, True, True)  # by class: bricks lie along one axis


class Textures(Dataset):
    """Endless random crops; train crops are flipped and, where the class has no direction, turned by right angles."""

    name = "textures"
    classes = ("brick", "grass", "gravel")
    nouns = ("bricks", "grass", "gravel")
    dependent = "its crops overlap: they are not independent images"
    licence = "CC0 (brick, grass and gravel of scikit-image, from CC0Textures)"

    def __init__(self, *, image_size: int, seed: int, split: str = "train", folder: Path | None = None) -> None:
        super().__init__(image_size=image_size, seed=seed, split=split, folder=folder)
        if image_size > MAX_SIZE:
            raise ValueError(f"image_size is {image_size}; textures are cut into regions for at most {MAX_SIZE}")
        self._photos = tuple(self._photo(name) for name in self.classes)

    def packaged(self) -> Path:
        spec = find_spec("skimage")
        if spec is None or spec.origin is None:
            raise DataError("the textures are scikit-image's, which is missing; type `pip install scikit-image`")
        return Path(spec.origin).parent / "data"

    def _photo(self, name: str) -> np.ndarray:
        remedy = "type `pip install --force-reinstall --no-deps scikit-image`"
        photo = np.asarray(read_image(self.folder / f"{name}.png", remedy))
        if photo.shape[:2] != (SIDE, SIDE):
            raise DataError(f"image {self.folder / name}.png is not {SIDE} x {SIDE} pixels; {remedy}")
        return photo

    def normal(self, pair: int) -> tuple[int, np.ndarray]:
        class_id, rng = pair % len(self.classes), self.rng(NORMAL, pair)
        crop = self._crop(class_id, self.split, rng)
        return class_id, _augment(crop, rng, QUARTER_TURNS[class_id]) if self.split == "train" else crop

    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        other = (class_id + 1 + int(rng.integers(len(self.classes) - 1))) % len(self.classes)
        return self._crop(other, self.split, rng)

    def normals(self, k: int) -> np.ndarray:
        if k < 1:
            raise ValueError(f"k is {k}; take at least 1 reference image a class")
        rngs = [self.rng(REFERENCE, number) for number in range(k)]
        crops = [[self._crop(class_id, "reference", rng) for rng in rngs] for class_id in range(len(self.classes))]
        return np.array(crops)

    def test_items(self, n: int | None) -> Sequence[TestItem]:
        """Pairs of the test split, as its samples; the crops never end, so that n must be given."""
        if n is None or n < 1:
            raise ValueError(f"n is {n}; the textures never end: say how many test images, at least 1")
        same = type(self)(image_size=self.image_size, seed=self.seed, split="test", folder=self.folder)

        def item(index: int) -> TestItem:
            sample = same[index]
            name = f"{self.classes[sample.class_id]} {index}"
            return TestItem(sample.image, sample.mask, bool(sample.mask.any()), sample.class_id, sample.question, name)

        return TestItems(range(n), item)

    def _crop(self, class_id: int, region: str, rng: np.random.Generator) -> np.ndarray:
        box = REGIONS[region]
        top = int(rng.integers(box.top, box.bottom - self.image_size + 1))
        left = int(rng.integers(box.left, box.right - self.image_size + 1))
        return self._photos[class_id][top : top + self.image_size, left : left + self.image_size].copy()


def _augment(crop: np.ndarray, rng: np.random.Generator, quarter_turns: bool) -> np.ndarray:
    flip_rows, flip_columns, turn = rng.integers(2, size=3)
    crop = crop[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(np.rot90(crop) if turn and quarter_turns else crop)
