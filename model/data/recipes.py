"""What the report's Table 2 does to the normal images of each class of MVTec-AD, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

MAX_TRIES = 50  # draws for one image that equals none before it


@dataclass(frozen=True)
class Turn:
    """A turn by a multiple of 90 degrees, clockwise, with probability p."""

    degrees: Literal[90, 180, 270]
    p: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.rot90(image, -self.degrees // 90) if rng.random() < self.p else image


@dataclass(frozen=True)
class Flip:
    """Columns reversed ("horizontal") or rows ("vertical"), with probability p."""

    kind: Literal["horizontal", "vertical"]
    p: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.flip(image, int(self.kind == "horizontal")) if rng.random() < self.p else image


@dataclass(frozen=True)
class Brightness:
    """All values times one factor, with probability p."""

    factors: tuple[float, float] = (0.9, 1.1)
    p: float = 0.7

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.p:
            return image
        return np.clip(np.rint(image * rng.uniform(*self.factors)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Affine:
    """A turn by any angle up to `degrees` either way, and an enlargement, about the middle.

    Where the image ends it goes on mirrored: black corners, as the report's code left them, would make a normal image
    anomalous. Interpolation is linear, so no pixel is darker than all of the image's.
    """

    degrees: float
    scale: tuple[float, float] = (1.0, 1.0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle, scale = rng.uniform(-self.degrees, self.degrees), rng.uniform(*self.scale)
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
        turned = cv2.warpAffine(
            np.ascontiguousarray(image),
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(turned)


Operation = Turn | Flip | Brightness | Affine


@dataclass(frozen=True)
class Recipe:
    """What is done to the images of a class, in this order."""

    operations: tuple[Operation, ...]
    code: tuple[Operation, ...] | None = None  # the report's code, where it differs from the report
    caution: str = ""  # why what comes out may not be normal


_VFLIP = Flip("vertical")
_LATTICE = Recipe((Turn(180, 0.5), Turn(270, 0.5), Flip("vertical", 0.5), Brightness()))
TABLE: dict[str, Recipe] = {
    "bottle": Recipe((Turn(180, 0.8), Turn(90, 0.6), Flip("horizontal", 0.5), _VFLIP)),
    "cable": Recipe(
        (Turn(180, 0.8), Turn(90, 0.6), Flip("horizontal"), Brightness()),
        caution="mirrored wires stand in another order, which is its defect cable_swap",
    ),
    "capsule": Recipe(
        (Turn(270, 0.5), Turn(180, 0.5), Brightness()),
        code=(Turn(270), Turn(180, 0.5), Brightness()),
    ),
    "carpet": _LATTICE,
    "grid": _LATTICE,
    "hazelnut": Recipe((Turn(90, 0.5), Turn(270, 0.5), Flip("horizontal", 0.5), Brightness())),
    "leather": Recipe((Turn(90, 0.5), Turn(180, 0.5), _VFLIP, Brightness())),
    "metal_nut": Recipe(
        (Turn(90, 0.5), Turn(180, 0.5), _VFLIP),
        caution="a mirrored nut is its defect flip",
    ),
    "pill": Recipe((Affine(35, (1.0, 1.2)), Flip("horizontal", 0.6), Flip("vertical", 0.7))),
    "screw": Recipe((Affine(35, (1.2, 1.5)), Flip("horizontal", 0.6), Flip("vertical", 0.6))),
    "tile": Recipe((Affine(35, (1.2, 1.4)),)),
    "toothbrush": Recipe((_VFLIP, Affine(20))),
    "transistor": Recipe(
        (Affine(15), Flip("vertical", 0.6)),
        caution="a transistor that stands otherwise is its defect misplaced, and a flipped one does",
    ),
    "wood": Recipe((Affine(50, (1.5, 1.8)), Flip("vertical", 0.7))),
    "zipper": Recipe(
        (Affine(15, (1.4, 1.6)), Flip("vertical", 0.7)),
        code=(Affine(15, (1.4, 1.6)), _VFLIP),
    ),
}


def variants(
    image: np.ndarray, operations: Sequence[Operation], count: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], int]:
    """`count` drawn forms of an image (H, W, 3), and how many of them equal it or another one after MAX_TRIES draws."""
    seen, made, copies = {_key(image)}, list[np.ndarray](), 0
    for _ in range(count):
        for _ in range(MAX_TRIES):
            drawn = image
            for operation in operations:
                drawn = operation(drawn, rng)
            key = _key(drawn)
            if key not in seen:
                break
        else:
            copies += 1
        seen.add(key)
        made.append(drawn)
    return made, copies


def _key(image: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return image.shape, image.tobytes()
