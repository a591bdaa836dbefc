"""What is missing or broken in a folder of `mvtec`, `visa` or `aebad`, file by file, and its counts beside the published."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.data import aebad, mvtec, texts, visa
from model.data.dataset import decoded
from model.data.published import MASK_FROM, SUFFIXES, images_in
from model.data.sample import DataError

PARTS = ("train good", "test good", "test defective")
# Images of each part, by class. MVTec-AD and VisA (its 1cls split) as their authors give them.
MVTEC = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}
VISA = {
    "candle": (900, 100, 100),
    "capsules": (542, 60, 100),
    "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100),
    "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100),
    "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100),
    "pcb4": (904, 101, 100),
    "pipe_fryum": (450, 50, 100),
}
NOT_PUBLISHED = (None, None, None)  # of AeBAD-S and of folders of one's own: nothing to compare with
FORMATS = {".png": {"PNG"}, ".jpg": {"JPEG", "MPO"}, ".jpeg": {"JPEG", "MPO"}, ".bmp": {"BMP"}}
JUNK = {".ds_store", "thumbs.db", "desktop.ini"}  # what desktops leave in folders


@dataclass(frozen=True)
class Problem:
    """A file or folder, as seen from the data set's, and what is wrong with it."""

    path: str
    what: str


@dataclass(frozen=True)
class Count:
    """How many images a class has in one of PARTS, and how many it was published with (None: no such number)."""

    name: str
    part: str
    found: int
    published: int | None

    @property
    def differs(self) -> bool:
        return self.published is not None and self.found != self.published


@dataclass(frozen=True)
class Findings:
    """All that a check found; sound if nothing is wrong."""

    problems: tuple[Problem, ...]
    counts: tuple[Count, ...]

    @property
    def sound(self) -> bool:
        return not self.problems and not any(count.differs for count in self.counts)


@dataclass(frozen=True)
class Listed:
    """An image that the data set reads, and its mask if it must have one."""

    image: Path
    name: str
    part: str
    mask: Path | None = None


Track = Callable[[Iterable[list[Problem]], int], Iterable[list[Problem]]]


