"""`mvtec`: MVTec-AD (Bergmann et al., CVPR 2019), and any folder of its layout. Not commercial.

CLASS/train/good/NNN.png, CLASS/test/{good,DEFECT}/NNN.png, CLASS/ground_truth/DEFECT/NNN_mask.png. A folder of other
classes is read the same way: AeBAD-S or VisA restructured, or images of one's own.
"""

from pathlib import Path

from model.data import texts
from model.data.files import TestFile
from model.data.published import Published, images_in, nouns

GOOD = "good"


class Mvtec(Published):
    """The classes that the folder holds; published: 15, with 3,629 training, 467 normal and 1,258 defective images."""

    name = "mvtec"
    classes = tuple(texts.MVTEC)
    nouns = nouns(classes)
    licence = "MVTec-AD: CC BY-NC-SA 4.0, not for commercial use, share alike (Bergmann et al. 2019)"
    published_round = 3
    home = "www.mvtec.com/company/research/datasets/mvtec-ad"
    layout = "CLASS/train/good, CLASS/test/good, CLASS/test/DEFECT and CLASS/ground_truth/DEFECT"

    def _look(self) -> None:
        self._folders = class_folders(self.folder)
        if not self._folders:
            raise self._not_here("*/train/good")
        self.classes = tuple(folder.name.replace("_", " ") for folder in self._folders)
        self.nouns = nouns(self.classes)

    def _normal_files(self, split: str) -> list[list[Path]]:
        return [images_in(folder / split / GOOD) for folder in self._folders]

    def _defective_files(self) -> list[list[TestFile]]:
        return [
            [
                TestFile(path, class_id, True, mask_of(path))
                for defect in defects_of(folder)
                for path in images_in(folder / "test" / defect)
            ]
            for class_id, folder in enumerate(self._folders)
        ]


def class_folders(folder: Path) -> list[Path]:
    """The class folders, by name: those with train/good."""
    return sorted(path.parent.parent for path in folder.glob("*/train/good") if path.is_dir())


def defects_of(folder: Path) -> list[str]:
    """The names of the defects of a class folder."""
    test = folder / "test"
    return sorted(path.name for path in test.iterdir() if path.is_dir() and path.name != GOOD) if test.is_dir() else []


def mask_of(image: Path) -> Path:
    """Where the mask of CLASS/test/DEFECT/X.png lies: X_mask.png, or X.png where only that is there, as VisA's is.

    It may also have the image's own suffix (X.PNG, X_mask.bmp). Where there is none, the first one's path.
    """
    folder = image.parents[2] / "ground_truth" / image.parent.name
    usual = folder / f"{image.stem}_mask.png"
    names = [f"{image.stem}.png", usual.name, f"{image.stem}_mask{image.suffix}", image.name]
    return next((folder / name for name in names if (folder / name).is_file()), usual)
