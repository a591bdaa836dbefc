"""`aebad`: the single blades of AeBAD (Zhang et al. 2023, arXiv 2304.02216): one class, four defects, shifted domains.

train/good/DOMAIN/*.png, test/{good,DEFECT}/DOMAIN/*.png, ground_truth/DEFECT/DOMAIN/ with the image's own file name.
`ringzero data aebad-to-mvtec` makes four classes of it, one a defect; `mvtec` reads those.
"""

from pathlib import Path

from model.data import texts
from model.data.files import TestFile
from model.data.published import Published, images_in

DEFECTS = ("ablation", "breakdown", "fracture", "groove")
GOOD = "good"
DOMAINS = ("background", "illumination", "same", "view")  # training has no "same"


class Aebad(Published):
    """One class. The normal images of the test split are of other domains than the training images, by design."""

    name = "aebad"
    classes = ("blade",)
    nouns = (texts.BLADES["blade"].noun,)
    licence = "AeBAD: CC BY 4.0 (Zhang et al. 2023)"
    published_round = 3
    home = "github.com/zhangzilongc/MMR"
    layout = "train/good/DOMAIN, test/good/DOMAIN, test/DEFECT/DOMAIN and ground_truth/DEFECT/DOMAIN"

    def _look(self) -> None:
        if not (self.folder / "train" / GOOD).is_dir():
            raise self._not_here("train/good")

    def _normal_files(self, split: str) -> list[list[Path]]:
        return [[path for domain in domains_of(self.folder / split / GOOD) for path in images_in(domain)]]

    def _defective_files(self) -> list[list[TestFile]]:
        return [
            [
                TestFile(path, 0, True, self.folder / "ground_truth" / path.relative_to(self.folder / "test"))
                for defect in DEFECTS
                for domain in domains_of(self.folder / "test" / defect)
                for path in images_in(domain)
            ]
        ]


def domains_of(folder: Path) -> list[Path]:
    """The folders of the domains in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