def check(name: str, folder: Path, *, track: Track = lambda work, total: work) -> Findings:
    """Decode every image and mask of `folder`. track: wraps the work, of `total` images, for a progress bar.

    Raises ValueError for another data set than the three, DataError where the folder is none or its split unreadable.
    """
    if name not in LISTS:
        raise ValueError(f"{name!r} is not one of the data sets that can be checked: {', '.join(LISTS)}")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds the data set")
    listed, classes, published = LISTS[name](folder)
    problems = [Problem(each, "class is missing") for each in published if each not in classes]
    if not classes:
        problems.append(Problem(".", "no class is here; check which folder was given"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        work = pool.map(lambda each: list(_wrong(each, folder, name)), listed)
        problems += [problem for found in track(work, len(listed)) for problem in found]
    problems += _strays(folder, {path for each in listed for path in (each.image, each.mask) if path})
    tally = Counter((each.name, each.part) for each in listed)
    counts = tuple(
        Count(each, part, tally[each, part], number)
        for each in sorted({*classes, *published})
        for part, number in zip(PARTS, published.get(each, NOT_PUBLISHED), strict=True)
    )
    problems += [Problem(f"{c.name}: {c.part}", "has no image") for c in counts if c.name in classes and not c.found]
    return Findings(tuple(sorted(problems, key=lambda problem: problem.path)), counts)


Numbers = dict[str, tuple[int, int, int]]


def _list_mvtec(folder: Path) -> tuple[list[Listed], list[str], Numbers]:
    listed, classes = [], [path.name for path in mvtec.class_folders(folder)]
    # A folder whose class lost its train/good is still that class's.
    classes += [each for each in MVTEC if each not in classes and (folder / each).is_dir()]
    for name in classes:
        for part, split in zip(PARTS, ("train", "test"), strict=False):
            listed += [Listed(path, name, part) for path in images_in(folder / name / split / mvtec.GOOD)]
        for defect in mvtec.defects_of(folder / name):
            images = images_in(folder / name / "test" / defect)
            listed += [Listed(path, name, PARTS[2], mvtec.mask_of(path)) for path in images]
    known = {name.replace("_", " ") for name in classes} & set(texts.MVTEC)
    return listed, classes, MVTEC if known else {}


def _list_visa(folder: Path) -> tuple[list[Listed], list[str], Numbers]:
    rows = visa.read_rows(folder)
    listed = []
    for row in rows:
        part = PARTS[2] if row.defective else f"{row.split} good"
        listed.append(Listed(folder / row.image, row.name, part, folder / row.mask if row.mask else None))
    return listed, list(dict.fromkeys(row.name for row in rows)), VISA


def _list_aebad(folder: Path) -> tuple[list[Listed], list[str], Numbers]:
    listed = []
    for part, split in zip(PARTS, ("train", "test"), strict=False):
        for domain in aebad.domains_of(folder / split / aebad.GOOD):
            listed += [Listed(path, "blade", part) for path in images_in(domain)]
    for defect in aebad.DEFECTS:
        for domain in aebad.domains_of(folder / "test" / defect):
            for path in images_in(domain):
                mask = folder / "ground_truth" / path.relative_to(folder / "test")
                listed.append(Listed(path, "blade", PARTS[2], mask))
    return listed, ["blade"] if listed else [], {}


LISTS: dict[str, Callable[[Path], tuple[list[Listed], list[str], Numbers]]] = {
    "mvtec": _list_mvtec,
    "visa": _list_visa,
    "aebad": _list_aebad,
}


def _wrong(listed: Listed, folder: Path, name: str) -> Iterator[Problem]:
    """What is wrong with an image and its mask."""
    image, why = _decoded(listed.image, picture=True)
    shown = listed.image.relative_to(folder).as_posix()
    if why:
        yield Problem(shown, why)
    if listed.mask is None:
        return
    place = listed.mask.relative_to(folder).as_posix()
    mask, why = _decoded(listed.mask)
    if mask is None:
        yield Problem(place, why if listed.mask.is_file() else f"mask of {shown} is missing")
        return
    if why:
        yield Problem(place, why)
    if image is not None and mask.size != image.size:
        yield Problem(place, "mask is {} x {} pixels, its image {} x {}".format(*mask.size, *image.size))
    if not is_defect(mask, kinds=name == "visa").any():
        yield Problem(place, f"mask is empty, though {shown} is defective")


def is_defect(mask: Image.Image, *, kinds: bool = False) -> np.ndarray:
    """(H, W) bool: where a mask shows a defect; kinds: it holds numbers of kinds, as VisA's, not black and white."""
    if kinds:
        return np.asarray(mask) > 0
    return np.asarray(mask.convert("L")) > MASK_FROM * 255


def _decoded(path: Path, *, picture: bool = False) -> tuple[Image.Image | None, str]:
    """The decoded image, if it can be, and what is wrong with its file, if anything is; a picture as training reads it."""
    try:
        with Image.open(path) as file:
            kind = str(file.format)
            image = decoded(file)[0] if picture else file.copy()  # either decodes all of it
    except FileNotFoundError:
        return None, "is missing"
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        return None, f"cannot be read ({str(error).replace(str(path), path.name)})"
    if kind not in FORMATS.get(path.suffix.lower(), {kind}):
        return image, f"holds {kind}, not what {path.suffix} says"
    return image, ""


def _strays(folder: Path, read: set[Path]) -> Iterator[Problem]:
    """Files that the data set does not read: a desktop's, images and masks of nothing, others among the images."""
    among = {path.parent for path in read}
    for path in sorted(folder.rglob("*")):
        if path in read or path.is_dir():
            continue
        shown = path.relative_to(folder).as_posix()
        if path.name.lower() in JUNK or path.name.startswith("._"):
            yield Problem(shown, "is no part of the data set: a desktop left it; delete it")
        elif path.suffix.lower() in SUFFIXES:
            yield Problem(shown, "belongs to nothing: no image, mask or line of the split")
        elif path.parent in among:
            yield Problem(shown, "is no image; delete it")
