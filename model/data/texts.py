"""Questions and answers: what AnomalyGPT is asked and trained to say (Gu et al., AAAI 2024)."""

from collections.abc import Sequence
from itertools import product

import numpy as np

GRID = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))
POSITIONS = tuple(word for row in GRID for word in row)
MAX_DEFECTS = 2


def question(noun: str) -> str:
    """The question about a normal or defective photo of `noun` ("a solar cell", "gravel")."""
    return (
        f"This is a photo of {noun} for anomaly detection, which should be without any damage, flaw, defect, "
        "scratch, hole or broken part. Is there any anomaly in the image?"
    )


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
    centre = np.array([rows.mean(), columns.mean()]) + 0.5  # pixel i covers [i, i + 1)
    row, column = np.searchsorted([1 / 3, 2 / 3], centre / mask.shape)
    return GRID[row][column]
