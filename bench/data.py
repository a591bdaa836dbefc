"""`ringzero data`: look at a data set, check its files, and make other data sets of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.config import ConfigError

DESCRIPTION = "Look at a data set, check its files, or make another data set of it."


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Draw the first samples of a data set: image, outlined defect, question and answer."""

    data: tyro.conf.Positional[str] = "textures"
    """Data set, as --data of a run."""
    images: Path | None = None
    """Folder with the data set's files, as --images of a run."""
    output: Path = Path("sheet.png")
    """Where the sheet is written."""
    samples: int = 8
    """How many samples."""
    image_size: int = 224
    """Side of an image in pixels."""
    seed: int = 0
    """Decides crops and defects."""
    split: Literal["train", "test"] = "train"
    """Which images are shown."""
    faithful: bool = False
    """mvtec, visa, aebad: the published synthesis and texts, slips and all."""

    def __call__(self) -> int:
        from model.data import load
        from model.data.preview import contact_sheet

        try:
            dataset = load(
                self.data,
                image_size=self.image_size,
                seed=self.seed,
                split=self.split,
                folder=self.images,
                faithful=self.faithful,
            )
            sheet = contact_sheet(dataset, self.samples)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        sheet.save(self.output)
        print(self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Say file by file what is missing or broken in a data set's folder, and compare its counts with the published."""

    data: tyro.conf.Positional[Literal["mvtec", "visa", "aebad"]]
    """Data set."""
    folder: tyro.conf.Positional[Path]
    """Its folder, as --images of a run."""

    def __call__(self) -> int:
        from model.data.check import Problem, check

        def progress(work: Iterable[list[Problem]], total: int) -> Iterable[list[Problem]]:
            return track(work, f"{total} images", total, console=Console(stderr=True), transient=True)

        found = check(self.data, self.folder, track=progress)
        for problem in found.problems:
            print(f"{problem.path}: {problem.what}")
        table = Table("class", "images", "found", "published")
        for count in found.counts:
            mark = "  differs" if count.differs else ""
            number = "none" if count.published is None else str(count.published)
            table.add_row(count.name, count.part, str(count.found), number + mark)
        Console(highlight=False).print(table)
        differing = sum(count.differs for count in found.counts)
        print("all is well" if found.sound else f"{len(found.problems)} problems, {differing} counts differ")
        return 0 if found.sound else 1


@dataclass(frozen=True, kw_only=True)
class AebadToMvtec:
    """Write AeBAD-S in the layout of MVTec-AD, one class a defect, and say how many test images are trained on."""

    source: tyro.conf.Positional[Path]
    """The folder AeBAD_S, with train, test and ground_truth."""
    target: tyro.conf.Positional[Path]
    """Folder to make."""
    faithful: bool = False
    """As the report did: its test's normal images are copies of training images."""
    seed: int = 0
    """Decides which normal images are for training."""

    def __call__(self) -> int:
        from model.data.restructure import to_mvtec

        done = to_mvtec(self.source, self.target, faithful=self.faithful, seed=self.seed)
        for problem in done.left_out:
            print(f"left out: {problem.path}: {problem.what}")
        table = Table("class", "train good", "test good", "test defective")
        for name, counts in done.counts.items():
            table.add_row(name, *map(str, counts))
        Console(highlight=False).print(table)
        distinct = f" ({done.leaked_distinct} pictures)" if done.leaked else ""
        print(f"leakage: {done.leaked} of {done.test} test images are also training images{distinct}")
        print(f"{self.target}: read it with --data mvtec --images {self.target}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Write MVTec-AD anew with more training images and each test defect twice, as variants V5 and V6 need it."""

    source: tyro.conf.Positional[Path]
    """Folder in MVTec-AD's layout."""
    target: tyro.conf.Positional[Path]
    """Folder to write, new or empty."""
    per_class: int = 1000
    """Training images a class: 1000 for V5, 400 for V6."""
    seed: int = 0
    """Decides what is drawn."""
    faithful: bool = False
    """As the report's code did where it differs from the report."""

    def __call__(self) -> int:
        from model.data.augment import augment

        try:
            done = augment(
                self.source, self.target, per_class=self.per_class, seed=self.seed, faithful=self.faithful, tell=print
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        print(f"{len(done.classes)} classes augmented, {len(done.unchanged)} copied")
        print(f"{self.target}: read it with --data mvtec --images {self.target}")
        return 0


Command = (
    Annotated[Preview, tyro.conf.subcommand("preview")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[AebadToMvtec, tyro.conf.subcommand("aebad-to-mvtec")]
    | Annotated[Augment, tyro.conf.subcommand("augment")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where a check found something wrong."""
    asked: Preview | Check | AebadToMvtec | Augment = tyro.cli(
        Command, args=argv, prog="ringzero data", description=DESCRIPTION
    )
    return asked()
