"""Questions and answers: what AnomalyGPT is asked and trained to say (Gu et al., AAAI 2024)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

GRID = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))
POSITIONS = tuple(word for row in GRID for word in row)
MAX_DEFECTS = 2
ASKED = "Is there any anomaly in the image?"


@dataclass(frozen=True)
class Description:
    """How the questions describe a faultless object of a class."""

    noun: str
    shape: str = "which should be "  # what it should be like, up to "without any damage"
    place: str = ""
    tail: str = ""
    published: tuple[tuple[str, str], ...] = ()  # (ours, theirs): where the published training text was misspelt
    published_test: tuple[tuple[str, str], ...] = ()  # the same for the published test text, where that differs

    def text(self, *, faithful: bool = False, split: str = "train") -> str:
        """The sentence; faithful: with the published slips of this split."""
        text = (
            f"This is a photo of {self.noun} for anomaly detection{self.place}, {self.shape}without any damage, flaw, "
            f"defect, scratch, hole or broken part{self.tail}."
        )
        slips = (self.published_test or self.published) if split == "test" else self.published
        for ours, theirs in slips if faithful else ():
            text = text.replace(ours, theirs)
        return text


CABLE = "they are green, blue and grey, which cannot be missed or swapped and should be "
CAPSULES = "every capsule is green and should be "
SCREW = "whose tail should be sharp, and which should be "

# The classes of MVTec-AD, of VisA, and the blades of AeBAD-S: whole, and by the defect that is looked for.
MVTEC: dict[str, Description] = {
    "bottle": Description("a bottle", "which should be round, "),
    "cable": Description(
        "three cables",
        CABLE,
        published_test=((CABLE, "cables cannot be missed or swapped, which should be "),),
    ),
    "capsule": Description("a capsule", "which should be black and orange, with print '500', "),
    "carpet": Description("carpet"),
    "grid": Description("grid"),
    "hazelnut": Description("a hazelnut"),
    "leather": Description("leather", "which should be brown and "),
    "metal nut": Description("a metal nut", tail=", and shouldn't be flipped", published=(("flipped", "fliped"),)),
    "pill": Description("a pill", "which should be white, with print 'FF' and red patterns, "),
    "screw": Description("a screw", SCREW, published=((SCREW, "which tail should be sharp, and "),)),
    "tile": Description("tile"),
    "toothbrush": Description("a toothbrush"),
    "transistor": Description("a transistor"),
    "wood": Description("wood", "which should be brown with patterns, "),
    "zipper": Description("a zipper"),
}
VISA: dict[str, Description] = {
    "candle": Description("4 candles", "every candle should be round, "),
    "capsules": Description(
        "many small capsules", CAPSULES, published=((CAPSULES, "every capsule is green, should be "),)
    ),
    "cashew": Description("a cashew"),
    "chewinggum": Description("a chewinggum", "which should be white, ", published=(("chewinggum", "chewinggom"),)),
    "fryum": Description("a fryum", place=" on green background"),
    "macaroni1": Description("4 macaronis"),
    "macaroni2": Description("4 macaronis"),
    "pcb1": Description("pcb"),
    "pcb2": Description("pcb"),
    "pcb3": Description("pcb"),
    "pcb4": Description("pcb"),
    "pipe fryum": Description("a pipe fryum"),
}
BLADES: dict[str, Description] = {
    "ablation": Description(
        "a blade", "which should be free of ablation, its surface even and nowhere burnt, melted or worn thin, "
    ),
    "breakdown": Description(
        "a blade", "which should be free of breakdown, its coating closed and nowhere pierced, peeled or flaked off, "
    ),
    "fracture": Description(
        "a blade", "which should be free of fracture, its edges and corners whole and nowhere cracked or broken off, "
    ),
    "groove": Description(
        "a blade", "which should be free of any groove, its faces smooth and nowhere cut, dented or scored, "
    ),
    "blade": Description("a blade", "which should be whole, its surface smooth and its edges complete, "),
}
DESCRIPTIONS = MVTEC | VISA | BLADES
OBJECT = "object"  # the class word where none is known
# The list that the published evaluation looks through, in its order.
PUBLISHED_WORDS = (*MVTEC, OBJECT, "candle", "cashew", "chewinggum", "fryum", "macaroni", "pcb", "pipe fryum")


def question(noun: str) -> str:
    """The question about a normal or defective photo of `noun` ("a solar cell", "gravel")."""
    return f"{Description(noun).text()} {ASKED}"


def question_of(name: str, *, faithful: bool = False, split: str = "train") -> str:
    """The question about a class: its own description where one is known, else a sentence with its name.

    faithful: as published, slips and all; there the test split of cables is asked otherwise than the training split.
    """
    known = DESCRIPTIONS.get(name.replace("_", " "), Description(f"a {name.replace('_', ' ')}"))
    return f"{known.text(faithful=faithful, split=split)} {ASKED}"


def class_word(prompt: str, names: Iterable[str] | None = None, *, faithful: bool = False) -> str:
    """The class that a prompt is about: the longest of `names` (all known) that is in it as words, else "object".

    A plural counts. faithful: the first of the published list that is anywhere in it, so that "capsules" gives
    "capsule", and "pipe fryum" gives "fryum".
    """
    if faithful:
        return next((name for name in PUBLISHED_WORDS if name in prompt), OBJECT)
    words = [*DESCRIPTIONS, *PUBLISHED_WORDS] if names is None else [name.replace("_", " ") for name in names]
    found = [name for name in words if re.search(rf"\b{re.escape(name)}s?\b", prompt, re.IGNORECASE)]
    return max(found, key=len, default=OBJECT)


def answer(positions: Sequence[str]) -> str:
    """The true answer for defects at these places, in this order; none means a normal image.

    Raises ValueError for more than MAX_DEFECTS places.
    """
    if not positions:
        return "No, there is no anomaly in the image."
    if len(positions) == 1:
        return f"Yes, there is an anomaly in the image, at the {positions[0]} of the image."
    if len(positions) > MAX_DEFECTS:
        raise ValueError(f"{len(positions)} defects: answers are written for at most {MAX_DEFECTS}")
    places = " and ".join(dict.fromkeys(positions))  # two in one cell are named once
    return f"Yes, there are {len(positions)} anomalies in the image, they are at the {places} of the image."


def all_answers() -> tuple[str, ...]:
    """Every answer that any sample can have: what a fixed text length is computed from."""
    places = [(), *((word,) for word in POSITIONS), *product(POSITIONS, repeat=MAX_DEFECTS)]
    return tuple(dict.fromkeys(answer(place) for place in places))


def position(mask: np.ndarray) -> str:
    """Where the defect of an (H, W) mask lies: the cell of a 3x3 grid that holds the mask's centroid.

    A centroid on a line between two cells counts as the upper or left one. Raises ValueError for an empty mask.
    """
    rows, columns = np.nonzero(mask)
    if not rows.size:
        raise ValueError("an empty mask has no position")
    height, width = mask.shape
    return cell((rows.mean() + 0.5) / height, (columns.mean() + 0.5) / width)  # pixel i covers [i, i + 1)


def cell(row: float, column: float) -> str:
    """The word for a place, given as fractions of the image's height and width; a line is the upper or left cell's."""
    return GRID[int(np.searchsorted([1 / 3, 2 / 3], row))][int(np.searchsorted([1 / 3, 2 / 3], column))]
