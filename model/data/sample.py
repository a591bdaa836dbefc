"""One training sample, one test image, and the error for images that cannot be used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar, overload

import numpy as np


class DataError(RuntimeError):
    """An image is missing or broken, or no defect could be made; the message names it and says what to type."""


@dataclass(frozen=True)
class Sample:
    """An image with its question and its true answer.

    `few_shot` says which anomaly map feeds the prompt learner: the memory bank's (True) or the text's (False).
    """

    image: np.ndarray  # H W 3 uint8 RGB
    mask: np.ndarray  # H W uint8 in {0, 1}; all zero for a normal image
    class_id: int
    few_shot: bool
    question: str
    answer: str
    index: int = 0  # in its data set: what is drawn for this sample in training, dropout included, depends on it
    pixel: bool = True  # the mask is a target; False for instruction data, which only the LLM learns from


@dataclass(frozen=True)
class TestItem:
    """A test image with what is true of it; it is never trained on."""

    __test__: ClassVar[bool] = False  # pytest collects classes of this name

    image: np.ndarray  # H W 3 uint8 RGB
    mask: np.ndarray | None  # H W uint8 in {0, 1}; None where the data set has no masks
    defective: bool
    class_id: int
    question: str
    name: str  # path in the data set's folder, or number


Entry = TypeVar("Entry")


class TestItems(Sequence[TestItem], Generic[Entry]):
    """Test images that are read when they are asked for. Raises DataError there, naming the broken file."""

    __test__: ClassVar[bool] = False

    def __init__(self, entries: Sequence[Entry], read: Callable[[Entry], TestItem]) -> None:
        self._entries, self._read = entries, read

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> TestItem: ...
    @overload
    def __getitem__(self, index: slice) -> "TestItems[Entry]": ...
    def __getitem__(self, index: int | slice) -> "TestItem | TestItems[Entry]":
        if isinstance(index, slice):
            return TestItems(self._entries[index], self._read)
        return self._read(self._entries[index])


def spread(length: int, k: int) -> list[int]:
    """k places, evenly over a sequence."""
    return [(2 * number + 1) * length // (2 * k) for number in range(k)]


def choose(groups: Sequence[Sequence[Entry]], n: int | None) -> list[Entry]:
    """n entries, as many of each group as of the others while they last, and evenly over each; None means all.

    Raises ValueError where n is not in 1..all.
    """
    total = sum(map(len, groups))
    if n is None:
        return [entry for group in groups for entry in group]
    if not 1 <= n <= total:
        raise ValueError(f"n is {n}; there are {total} test images: take 1 to {total}")
    shares, left = [0] * len(groups), n
    while left:
        for number, group in enumerate(groups):
            if left and shares[number] < len(group):
                shares[number], left = shares[number] + 1, left - 1
    return [group[place] for group, share in zip(groups, shares, strict=True) for place in spread(len(group), share)]
