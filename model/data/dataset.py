"""What every data set shares: samples as a pure function of (seed, index), and how an image file is read."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from model.data import synthesis, texts
from model.data.sample import DataError, Sample, TestItem
from model.data.synthesis import Blended

SPLITS = ("train", "test")
MIN_SIZE = 64  # pixels; below, two patches with their rims leave little of the image
# One random stream a purpose, so that none depends on how much another one draws.
NORMAL, DEFECT, COIN, ORDER, REFERENCE = range(5)


class Dataset(ABC):
    """Pairs of a normal image and the same image with a blended defect, at even and odd index. It never ends.

    A sample depends on nothing but the seed, the split and its index: not on earlier calls, the process or the rank.

    folder: where the images lie, if not in the installed or fetched package.

    Raises ValueError for an image size or split that it cannot serve, DataError for a missing image.
    """

    name: ClassVar[str]
    classes: tuple[str, ...]  # as the text tower names them; the folder decides where it may hold any
    nouns: tuple[str, ...]  # as the questions name them
    licence: ClassVar[str]
    resize: ClassVar[tuple[float, float]] = (0.5, 2.0)  # least and most scaling of a pasted patch
    dependent: ClassVar[str | None] = None  # why its images say less than as many independent ones, if they do
    pairs: int | None = None  # normal images in one epoch; None where crops never run out

    def __init__(self, *, image_size: int, seed: int, split: str = "train", folder: Path | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; known: {', '.join(SPLITS)}")
        if image_size < MIN_SIZE:
            raise ValueError(f"image_size is {image_size}; take at least {MIN_SIZE}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; take 0 or more")
        self.image_size, self.seed, self.split = image_size, seed, split
        self.folder = folder or self.packaged()

    @abstractmethod
    def packaged(self) -> Path:
        """The folder of images in the installed or fetched package. Raises DataError or AssetError."""

    @abstractmethod
    def normal(self, pair: int) -> tuple[int, np.ndarray]:
        """(class_id, image): the normal image, (H, W, 3) uint8, of samples 2 * pair and 2 * pair + 1."""

    @abstractmethod
    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        """An image (H, W, 3) to cut patches from that do not belong in an image of this class."""

    @abstractmethod
    def normals(self, k: int) -> np.ndarray:
        """(C, k, H, W, 3) uint8: k reference images a class, never served as samples. ValueError: bad k."""

    @abstractmethod
    def test_items(self, n: int | None) -> Sequence[TestItem]:
        """n test images (None: all), evenly over classes and over normal and defective ones; the same at every call.

        They are read when asked for. Raises ValueError for an n that cannot be served.
        """

    def defect(self, class_id: int, image: np.ndarray, rng: np.random.Generator) -> Blended:
        """The normal image (H, W, 3) of a class with blended defects. Raises DataError if none can be made."""
        return synthesis.add_defects(image, lambda rng: self.foreign(class_id, rng), rng, resize=self.resize)

    @property
    def questions(self) -> tuple[str, ...]:
        """One question a class."""
        return tuple(texts.question(noun) for noun in self.nouns)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` >= 0. Raises IndexError for a negative index, DataError for a missing or broken image."""
        if index < 0:
            raise IndexError(f"index is {index}; samples are counted from 0")
        pair, defective = divmod(int(index), 2)
        class_id, image = self.normal(pair)
        mask, positions = np.zeros(image.shape[:2], np.uint8), tuple[str, ...]()
        if defective:
            defect = self.defect(class_id, image, self.rng(DEFECT, pair))
            image, mask, positions = defect.image, defect.mask, defect.positions
        few_shot = bool(self.rng(COIN, index).integers(2))
        return Sample(image, mask, class_id, few_shot, self.questions[class_id], texts.answer(positions), index)

    def rng(self, purpose: int, index: int) -> np.random.Generator:
        """The random stream of one purpose at one index, of this seed and split."""
        split = 0 if purpose == REFERENCE else SPLITS.index(self.split)  # both splits have the same references
        key = (split, purpose, int(index))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def read_image(path: Path, remedy: str) -> Image.Image:
    """The decoded image in RGB; `remedy` ends the message of the DataError for a missing or broken file."""
    try:
        with Image.open(path) as file:
            return decoded(file)[0]
    except FileNotFoundError as error:
        raise DataError(f"image {path} is missing; {remedy}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise DataError(f"image {path} cannot be read ({error}); {remedy}") from error


def decoded(file: Image.Image) -> tuple[Image.Image, list[str]]:
    """An opened file in RGB, and what was done for it: in training, in an evaluation and for one picture alike.

    Turned upright as its EXIF says; 16 bits keep their upper 8, whatever else is in the picture; what shows through is
    white. Raises ValueError where no value is known to be white.
    """
    file.load()  # a broken file is not taken for one without EXIF
    try:
        picture = ImageOps.exif_transpose(file)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
        picture = file  # a broken EXIF block is no reason to lose a sound picture
    rgb, done = _rgb(picture, file.mode)
    return rgb, done + ["turned upright"] * (picture.size != file.size)


def _rgb(picture: Image.Image, mode: str) -> tuple[Image.Image, list[str]]:
    if mode == "RGB":
        return picture.convert("RGB"), []
    if mode.startswith(("I", "F")):
        return Image.fromarray(_upper_bits(picture, mode)).convert("RGB"), [f"{mode} to RGB, 65535 is white"]
    if mode != "L" and ("A" in picture.getbands() or "transparency" in picture.info):
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB"), [f"{mode} on white to RGB"]
    return picture.convert("RGB"), [f"{mode} to RGB"]


def _upper_bits(picture: Image.Image, mode: str) -> np.ndarray:
    """(H, W) uint8 of 16 bit grey, which Pillow would cut at 255. Mode I is 32 bit, of which PGM files use 16."""
    values = np.asarray(picture)
    if mode == "F" or (mode == "I" and not 0 <= values.min() <= values.max() < 2**16):
        kind = "floats" if mode == "F" else f"integers from {values.min()} to {values.max()}"
        raise ValueError(f"its values are {kind}, of which none is known to be white: save it as 8 or 16 bit grey")
    return (values.astype(np.uint16) >> 8).astype(np.uint8)
