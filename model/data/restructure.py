"""AeBAD-S in the layout of MVTec-AD: one class a defect (ablation, breakdown, fracture, groove), its domains as defects.

AeBAD-S has one set of normal images, so all four classes have the same ones. What differs is which of them are for test.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.data.aebad import DEFECTS, GOOD, domains_of
from model.data.check import Problem, is_defect
from model.data.dataset import read_image
from model.data.published import images_in, read_mask
from model.data.sample import DataError

TRAIN_SHARE, TEST_SHARE = 0.7, 0.3


@dataclass(frozen=True)
class Restructured:
    """What was written, what was left out, and how far test and training meet."""

    counts: dict[str, tuple[int, int, int]]  # class: train good, test good, test defective
    left_out: tuple[Problem, ...]  # files of the source, and why
    leaked: int  # test images, of all classes, that are also training images
    leaked_distinct: int  # the same, each picture counted once
    test: int  # test images of all classes


def to_mvtec(source: Path, target: Path, *, faithful: bool = False, seed: int = 0) -> Restructured:
    """Write AeBAD-S (`source`) as four classes under `target`, which must not be there yet.

    Of each domain of train/good, int(0.7 n) images drawn by `seed` are for training and the others are the test's normal
    images; pictures that occur twice stay on one side. Images that cannot be read and defective ones without a mask, or
    with an empty one, are left out; JPEG bytes under the name .png are written as PNG.

    faithful: as the report did. The test's normal images are int(0.3 m) of the m training images, copied: every one of
    them is trained on. Files are copied byte by byte, and empty masks stay.

    Blades photographed more than once can still be on both sides: AeBAD-S does not say which image shows which.

    Raises DataError where the source is no AeBAD-S or the target is there already.
    """
    if not domains_of(source / "train" / GOOD):
        raise DataError(
            f"{source} has no train/good/DOMAIN; give the folder AeBAD_S that holds train, test, ground_truth"
        )
    if target.exists():
        raise DataError(f"{target} is there already; give a folder that is not, or delete it first")
    rng = np.random.default_rng(seed)
    left_out: list[Problem] = []
    train, test = _split(source, rng, faithful, left_out)
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)  # of an earlier call that was stopped
    for defect in DEFECTS:
        _write(train, partial / defect / "train" / GOOD, faithful)
        _write(test, partial / defect / "test" / GOOD, faithful)
        for domain in domains_of(source / "test" / defect):
            masks = source / "ground_truth" / defect / domain.name
            pairs = [(path, masks / path.name) for path in images_in(domain)]
            pairs = [pair for pair in pairs if _usable(*pair, source, faithful, left_out)]
            _write([image for image, _ in pairs], partial / defect / "test" / domain.name, faithful)
            _write([mask for _, mask in pairs], partial / defect / "ground_truth" / domain.name, faithful, "_mask")
    done = _measured(partial, tuple(left_out))
    partial.rename(target)
    return done


def _split(
    source: Path, rng: np.random.Generator, faithful: bool, left_out: list[Problem]
) -> tuple[list[Path], list[Path]]:
    """Normal images for training and for test, in the order of their files."""
    train: list[Path] = []
    held: list[Path] = []
    for domain in domains_of(source / "train" / GOOD):
        files = [path for path in images_in(domain) if _readable(path, source, left_out)]
        chosen = {int(place) for place in rng.choice(len(files), int(TRAIN_SHARE * len(files)), replace=False)}
        train += [path for place, path in enumerate(files) if place in chosen]
        held += [path for place, path in enumerate(files) if place not in chosen]
    if faithful:
        again = rng.choice(len(train), int(TEST_SHARE * len(train)), replace=False)
        return train, [train[place] for place in sorted(again)]
    seen = {picture(path) for path in train}
    twice = [path for path in held if picture(path) in seen]
    left_out += [
        Problem(path.relative_to(source).as_posix(), "is also a training image, byte or pixel") for path in twice
    ]
    return train, [path for path in held if path not in twice]


def _readable(path: Path, source: Path, left_out: list[Problem]) -> bool:
    try:
        read_image(path, "left out")
    except DataError as error:
        left_out.append(Problem(path.relative_to(source).as_posix(), str(error)))
        return False
    return True


def _usable(image: Path, mask: Path, source: Path, faithful: bool, left_out: list[Problem]) -> bool:
    if not _readable(image, source, left_out):
        return False
    try:
        empty = not is_defect(read_mask(mask, "left out with its image")).any()
    except DataError as error:
        left_out.append(Problem(image.relative_to(source).as_posix(), str(error)))
        return False
    if empty and not faithful:
        left_out.append(Problem(image.relative_to(source).as_posix(), "its mask is empty"))
    return faithful or not empty


def _write(files: Sequence[Path], folder: Path, faithful: bool, ending: str = "") -> None:
    """Number the files from 000, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):
        copy = folder / f"{number:03d}{ending}.png"
        with Image.open(path) as image:
            if faithful or image.format == "PNG":
                shutil.copyfile(path, copy)
            else:
                image.save(copy)


def _measured(target: Path, left_out: tuple[Problem, ...]) -> Restructured:
    """Count what lies in the target, and compare test and training images by their pixels."""
    counts, trained, tested = {}, set[str](), list[str]()
    for defect in DEFECTS:
        folder = target / defect
        train, good = images_in(folder / "train" / GOOD), images_in(folder / "test" / GOOD)
        bad = [path for domain in domains_of(folder / "test") if domain.name != GOOD for path in images_in(domain)]
        counts[defect] = (len(train), len(good), len(bad))
        trained |= {picture(path) for path in train}
        tested += [picture(path) for path in (*good, *bad)]
    leaked = [each for each in tested if each in trained]
    return Restructured(counts, left_out, len(leaked), len(set(leaked)), len(tested))


def picture(path: Path) -> str:
    """A hash of the decoded pixels: equal for equal pictures, whatever the file."""
    image = read_image(path, "it cannot be compared")
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
