"""Instruction data in PandaGPT's layout (Su et al. 2023, arXiv 2305.16355), and its mixture with a data set of defects.

AnomalyGPT trains on both in turn, so that the LLM's prompts do not forget everything but "Yes" and "No".
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from model.data.dataset import Dataset, read_image
from model.data.sample import DataError, Sample, TestItem

IMAGES = "images"
OBJECT = "object"  # the class of all instruction images: what the text tower is told of them
ORDER = 7  # the random stream of the epochs' orders


class Instruction(NamedTuple):
    """The first two turns of a conversation about an image of the folder."""

    image: str
    question: str
    answer: str


class Instructions:
    """Questions and answers about any images, in a new order each epoch. It never ends.

    folder: one JSON file, a list of entries with `image_name` (".jpg" where it has no such end) and `conversation`, a list
    of turns with `from` ("human", then "gpt") and `value`; and the folder `images`. Only the first two turns are used, as
    published. A sample is a pure function of (seed, index).

    Raises DataError, naming file and entry: no or broken JSON, an entry without these turns, a missing or broken image.
    """

    classes = (OBJECT,)

    def __init__(self, folder: Path, image_size: int, seed: int) -> None:
        self.folder, self.image_size, self.seed = folder, image_size, seed
        self.file = _json_file(folder)
        self.entries = _entries(self.file, folder / IMAGES)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` >= 0: no mask is a target of it, and its class is the only one. Raises IndexError, DataError."""
        if index < 0:
            raise IndexError(f"index is {index}; samples are counted from 0")
        epoch, place = divmod(index, len(self.entries))
        number = int(self._order(epoch)[place])
        entry = self.entries[number]
        photo = read_image(self.folder / IMAGES / entry.image, f"it belongs to {self.where(number)}")
        image = np.array(
            photo.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        )  # squashed, as published
        mask = np.zeros(image.shape[:2], np.uint8)
        return Sample(image, mask, 0, False, entry.question, entry.answer, index, pixel=False)

    def where(self, number: int) -> str:
        """Entry `number` in words, for messages."""
        return _where(self.file, number)

    def _shuffled(self, epoch: int) -> np.ndarray:
        seed = np.random.SeedSequence(self.seed, spawn_key=(ORDER, epoch))
        return np.random.default_rng(seed).permutation(len(self.entries))


class Mixed:
    """A data set whose micro-batches take turns: defects, instructions, defects, ..., one of each kind at a time.

    As published, where each kind has half of a step's micro-batches. Index 2k is sample k of the data set, 2k + 1 is
    instruction k. Instructions are of one class more, "object".

    global_batch: samples of one optimizer step; ranks and accumulation: what it is cut into. Raises ValueError where it
    cannot be cut so, or the images differ in size.
    """

    def __init__(
        self, dataset: Dataset, instructions: Instructions, *, global_batch: int, ranks: int, accumulation: int
    ) -> None:
        if accumulation % 2:
            raise ValueError(
                f"accumulation is {accumulation}, but micro-batches of defects and of instructions take turns; "
                f"take an even --accumulation, such as {accumulation + 1}"
            )
        if global_batch % (ranks * accumulation):
            raise ValueError(
                f"a batch of {global_batch} can't be cut into {ranks} ranks x {accumulation} micro-batches"
            )
        if dataset.image_size != instructions.image_size:
            raise ValueError(
                f"images are {dataset.image_size} and {instructions.image_size} pixels wide; take one image_size"
            )
        self.dataset, self.instructions = dataset, instructions
        self._share = global_batch // ranks // 2  # of one kind and rank
        self._half = global_batch // 2
        self._micro_batch = global_batch // (ranks * accumulation)
        self.name, self.image_size, self.seed = dataset.name, dataset.image_size, dataset.seed
        self.licence = f"{dataset.licence}; instruction data: see {instructions.folder}"
        self.classes = (*dataset.classes, OBJECT)
        self.questions = dataset.questions  # those of its defects
        self.pairs = (
            None if dataset.pairs is None else 2 * dataset.pairs
        )  # an epoch has as many samples of the other kind

    def indices(self, step: int, rank: int, micro: int) -> range:
        """The samples of a rank's micro-batch: of one kind, `micro % 2`.

        Together the ranks take the same samples of each kind in a step, however many they are.
        """
        begin = step * self._half + rank * self._share + micro // 2 * self._micro_batch
        return range(2 * begin + micro % 2, 2 * (begin + self._micro_batch), 2)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` >= 0. Raises IndexError, DataError."""
        place, kind = divmod(index, 2)
        if kind:
            return replace(self.instructions[place], class_id=len(self.dataset.classes), index=index)
        return replace(self.dataset[place], index=index)

    def normals(self, k: int) -> np.ndarray:
        """(C + 1, k, H, W, 3) uint8: the data set's, then black images for "object".

        Its memory bank must exist, as every sample looks up one; its map is dropped, as no instruction is few-shot. No
        picture is a normal "object", so none is shown.
        """
        normals = self.dataset.normals(k)
        return np.concatenate([normals, np.zeros_like(normals[:1])])

    def test_items(self, n: int | None) -> Sequence[TestItem]:
        """The data set's: instructions have no test."""
        return self.dataset.test_items(n)


def _json_file(folder: Path) -> Path:
    layout = "instruction data is a folder with one JSON file and the folder images"
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; {layout}")
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} must hold one JSON file, and has {names}; {layout}")
    if not (folder / IMAGES).is_dir():
        raise DataError(f"{folder / IMAGES} is missing; {layout}")
    return found[0]


def _entries(file: Path, images: Path) -> list[Instruction]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise DataError(f"{file} cannot be read ({error}); copy it again") from error
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{file} is not a list of entries, or an empty one; copy it again")
    entries = [_entry(each, _where(file, number)) for number, each in enumerate(raw)]
    listed = set(os.listdir(images))  # one look at the folder; there are 161,151 published entries
    for number, entry in enumerate(entries):
        if entry.image not in listed and not (images / entry.image).is_file():
            raise DataError(f"image {images / entry.image} is missing; it belongs to {_where(file, number)}")
    return entries


def _entry(raw: Any, where: str) -> Instruction:
    name = raw.get("image_name") if isinstance(raw, dict) else None
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} has no image_name")
    turns = raw.get("conversation")
    if not isinstance(turns, list) or len(turns) < 2:
        count = len(turns) if isinstance(turns, list) else 0
        raise DataError(f"{where} ({name}) has {count} turns in its conversation; it needs a human one and a gpt one")
    values: list[str] = []
    for turn, who in zip(turns, ("human", "gpt"), strict=False):
        value = turn.get("value") if isinstance(turn, dict) and turn.get("from") == who else None
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{where} ({name}): turn {len(values)} of its conversation is not from {who!r} with a value"
            )
        values.append(value)
    return Instruction(name if name.endswith(".jpg") else f"{name}.jpg", *values)


def _where(file: Path, number: int) -> str:
    return f"entry {number} of {file}"
