"""The full defect synthesis of AnomalyGPT, after Natural Synthetic Anomalies (NSA; Schlüter et al., ECCV 2022, section 3).

A patch of another image is cut from the object, rescaled, and Poisson-blended onto the object; the label is a logistic
function of the change. Every class has its own bounds. `synthesis` is the short form, for images without such numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import disk

from model.data import texts
from model.data.synthesis import Box, Source, blend, visible_change

PATCHES = 2  # the second with probability 1/2
SECOND_PATCH = 0.5
TRIES = 200  # to find a place for a patch on the object
GAMMA = (2.0, 0.05, 0.03)  # shape, scale and offset of a half side, fraction of the image side
MIN_OVERLAP = 0.25  # of the patch's object with the image's
MIN_PIXELS = 50 / 224**2  # of the image: in the cloning mask, and visibly changed
TOLERANCE = 1  # grey levels: what counts as changed at all
SMOOTHING = 5  # pixels: radius of the median filter over the change
LABEL_FROM = 0.3  # of the logistic label: "visibly anomalous"
SOURCES, PATCHES_PER_SOURCE = 10, 10  # tries for a visible patch


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How the patches and the label of a class are drawn. Half sides are fractions of the image's side."""

    rows: tuple[float, float] = (0.03, 0.4)  # least and most half height; of the whole height once rescaled
    columns: tuple[float, float] = (0.03, 0.4)
    slope: float = 1 / 12  # k of the logistic label, per grey level
    middle: float = 24  # x0: the change at which it is 1/2, grey levels
    background: tuple[int, int] | None = None  # (brightness, threshold): pixels further from it are the object
    resize: tuple[float, float] = (0.7, 1.3)  # least and most scaling


LIGHT, DARK = (200, 60), (20, 20)
FREE = (0.5, 2.0)  # resize of textures, which need not fit an object

VISA = Bounds(resize=FREE)  # every class; also where a class is not known
BLADE = Bounds(background=LIGHT)
TEXTURE = Bounds(slope=1 / 3, middle=7, resize=FREE)
CLASSES: dict[str, Bounds] = {
    "bottle": Bounds(background=LIGHT),
    "cable": Bounds(rows=(0.05, 0.4), columns=(0.05, 0.4)),
    "capsule": Bounds(rows=(0.03, 0.15), slope=1 / 2, middle=4, background=LIGHT),
    "carpet": TEXTURE,
    "grid": TEXTURE,
    "hazelnut": Bounds(rows=(0.03, 0.35), columns=(0.03, 0.35), background=DARK),
    "leather": TEXTURE,
    "metal nut": Bounds(slope=1 / 3, middle=7, background=DARK),
    "pill": Bounds(rows=(0.03, 0.2), slope=1 / 3, middle=7, background=DARK),
    "screw": Bounds(rows=(0.03, 0.12), columns=(0.03, 0.12), slope=1, middle=3, background=LIGHT),
    "tile": TEXTURE,
    "toothbrush": Bounds(columns=(0.03, 0.2), slope=1 / 6, middle=15, background=DARK),
    "transistor": Bounds(slope=1 / 6, middle=15),
    "wood": Bounds(slope=1 / 6, middle=15, resize=FREE),
    "zipper": Bounds(columns=(0.03, 0.2), slope=1 / 6, middle=15, background=LIGHT),
    **dict.fromkeys(texts.BLADES, BLADE),
}


def bounds(name: str) -> Bounds:
    """The numbers of a class, by its name with or without underscores."""
    return CLASSES.get(name.replace("_", " "), VISA)


