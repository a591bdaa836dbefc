"""A sheet of samples for people to look at: `python -m model.data.preview textures sheet.png`."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.data import DATASETS, load
from model.data.dataset import Dataset
from model.data.sample import Sample

TEXT_WIDTH, GAP, OUTLINE = 330, 8, (255, 40, 40)


def contact_sheet(dataset: Dataset, n: int) -> Image.Image:
    """The first n >= 1 samples, two a row: image, image with the mask's outline, question and answer. RGB."""
    if n < 1:
        raise ValueError(f"n is {n}; a sheet needs at least one sample")
    side = dataset.image_size
    width, height = 2 * side + TEXT_WIDTH + 3 * GAP, max(side, 150) + GAP
    sheet = Image.new("RGB", (min(n, 2) * width, (n + 1) // 2 * height), "white")
    for number in range(n):
        row, column = divmod(number, 2)
        _draw(sheet, dataset[number], f"{number}: {dataset.name}, {dataset.split}", (column * width, row * height))
    return sheet


def _draw(sheet: Image.Image, sample: Sample, title: str, corner: tuple[int, int]) -> None:
    x, y = corner
    side = sample.image.shape[1]
    sheet.paste(Image.fromarray(sample.image), (x, y))
    sheet.paste(Image.fromarray(_outlined(sample)), (x + side + GAP, y))
    share = f"mask: {sample.mask.mean():.1%} of the image" if sample.mask.any() else "no mask"
    lines = [f"{title}, class {sample.class_id}", share, "", sample.question, "", sample.answer]
    text = "\n".join(textwrap.fill(line, 52) for line in lines)
    ImageDraw.Draw(sheet).text((x + 2 * (side + GAP), y), text, fill="black", font=ImageFont.load_default(12))


def _outlined(sample: Sample) -> np.ndarray:
    """The image with a line on the first pixels outside the mask, so that all inside stays to be seen."""
    around = cv2.dilate(sample.mask, np.ones((3, 3), np.uint8)) - sample.mask
    image = sample.image.copy()
    image[around.astype(bool)] = OUTLINE
    return image


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sheet of a data set to an image file."""
    parser = argparse.ArgumentParser(prog="python -m model.data.preview", description="A sheet of samples to look at.")
    parser.add_argument("dataset", choices=list(DATASETS))
    parser.add_argument("file", type=Path, help="image file to write, such as sheet.png")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="train", choices=("train", "test"))
    options = parser.parse_args(arguments)
    dataset = load(options.dataset, image_size=options.image_size, seed=options.seed, split=options.split)
    contact_sheet(dataset, options.samples).save(options.file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
