"""What the published data sets share: they are not fetched, have masks, and can be read exactly as AnomalyGPT read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from model.data import nsa, texts
from model.data.dataset import read_image
from model.data.files import FileDataset
from model.data.sample import DataError

REFERENCES = 4  # a class: the most that the published protocol takes
MASK_FROM = 0.1  # of white: a resized mask above it is a defect
DRAWN = "drawn_"  # begins an augmented image's name: after the digits, so that who counts files finds the originals where they were
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


class Published(FileDataset):
    """Normal images of a folder that its user has, with the full NSA synthesis and real defects to test on.

    reference_round: None takes four reference images a class out of training, evenly over their order. A number r takes
    those of the published protocol: files 4r to 4r + 3 of a class in their order.

    faithful: as published. Training images are squashed, test and reference images cropped; no image is kept out of
    training for reference, so that one may be a query; the round is the published one if none is given, or the last
    that a class has; questions with their slips; defects as `nsa.add_defects` says.

    Raises DataError where the folder is not given or not such a data set, ValueError for a round that it cannot serve.
    """

    reserved = REFERENCES
    has_masks = True
    published_round: ClassVar[int]  # of references
    home: ClassVar[str]  # where the images can be had
    layout: ClassVar[str]  # what the folder holds

    def __init__(
        self,
        *,
        image_size: int,
        seed: int,
        split: str = "train",
        folder: Path | None = None,
        faithful: bool = False,
        reference_round: int | None = None,
    ) -> None:
        if reference_round is not None and reference_round < 0:
            raise ValueError(f"reference_round is {reference_round}; take 0 or more")
        self.faithful = faithful
        self.reference_round = reference_round
        if faithful and split == "test":
            self.policy = "crop"
        super().__init__(image_size=image_size, seed=seed, split=split, folder=folder)

    def packaged(self) -> Path:
        raise DataError(
            f"{self.name} is not downloaded for you; get it from {self.home}, and type --images PATH, "
            f"the folder that holds {self.layout}"
        )

    @property
    def _remedy(self) -> str:
        return f"type `ringzero data check {self.name} {self.folder}`, which lists all that is wrong there"

    def _not_here(self, wanted: str) -> DataError:
        deep = len(Path(wanted).parts)
        near = next((path.parents[deep - 1] for path in sorted(self.folder.glob(f"*/{wanted}"))), None)
        hint = f"; it seems to be {near}" if near else f"; it can be had from {self.home}"
        found = "does not exist" if not self.folder.is_dir() else f"has no {wanted}"
        return DataError(f"{self.folder} {found}; --images must name the folder that holds {self.layout}{hint}")

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(texts.question_of(name, faithful=self.faithful, split="train") for name in self.classes)

    def _test_question(self, class_id: int) -> str:
        return texts.question_of(self.classes[class_id], faithful=self.faithful, split="test")

    def defect(self, class_id: int, image: np.ndarray, rng: np.random.Generator) -> nsa.Defect:
        """By the full NSA synthesis; where no visible defect can be made, the image as it is, without positions."""
        law = nsa.bounds(self.classes[class_id])
        return nsa.add_defects(image, lambda rng: self.foreign(class_id, rng), rng, law, faithful=self.faithful)

    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        """Any image of this split, whatever its class, as published; NSA itself takes the same class."""
        return self._read(self._samples[int(rng.integers(len(self._samples)))][1])

    def _references(self, class_id: int, files: list[Path]) -> list[Path]:
        name, r = self.classes[class_id], self.reference_round
        if len(files) <= REFERENCES:
            raise DataError(f"class {name} has {len(files)} normal training images; it needs {REFERENCES + 1} or more")
        most = len(files) // REFERENCES - 1
        if r is None and self.faithful:
            r = min(self.published_round, most)
        if r is None:
            originals = [path for path in files if not path.name.startswith(DRAWN)]
            # A reference is a photograph, not a picture turned or blurred by the augmentation, where there are enough.
            return super()._references(class_id, originals if len(originals) > REFERENCES else files)
        if r > most:
            raise ValueError(f"reference_round is {r}; class {name} has {len(files)} training images: take 0 to {most}")
        return files[REFERENCES * r : REFERENCES * (r + 1)]

    def _samples_of(self, train: list[list[Path]]) -> list[list[Path]]:
        return train if self.faithful else super()._samples_of(train)

    def normals(self, k: int) -> np.ndarray:
        if (self.reference_round is None and not self.faithful) or not 1 <= k <= REFERENCES:
            return super().normals(k)
        read = self._decode_test if self.faithful else self._read
        return np.array([[read(path) for path in files[:k]] for files in self._reserved])

    def _decode_test(self, path: Path) -> np.ndarray:
        if not self.faithful:
            return self._decode(path)
        return np.array(cropped(read_image(path, self._remedy), self.image_size))

    def _resized(self, image: Image.Image) -> np.ndarray:
        return np.array(cropped(image, self.image_size)) if self.policy == "crop" else super()._resized(image)

    def _mask(self, path: Path) -> np.ndarray:
        """MVTec's masks are squashed even by the published evaluation, which crops the images."""
        grey = read_mask(path, self._remedy).convert("L")
        return (np.asarray(self._square(grey)) > MASK_FROM * 255).astype(np.uint8)

    @property
    def _mask_rule(self) -> str:
        return f"a defect is white, 255 (above {int(MASK_FROM * 255)} at least), not 1: write the mask so, or leave its image out"

    def _square(self, mask: Image.Image) -> Image.Image:
        return mask.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)


def cropped(image: Image.Image, side: int, kind: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The shorter side resized to `side`, then the middle square: the published evaluation's policy."""
    width, height = image.size
    wide, tall = (side * extent // min(width, height) for extent in (width, height))
    left, top = round((wide - side) / 2), round((tall - side) / 2)
    return image.resize((wide, tall), kind).crop((left, top, left + side, top + side))


def read_mask(path: Path, remedy: str) -> Image.Image:
    """The decoded mask file. Raises DataError, ended by `remedy`."""
    try:
        with Image.open(path) as file:
            return file.copy()
    except FileNotFoundError as error:
        raise DataError(f"mask {path} is missing; {remedy}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise DataError(f"mask {path} cannot be read ({error}); {remedy}") from error


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name; hidden ones are none (.DS_Store, ._000.png)."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def nouns(names: Sequence[str]) -> tuple[str, ...]:
    """How a question names each class."""
    return tuple(texts.DESCRIPTIONS[name].noun if name in texts.DESCRIPTIONS else f"a {name}" for name in names)
