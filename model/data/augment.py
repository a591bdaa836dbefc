"""The report's offline augmentation of MVTec-AD (Table 2): more normal training images, and each test defect once more.

`ringzero data augment SOURCE TARGET` writes the folder that variants V5 (1000 images a class) and V6 (400) train on.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path

import numpy as np
from PIL import Image

from model.data.dataset import read_image
from model.data.doubled import REMEDY, doubled, read_defect_mask
from model.data.mvtec import GOOD, class_folders, defects_of
from model.data.published import DRAWN, images_in
from model.data.recipes import TABLE, Operation, variants
from model.data.sample import DataError


@dataclass(frozen=True)
class Counts:
    """Images of a class: training ones that were there, are kept and drawn (some of those are copies), then defective ones."""

    originals: int
    kept: int
    drawn: int
    copies: int
    defects: int
    doubled: int


@dataclass(frozen=True)
class Summary:
    """What was written; the classes that Table 2 does not name are as they were."""

    classes: dict[str, Counts]
    unchanged: tuple[str, ...]
    left_out: tuple[Path, ...]  # defective images of which nothing showed on a normal one


def augment(
    source: Path, target: Path, *, per_class: int, seed: int, faithful: bool = False, tell: Callable[[str], None]
) -> Summary:
    """Write `target`, a folder in MVTec-AD's layout, from `source`: `per_class` training images in each class of Table 2.

    The originals are kept under their names and the rest is drawn, evenly over them, by the class's recipe; where there
    are more originals than that, a part of them is. A draw that equals its original or an earlier one is made again. Each
    defect of the test set is added once more (`doubled`), under the next numbers of its folder. Everything else is
    copied. The same seed writes the same images.

    faithful: capsule and zipper as the report's code did, not as the report says, and defects pasted onto training images.
    tell: told a line a class. Raises ValueError for numbers that cannot be; DataError, naming the file, for a source that
    lacks something or has broken images, for a target that holds anything already, and for a disk that is full.
    """
    if per_class < 1 or seed < 0:
        raise ValueError(
            f"per_class is {per_class} and seed {seed}; take at least 1 image a class, and a seed of 0 or more"
        )
    folders = class_folders(source)
    _check(source, target, folders)
    for path in sorted(source.iterdir()):
        if path.is_file():  # its licence and the like
            _write(target / path.name, path.read_bytes())
    classes: dict[str, Counts] = {}
    left_out: list[Path] = []
    for folder in folders:
        into, recipe = target / folder.name, TABLE.get(folder.name)
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            relative = path.relative_to(folder)
            if recipe is None or relative.parts[:2] != ("train", GOOD):
                _write(into / relative, path.read_bytes())
        if recipe is None:
            tell(f"{folder.name}: copied; the report's Table 2 does not name it")
            continue
        operations = recipe.code if faithful and recipe.code else recipe.operations
        originals, kept, drawn, copies = _train(folder, into, operations, per_class, seed)
        defects, missing = _test(folder, into, faithful)
        counts = classes[folder.name] = Counts(originals, kept, drawn, copies, defects, defects - len(missing))
        left_out += missing
        tell(_line(folder.name, counts) + (f"; caution: {recipe.caution}" if drawn and recipe.caution else ""))
        for path in missing:
            tell(f"{folder.name}: left out, nothing of its defect shows on a normal image: {path}")
    return Summary(classes, tuple(f.name for f in folders if f.name not in TABLE), tuple(left_out))


def _check(source: Path, target: Path, folders: Sequence[Path]) -> None:
    """Raise DataError for what would only come up hours later."""
    if not folders:
        raise DataError(f"{source} has no CLASS/train/good; give the folder that holds the classes, as MVTec-AD does")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is there already and not empty; delete it, or give another folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{target} lies inside {source}; give a folder outside of it")
    for folder in folders:
        if folder.name not in TABLE:
            continue
        originals = images_in(folder / "train" / GOOD)
        if not originals:
            raise DataError(f"{folder / 'train' / GOOD} has no images; {REMEDY}")
        for path in originals:
            if path.name.startswith(DRAWN):
                raise DataError(f"{path} is of an earlier augmentation; give the original data set")
        if not defects_of(folder):
            raise DataError(f"{folder / 'test'} has no folder of defects; {REMEDY}")
        for defect in defects_of(folder):
            for path in images_in(folder / "test" / defect):
                read_defect_mask(path)


def _train(
    folder: Path, into: Path, operations: Sequence[Operation], per_class: int, seed: int
) -> tuple[int, int, int, int]:
    """Write the training images of a class; how many originals there are, are kept, are drawn, and are copies."""
    files = images_in(folder / "train" / GOOD)
    key = zlib.crc32(folder.name.encode())  # of the class, whatever others there are
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))
    kept = sorted(files[place] for place in rng.permutation(len(files))[:per_class])
    each, more = divmod(per_class - len(kept), len(kept))
    extra = set(rng.permutation(len(kept))[:more].tolist())

    def make(number: int) -> int:
        """An original, and what is drawn from it."""
        path = kept[number]
        _write(into / "train" / GOOD / path.name, path.read_bytes())
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key, number)))
        image = np.asarray(read_image(path, REMEDY))
        made, copies = variants(image, operations, each + (number in extra), stream)
        for place, drawn in enumerate(made):
            _write(into / "train" / GOOD / f"{DRAWN}{path.stem}_{place}.png", _png(drawn))
        return copies

    with ThreadPoolExecutor(len(sched_getaffinity(0))) as pool:
        copies = sum(pool.map(make, range(len(kept))))
    return len(files), len(kept), per_class - len(kept), copies


def _test(folder: Path, into: Path, faithful: bool) -> tuple[int, list[Path]]:
    """Write each defect once more; how many there are, and those of which nothing shows."""
    missing: list[Path] = []
    defects = 0
    following: dict[str, int] = {}  # by defect: the next free number
    for path, pasted in doubled(folder, faithful=faithful):
        defects += 1
        if pasted is None:
            missing.append(path)
            continue
        defect = path.parent.name
        stems = [each.stem for each in images_in(path.parent)]
        number = following.setdefault(defect, 1 + max((int(stem) for stem in stems if stem.isdecimal()), default=-1))
        following[defect] += 1
        _write(into / "test" / defect / f"{number:03d}.png", _png(pasted.image))
        _write(into / "ground_truth" / defect / f"{number:03d}_mask.png", _png(255 * pasted.mask))
    return defects, missing


def _png(image: np.ndarray) -> bytes:
    """(H, W, 3) or (H, W) uint8 as a file; one channel where all are equal, as MVTec-AD's grey classes have."""
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "png", compress_level=1)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all. Raises DataError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); free some space, or give another folder") from error


def _line(name: str, counts: Counts) -> str:
    copies = f" ({counts.copies} of them copies: the recipe has no more forms)" if counts.copies else ""
    return (
        f"{name}: {counts.kept} of {counts.originals} training images, {counts.drawn} drawn{copies}; "
        f"{counts.defects} defective test images, {counts.doubled} more"
    )
