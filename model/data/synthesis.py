"""Synthetic defects: foreign patches blended into a normal image, after Natural Synthetic Anomalies (NSA).

Schlüter et al., ECCV 2022, section 3: patch sizes from a Gamma law, rescaled, Poisson-blended (Pérez et al. 2003).
Unlike there, the mask is what visibly changed, and a defect that nobody would see is drawn again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import cv2
import numpy as np

from model.data import texts
from model.data.sample import DataError

VISIBLE = 8  # grey levels of 255: smaller changes do not show
MIN_VISIBLE_PIXELS = 1 / 256  # of the image: one patch of the vision trunk's 16 x 16
MIN_VISIBLE_SHARE = 0.5  # of the patch
MEDIAN = 5  # pixels: a lone changed one is no defect, a lone equal one no hole
HALF_EXTENT = (0.03, 0.4)  # least and most half side of a patch, fraction of the image side (NSA)
MIN_SIDE = 4  # pixels
RIM = 4  # pixels round a patch that carry no source: one stays as it is, in three OpenCV keeps the target's gradients
SECOND_PATCH = 0.5  # probability
MAX_TRIES = 100
TRIES_PER_SOURCE = 10  # reading an image costs more than blending a patch of it


@dataclass(frozen=True)
class Box:
    """Pixels [top, bottom) x [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def near(self, other: "Box") -> bool:
        """True if fewer than MEDIAN pixels lie between the two: the filter would mix them."""
        return (
            self.top < other.bottom + MEDIAN
            and other.top < self.bottom + MEDIAN
            and self.left < other.right + MEDIAN
            and other.left < self.right + MEDIAN
        )


class Blended(Protocol):
    """What a sample is made of."""

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""

    @property
    def mask(self) -> np.ndarray:
        """(H, W) uint8 in {0, 1}: where the defects are."""

    @property
    def positions(self) -> tuple[str, ...]:
        """The place of each defect in words; none means a normal image."""


@dataclass(frozen=True)
class Defect:
    """A defective image (H, W, 3), its (H, W) mask in {0, 1}, and the pasted boxes, one a defect."""

    image: np.ndarray
    mask: np.ndarray
    boxes: tuple[Box, ...]

    @property
    def positions(self) -> tuple[str, ...]:
        """The place of each defect in words, from what is visible of it."""
        return tuple(texts.position(self._only(box)) for box in self.boxes)

    def _only(self, box: Box) -> np.ndarray:
        alone = np.zeros_like(self.mask)
        alone[box.pixels] = self.mask[box.pixels]
        return alone


Source = Callable[[np.random.Generator], np.ndarray]  # draws a foreign image, (H, W, 3) uint8, of the target's size


def add_defects(
    normal: np.ndarray, source: Source, rng: np.random.Generator, *, resize: tuple[float, float] = (0.5, 2.0)
) -> Defect:
    """`normal` (H, W, 3, uint8, left as it is) with one foreign patch, or two where room is; chance comes from `rng`.

    resize: least and most factor by which a patch is scaled. Raises DataError if no visible defect comes about.
    """
    second = rng.random() < SECOND_PATCH
    image, box = _add_one(normal, None, source, rng, resize) or _none_visible(normal)
    boxes = [box]
    if second and (added := _add_one(image, box, source, rng, resize)):
        image = added[0]
        boxes.append(added[1])
    return Defect(image, visible_change(normal, image), tuple(boxes))


def _none_visible(image: np.ndarray) -> NoReturn:
    raise DataError(
        f"no visible defect in {MAX_TRIES} tries on an image of {image.shape[1]} x {image.shape[0]} pixels: normal and "
        "foreign images are too alike or flat; check the images, or take another --dataset"
    )


def _add_one(
    image: np.ndarray, taken: Box | None, source: Source, rng: np.random.Generator, resize: tuple[float, float]
) -> tuple[np.ndarray, Box] | None:
    """The image with one more visible defect away from `taken`, and its box; None if no try made one."""
    height, width = image.shape[:2]
    for attempt in range(MAX_TRIES):
        if attempt % TRIES_PER_SOURCE == 0:
            foreign = source(rng)
        patch = _draw_patch(foreign, rng, resize)
        rows, columns = patch.shape[:2]
        top, left = (int(rng.integers(room + 1)) for room in (height - rows, width - columns))
        box = Box(top, left, top + rows, left + columns)
        if taken and box.near(taken):
            continue
        blended = blend(image, patch, box)
        share = MIN_VISIBLE_SHARE * (rows - 2 * RIM) * (columns - 2 * RIM)
        if visible_change(image, blended).sum() >= max(share, MIN_VISIBLE_PIXELS * height * width):
            return blended, box
    return None


def _draw_patch(source: np.ndarray, rng: np.random.Generator, resize: tuple[float, float]) -> np.ndarray:
    """A rescaled rectangle of the source, with sides as NSA draws them, and RIM pixels more all round."""
    sides = np.array(source.shape[:2])
    low, high = HALF_EXTENT
    half = np.clip((low + rng.gamma(2.0, 0.05, size=2)) * sides, np.maximum(low * sides, MIN_SIDE / 2), high * sides)
    half = half.astype(int)
    centre = rng.integers(half, sides - half + 1)
    patch = source[centre[0] - half[0] : centre[0] + half[0], centre[1] - half[1] : centre[1] + half[1]]
    scale = np.clip(rng.normal(1.0, 0.5), *resize)
    # As in NSA, the bounds of the half sides bound the whole sides after scaling.
    height, width = np.clip(scale * 2 * half, np.maximum(low * sides, MIN_SIDE), high * sides).astype(int)
    kind = cv2.INTER_AREA if height * width < patch.shape[0] * patch.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(patch, (int(width) + 2 * RIM, int(height) + 2 * RIM), interpolation=kind)


def blend(image: np.ndarray, patch: np.ndarray, box: Box) -> np.ndarray:
    """A copy of the image with the patch (h, w, 3) Poisson-blended into the box of its size.

    Raises DataError if anything outside the box changed, which an OpenCV that counts centres otherwise would do.
    """
    cv2.setNumThreads(1)  # several ranks share the cores
    rows, columns = patch.shape[:2]
    shape = np.zeros((rows, columns), np.uint8)
    shape[1:-1, 1:-1] = 255
    # seamlessClone puts the centre of the shape's bounding box, border excluded, at this (x, y).
    centre = (box.left + 1 + (columns - 2) // 2, box.top + 1 + (rows - 2) // 2)
    blended = cv2.seamlessClone(patch, image, shape.copy(), centre, cv2.NORMAL_CLONE)  # it overwrites the mask given
    outside = cv2.absdiff(image, blended)
    outside[box.pixels] = 0
    if outside.any():
        raise DataError(
            f"cv2.seamlessClone of OpenCV {cv2.__version__} changed pixels outside the pasted box, so "
            "masks would be wrong; type `pip install opencv-python-headless==5.0.0.93`"
        )
    return blended


def visible_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W) uint8 in {0, 1}: where two (H, W, 3) images visibly differ.

    The largest channel's difference, median filtered as NSA filters its labels, is over VISIBLE grey levels.
    """
    change = cv2.absdiff(before, after)
    change = cv2.max(cv2.max(change[..., 0], change[..., 1]), change[..., 2])
    return (cv2.medianBlur(change, MEDIAN) > VISIBLE).astype(np.uint8)
