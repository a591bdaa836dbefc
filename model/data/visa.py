"""`visa`: VisA (Zou et al., ECCV 2022), 12 classes, split as its split_csv/1cls.csv says."""

import csv
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.data import texts
from model.data.files import TestFile
from model.data.published import Published, cropped, nouns, read_mask
from model.data.sample import DataError

SPLIT = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")


class Row(NamedTuple):
    """A line of the split: class folder, train or test, and paths in the data set's folder."""

    name: str
    split: str
    defective: bool
    image: str
    mask: str  # empty for a normal image


class Visa(Published):
    """Published: 8,659 normal training images, 962 normal and 1,200 defective test images."""

    name = "visa"
    classes = tuple(texts.VISA)
    nouns = nouns(classes)
    licence = "VisA: CC BY 4.0 (Zou et al. 2022)"
    published_round = 14
    home = "github.com/amazon-science/spot-diff"
    layout = "split_csv/1cls.csv and CLASS/Data"

    def _look(self) -> None:
        self._folders = tuple(dict.fromkeys(row.name for row in self._rows))
        self.classes = tuple(name.replace("_", " ") for name in self._folders)
        self.nouns = nouns(self.classes)

    @cached_property
    def _rows(self) -> list[Row]:
        if not (self.folder / SPLIT).is_file():
            raise self._not_here(SPLIT.as_posix())
        return read_rows(self.folder)

    def _normal_files(self, split: str) -> list[list[Path]]:
        rows = [row for row in self._rows if row.split == split and not row.defective]
        return [[self.folder / row.image for row in rows if row.name == name] for name in self._folders]

    def _defective_files(self) -> list[list[TestFile]]:
        rows = [row for row in self._rows if row.split == "test" and row.defective]
        return [
            [
                TestFile(self.folder / row.image, class_id, True, self.folder / row.mask)
                for row in rows
                if row.name == name
            ]
            for class_id, name in enumerate(self._folders)
        ]

    def _mask(self, path: Path) -> np.ndarray:
        """Masks hold small numbers of defect kinds: what counts is being none of the background's zeros."""
        kinds = np.asarray(read_mask(path, self._remedy))
        if self.faithful:
            square = np.asarray(cropped(Image.fromarray(kinds), self.image_size, Image.Resampling.BILINEAR))
            return (square > square.max() / 100).astype(np.uint8)
        shown = Image.fromarray((kinds > 0).astype(np.float32))  # whatever its number, a kind's rim is as wide
        return (np.asarray(self._square(shown)) > 1 / 100).astype(np.uint8)

    @property
    def _mask_rule(self) -> str:
        return self._remedy


def read_rows(folder: Path) -> list[Row]:
    """The lines of the split. Raises DataError where the file cannot be read as one."""
    path = folder / SPLIT
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"split {path} cannot be read ({error})") from error
    if not lines or set(COLUMNS) - set(lines[0]):
        raise DataError(f"split {path} must have rows under the columns {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        name, split, label, image, mask = ((line[column] or "").strip() for column in COLUMNS)
        if split not in ("train", "test") or label not in ("normal", "anomaly") or not name or not image:
            raise DataError(f"split {path}, line {number}: {dict(line)} is no train or test row, normal or anomaly")
        if label == "anomaly" and not mask:
            raise DataError(f"split {path}, line {number}: the anomaly {image} has no mask")
        rows.append(Row(name, split, label == "anomaly", image, mask))
    return rows
