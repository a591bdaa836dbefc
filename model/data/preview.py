"""A sheet of samples for people to look at: what `ringzero data preview` draws."""

import textwrap

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
