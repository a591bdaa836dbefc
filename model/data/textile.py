"""`textile`: simulated woven surfaces (Megahed et al. 2025, arXiv 2501.12596). One class, hard."""

from pathlib import Path

import numpy as np
from PIL import Image

from model import assets
from model.data.files import FileDataset, TestFile

TRAIN, IMAGES, SIDE = 800, 1000, 250
DEFECTS = {"local": 500, "global": 500}  # folders, images


class Textile(FileDataset):
    """The 1,000 nominal images: 768 for training, 32 references, 200 for test; grey.

    Defective test images are the 500 with a local and the 500 with a global defect; none has a mask.
    """

    name = "textile"
    asset = "conformal-clip-data"
    classes = ("textile",)
    nouns = ("textile",)
    licence = assets.ASSETS["conformal-clip-data"].licence

    @property
    def _simulated(self) -> Path:
        return self.folder / "conformal_clip_data" / "data" / "textile_images" / "simulated"

    def _normal_files(self, split: str) -> list[list[Path]]:
        numbers = range(1, TRAIN + 1) if split == "train" else range(TRAIN + 1, IMAGES + 1)
        return [[self._simulated / "nominal" / f"textile_{number:04d}.jpg" for number in numbers]]

    def _defective_files(self) -> list[list[TestFile]]:
        return [
            [
                TestFile(self._simulated / kind / f"textile_{number:04d}.jpg", 0, True)
                for kind, images in DEFECTS.items()
                for number in range(1, images + 1)
            ]
        ]

    def foreign(self, class_id: int, rng: np.random.Generator) -> np.ndarray:
        """Another weave, turned by a right angle: with its grain along the image's it would be no defect."""
        image = self._read(self._files[0][int(rng.integers(len(self._files[0])))])
        return np.ascontiguousarray(np.rot90(image, 1 + 2 * int(rng.integers(2))))

    def _resized(self, image: Image.Image) -> np.ndarray:
        return super()._resized(image.crop((0, 0, SIDE - 1, SIDE - 1)))  # the last row and column are a white frame
