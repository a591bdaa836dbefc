"""More test images for MVTec-AD: each real defect once more, Poisson-edited onto a normal image (the report's V5 and V6).

Unlike the report's, a defect is first laid on the object, and the new mask is what can be seen of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy import signal

from model.data import nsa, poisson
from model.data.dataset import read_image
from model.data.mvtec import GOOD, defects_of, mask_of
from model.data.published import images_in, read_mask
from model.data.sample import DataError
from model.data.synthesis import visible_change

MATCH_SIDE = 128  # pixels: objects are matched on images of this size, so to within 4 pixels of 1024
TURNS = range(-180, 180, 10)  # degrees, anticlockwise
TURN_COST = 0.02  # share of the object: a turn must overlap by so much more, or the image stays upright
KEPT = 0.9  # share of the mask that must stay inside the image
TRIES = 5  # normal images for one defect
REMEDY = "copy it again from the data set"


class Pasted(NamedTuple):
    """A new test image (H, W, 3) uint8 and its mask (H, W) in {0, 1}."""

    image: np.ndarray
    mask: np.ndarray


def doubled(folder: Path, *, faithful: bool = False) -> Iterator[tuple[Path, Pasted | None]]:
    """Every defective image of a class folder, with its defect on a normal image; both turned by 270 degrees clockwise.

    Defect i goes onto the normal image i of test/good, and starts again where those end; no image of training comes into
    the test. faithful: of train/good, as in the report. Where nothing of a defect would show, the next normal images are
    tried; None where it shows on none of TRIES.

    Raises DataError: a missing, broken or empty image or mask, no normal image, images of different sizes.
    """
    split = "train" if faithful else "test"
    normals = images_in(folder / split / GOOD)
    defects = [path for defect in defects_of(folder) for path in images_in(folder / "test" / defect)]
    if defects and not normals:
        raise DataError(f"{folder / split / GOOD} has no images; defects are pasted onto those")
    for number, path in enumerate(defects):
        image, mask = _read(path), read_defect_mask(path)
        candidates = (normals[(number + step) % len(normals)] for step in range(min(TRIES, len(normals))))
        pasted = (_paste_onto(candidate, path, image, mask, folder.name) for candidate in candidates)
        found = next((each for each in pasted if each), None)
        # By quarter turns, anticlockwise: 90 degrees that way are the report's 270.
        yield path, found and Pasted(np.rot90(found.image), np.rot90(found.mask))


def read_defect_mask(path: Path) -> np.ndarray:
    """The mask of a defective image, (H, W) in {0, 1}. Raises DataError where it is missing, broken, empty or of another size."""
    place = mask_of(path)
    mask = (np.asarray(read_mask(place, REMEDY).convert("L")) > 127).astype(np.uint8)
    if not mask.any():
        raise DataError(f"mask {place} is empty, but {path} shows a defect; {REMEDY}")
    return mask


def _read(path: Path) -> np.ndarray:
    return np.asarray(read_image(path, REMEDY))


def _paste_onto(place: Path, path: Path, image: np.ndarray, mask: np.ndarray, name: str) -> Pasted | None:
    normal = _read(place)
    if not image.shape[:2] == mask.shape == normal.shape[:2]:
        raise DataError(
            f"{path} is {image.shape[:2]}, its mask {mask.shape} and {place} {normal.shape[:2]} (height, width); "
            "a defect can only be pasted onto an image of its size"
        )
    return paste(image, mask, normal, nsa.bounds(name))


def paste(image: np.ndarray, mask: np.ndarray, normal: np.ndarray, law: nsa.Bounds) -> Pasted | None:
    """`normal` with the masked part of `image`, laid where it was on the object; all of one size, uint8.

    The mask is what visibly changed inside the pasted one. None where that is nothing, where the defect would leave the
    image, or where one of the two images shows no object.
    """
    found = placement(image, normal, law)
    if found is None:
        return None
    height, width = mask.shape
    moved = cv2.warpAffine(image, found, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(mask, found, (width, height), flags=cv2.INTER_NEAREST)
    if inside.sum() < KEPT * mask.sum() or inside.all():
        return None
    edited = poisson.edit(moved, normal, inside)
    changed = visible_change(normal, edited) & inside
    return Pasted(edited, changed) if changed.any() else None


def placement(image: np.ndarray, normal: np.ndarray, law: nsa.Bounds) -> np.ndarray | None:
    """(2, 3): the turn and shift that lay the object of `image` on that of `normal`, in pixels; None without an object.

    Objects are told from the background by brightness, and every turn of TURNS is tried with every shift: the largest
    overlap of the two wins. Phase correlation would need images that are alike; these are of different specimens, and
    what is alike is their outline. Classes without a background (textures, and cable and transistor, which always stand
    alike) are left where they are.
    """
    if law.background is None:
        return np.eye(2, 3)
    sides = np.array(normal.shape[:2])
    scale = MATCH_SIDE / sides.max()
    height, width = (int(side) for side in np.maximum(np.rint(scale * sides), 1))
    ours, theirs = (
        cv2.resize(nsa.object_mask(each, law).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        for each in (image, normal)
    )
    if not ours.any() or not theirs.any():
        return None
    best, found = -np.inf, np.eye(2, 3)
    for turn in TURNS:
        turned = cv2.warpAffine(ours, _turn(turn, (height, width)), (width, height), flags=cv2.INTER_LINEAR)
        overlap = signal.correlate(theirs, turned, mode="same", method="fft") / ours.sum()
        row, column = np.unravel_index(np.argmax(overlap), overlap.shape)
        score = overlap[row, column] - (TURN_COST if turn else 0)
        if score > best:
            best, found = score, _turn(turn, normal.shape[:2])
            found[:, 2] += np.array([column - width // 2, row - height // 2]) / scale
    return found


def _turn(degrees: int, sides: tuple[int, ...]) -> np.ndarray:
    """(2, 3): a turn about the middle of an image of these sides."""
    return np.asarray(cv2.getRotationMatrix2D(((sides[1] - 1) / 2, (sides[0] - 1) / 2), degrees, 1.0))