@dataclass(frozen=True)
class Defect:
    """An image (H, W, 3) with its (H, W) mask in {0, 1} and the place of each defect; none where none could be made."""

    image: np.ndarray
    mask: np.ndarray
    positions: tuple[str, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Patch:
    """A blended patch: the image with it, the box, and the (H, W) label in [0, 1], 0 outside the box."""

    image: np.ndarray
    box: Box
    label: np.ndarray


def add_defects(
    normal: np.ndarray, source: Source, rng: np.random.Generator, law: Bounds, *, faithful: bool = False
) -> Defect:
    """`normal` (H, W, 3, uint8, left as it is) with one patch, or two where room is; chance comes from `rng`.

    A patch that nobody can see is drawn again, up to SOURCES x PATCHES_PER_SOURCE times; the second one lies apart from
    the first. Where none comes about, the image is unchanged, the mask empty and the true answer "No".

    faithful: as published. One draw a patch, whether or not it is seen; the second may cover the first, its label
    replaces what is there, and its place is told as the centre of both boxes together.
    """
    make = _published if faithful else _visible
    return make(normal, source, rng, law)


def _visible(normal: np.ndarray, source: Source, rng: np.random.Generator, law: Bounds) -> Defect:
    patches: list[Patch] = []
    image, mask = normal, np.zeros(normal.shape[:2], np.uint8)
    for number in range(PATCHES):
        if number and not (patches and rng.random() < SECOND_PATCH):
            break
        patch = _seen(image, source, rng, law, [patch.box for patch in patches])
        if patch:
            patches.append(patch)
            image, mask = patch.image, mask | binary(patch.label)
    positions = tuple(texts.position(binary(patch.label)) for patch in patches)
    return Defect(image, mask, positions, tuple(patch.box for patch in patches))


def _seen(image: np.ndarray, source: Source, rng: np.random.Generator, law: Bounds, taken: list[Box]) -> Patch | None:
    """A patch whose label people can see, away from those that are there; None if no try made one."""
    for _ in range(SOURCES):
        foreign = source(rng)
        for _ in range(PATCHES_PER_SOURCE):
            patch = paste(image, foreign, rng, law, lambda box: not any(box.near(other) for other in taken))
            if patch and (binary(patch.label) & visible_change(image, patch.image)).mean() >= MIN_PIXELS:
                return patch
    return None


def _published(normal: np.ndarray, source: Source, rng: np.random.Generator, law: Bounds) -> Defect:
    image, label = normal, np.zeros(normal.shape[:2])
    boxes: list[Box] = []
    positions: list[str] = []
    foreign = source(rng)
    for number in range(PATCHES):
        if number and rng.random() >= SECOND_PATCH:
            continue
        patch = paste(image, foreign, rng, law)
        if patch is None:
            continue
        image = patch.image
        label[patch.box.pixels] = patch.label[patch.box.pixels]
        boxes.append(patch.box)
        rows = (min(box.top for box in boxes), max(box.bottom for box in boxes))
        columns = (min(box.left for box in boxes), max(box.right for box in boxes))
        height, width = normal.shape[:2]
        positions.append(texts.cell(sum(rows) / 2 / height, sum(columns) / 2 / width))
    return Defect(image, binary(label), tuple(positions), tuple(boxes))


def paste(
    image: np.ndarray,
    source: np.ndarray,
    rng: np.random.Generator,
    law: Bounds,
    free: Callable[[Box], bool] = lambda _: True,
) -> Patch | None:
    """One patch of `source` blended onto `image`, both (H, W, 3) uint8 of one size, in a box that is `free`.

    None where no patch or place met the bounds in TRIES draws.
    """
    objects = (None, None) if law.background is None else (object_mask(source, law), object_mask(image, law))
    cut = _cut(source, objects[0], rng, law)
    if cut is None:
        return None
    patch, patch_object = cut
    found = _place(patch.shape[:2], patch_object, objects[1], image.shape[:2], rng, free)
    if found is None or (patch.shape[0] - 2) * (patch.shape[1] - 2) < MIN_PIXELS * image.shape[0] * image.shape[1]:
        return None
    try:
        blended = blend(image, patch, found)
    except cv2.error:  # it refuses some shapes
        return None
    inside = np.ones(patch.shape[:2], bool)
    if patch_object is not None and objects[1] is not None:
        inside = patch_object | objects[1][found.pixels]  # what is background in both is cloned, but no defect
    return Patch(blended, found, intensity_label(image, blended, found, inside, law))


def object_mask(image: np.ndarray, law: Bounds) -> np.ndarray:
    """(H, W) bool: where the mean of the channels is far from the background's brightness. Needs `law.background`."""
    if law.background is None:
        raise ValueError("these bounds have no background: all of the image is the object")
    brightness, threshold = law.background
    far = np.abs(image.mean(axis=2) - brightness) > threshold
    return cv2.medianBlur(far.astype(np.uint8), 7).astype(bool)


def _cut(
    source: np.ndarray, shown: np.ndarray | None, rng: np.random.Generator, law: Bounds
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """A rescaled rectangle of the source that holds some of its object, and where that is in it."""
    sides = np.array(source.shape[:2])
    low, high = np.array([law.rows, law.columns]).T
    shape, scale, offset = GAMMA
    half = np.clip((offset + rng.gamma(shape, scale, size=2)) * sides, low * sides, high * sides).astype(int)
    margin = (low * sides).astype(int)
    for _ in range(TRIES):
        centre = rng.integers(margin, sides - margin)
        begin, end = np.maximum(centre - half, 0), np.minimum(centre + half, sides)
        pixels = slice(begin[0], end[0]), slice(begin[1], end[1])
        if shown is None or shown[pixels].any():
            break
    else:
        return None
    height, width = _rescaled(
        (int(end[0] - begin[0]), int(end[1] - begin[1])), rng, law, (int(sides[0]), int(sides[1]))
    )
    patch = cv2.resize(source[pixels], (width, height))
    if shown is None:
        return patch, None
    return patch, cv2.resize(shown[pixels].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _rescaled(size: tuple[int, int], rng: np.random.Generator, law: Bounds, sides: tuple[int, int]) -> tuple[int, int]:
    """New height and width of a patch. As in NSA, the bounds of half sides bound the whole sides here."""
    height, width = size
    rows, columns = (
        (low * side, high * side) for (low, high), side in zip((law.rows, law.columns), sides, strict=True)
    )
    tall = np.clip(np.clip(rng.normal(1.0, 0.5), *law.resize) * height, *rows)
    wide = int(np.clip(tall * width / height, *columns))
    return int(np.clip(wide * height / width, *rows)), wide


def _place(
    size: tuple[int, int],
    patch_object: np.ndarray | None,
    shown: np.ndarray | None,
    sides: tuple[int, int],
    rng: np.random.Generator,
    free: Callable[[Box], bool],
) -> Box | None:
    """A box of that size in the image, where the patch's object lies on the image's."""
    if patch_object is not None and not patch_object.any():
        return None
    for _ in range(TRIES):
        top, left = (int(rng.integers(side - extent + 1)) for side, extent in zip(sides, size, strict=True))
        box = Box(top, left, top + size[0], left + size[1])
        if not free(box):
            continue
        if patch_object is None or shown is None:
            return box
        if (patch_object & shown[box.pixels]).sum() > MIN_OVERLAP * patch_object.sum():
            return box
    return None


def intensity_label(before: np.ndarray, after: np.ndarray, box: Box, inside: np.ndarray, law: Bounds) -> np.ndarray:
    """(H, W) in [0, 1]: a logistic function of the smoothed change between two (H, W, 3) images, within the box.

    inside (h, w) bool: the box's pixels that count.
    """
    height, width = before.shape[:2]
    margin = 2 * SMOOTHING  # beyond it nothing reaches the box
    around = (
        slice(max(box.top - margin, 0), min(box.bottom + margin, height)),
        slice(max(box.left - margin, 0), min(box.right + margin, width)),
    )
    change = np.zeros((height, width), np.float32)
    change[box.pixels] = cv2.absdiff(before[box.pixels], after[box.pixels]).mean(axis=2) * inside
    near = change[around]
    changed = cv2.medianBlur((near > TOLERANCE).astype(np.uint8), 5)
    smooth = ndimage.median_filter(near, footprint=disk(SMOOTHING), mode="nearest")
    change[around] = changed / (1 + np.exp(-law.slope * (smooth - law.middle)))
    label = np.zeros((height, width))
    label[box.pixels] = change[box.pixels]
    return label


def binary(label: np.ndarray) -> np.ndarray:
    """The mask (H, W) in {0, 1} that the losses see: where the label is over LABEL_FROM."""
    return (label > LABEL_FROM).astype(np.uint8)
