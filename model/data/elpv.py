"""`elpv`: electroluminescence photographs of real solar cells (Buerhop-Lutz et al., EU PVSEC 2018). Not commercial."""

from pathlib import Path

from model import assets
from model.data.files import FileDataset, TestFile
from model.data.sample import DataError

# The labels name no module, but cell types come in long runs, as if module by module. The test split is two whole runs, one
# a type: cells of one module should not stand in both splits, and sound and defective test cells should come from the same
# modules, else a score could tell modules apart and pass for a detector. No other two runs hold so many of both.
TEST_CELLS = range(361, 901)
TYPES = ("mono", "poly")


class Elpv(FileDataset):
    """Cells whose defect probability is 0: 1,257 for training, 64 references, 187 for test; 300 x 300 grey.

    Defective test images are the 308 cells of the test part whose probability is 1; none has a mask.
    """

    name = "elpv"
    asset = "elpv-dataset"
    classes = ("monocrystalline solar cell", "polycrystalline solar cell")
    nouns = ("a monocrystalline solar cell", "a polycrystalline solar cell")
    licence = assets.ASSETS["elpv-dataset"].licence
    resize = (0.7, 1.3)

    def _normal_files(self, split: str) -> list[list[Path]]:
        return self._cells(split, 0)

    def _defective_files(self) -> list[list[TestFile]]:
        return [
            [TestFile(path, class_id, True) for path in files] for class_id, files in enumerate(self._cells("test", 1))
        ]

    def _cells(self, split: str, wanted: float) -> list[list[Path]]:
        """Cells of one defect probability, by type, in file order."""
        data = self.folder / "elpv_dataset" / "data"
        files: list[list[Path]] = [[] for _ in TYPES]
        for number, line in enumerate(_lines(data / "labels.csv", self._remedy), start=1):
            path, probability, kind = line.split()
            if float(probability) == wanted and (number in TEST_CELLS) == (split == "test"):
                files[TYPES.index(kind)].append(data / path)
        return files


def _lines(path: Path, remedy: str) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise DataError(f"labels {path} cannot be read ({error}); {remedy}") from error
