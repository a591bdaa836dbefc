"""Small data sets in the published layouts: a dark textured disc on a bright ground, no two images alike."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from model.data.visa import COLUMNS


def picture(number: int, height: int = 120, width: int = 120) -> Image.Image:
    """One image; the number decides all of it."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot((rows - height / 2) / height, (columns - width / 2) / width) < 0.4
    coarse = rng.uniform(20, 130, (8, 8, 3)).astype(np.float32)
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 135)
    image = np.where(disc[..., None], texture, 225 + rng.normal(0, 2, (height, width, 1)))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def mask(value: int = 255, height: int = 120, width: int = 120) -> Image.Image:
    """A defect in the lower right quarter's middle."""
    drawn = np.zeros((height, width), np.uint8)
    drawn[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8] = value
    return Image.fromarray(drawn)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def mvtec(
    folder: Path,
    classes: tuple[str, ...] = ("bottle", "metal_nut"),
    *,
    train: int = 8,
    good: int = 3,
    defects: tuple[str, ...] = ("bent", "scratch"),
    bad: int = 2,
    side: int = 120,
) -> Path:
    for c, name in enumerate(classes):
        at = folder / name
        for n in range(train):
            save(picture(1000 * c + n, side, side), at / "train" / "good" / f"{n:03d}.png")
        for n in range(good):
            save(picture(1000 * c + 100 + n, side, side), at / "test" / "good" / f"{n:03d}.png")
        for d, defect in enumerate(defects):
            for n in range(bad):
                save(picture(1000 * c + 200 + 10 * d + n, side, side), at / "test" / defect / f"{n:03d}.png")
                save(mask(255, side, side), at / "ground_truth" / defect / f"{n:03d}_mask.png")
    (folder / "license.txt").write_text("made up")
    return folder


def visa(folder: Path, classes: tuple[str, ...] = ("candle", "pipe_fryum"), *, train: int = 8) -> Path:
    """Images are 150 wide and 100 high, so that squashing and cropping differ. Rows are not in the order of names."""
    lines = [",".join(COLUMNS)]
    for c, name in enumerate(classes):
        images = folder / name / "Data" / "Images"
        for n in reversed(range(train + 3)):
            path = images / "Normal" / f"{n:04d}.JPG"
            save(picture(1000 * c + n, 100, 150), path)
            split = "train" if n < train else "test"
            lines.append(f"{name},{split},normal,{path.relative_to(folder).as_posix()},")
        for n in range(2):
            path = images / "Anomaly" / f"{n:03d}.JPG"
            shown = folder / name / "Data" / "Masks" / "Anomaly" / f"{n:03d}.png"
            save(picture(1000 * c + 500 + n, 100, 150), path)
            save(mask(n + 1, 100, 150), shown)
            places = (each.relative_to(folder).as_posix() for each in (path, shown))
            lines.append(f"{name},test,anomaly,{','.join(places)}")
    (folder / "split_csv").mkdir(parents=True)
    (folder / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return folder


def aebad(folder: Path, *, train: int = 10) -> Path:
    for d, domain in enumerate(("background", "illumination", "view")):
        for n in range(train):
            save(picture(100 * d + n), folder / "train" / "good" / domain / f"IMG_{n}.png")
    for d, domain in enumerate(("background", "illumination", "same", "view")):
        save(picture(1000 + d), folder / "test" / "good" / domain / "IMG_0.png")
        for k, defect in enumerate(("ablation", "breakdown", "fracture", "groove")):
            for n in range(2):
                name = f"IMG_{n}.png"
                save(picture(2000 + 100 * d + 10 * k + n), folder / "test" / defect / domain / name)
                save(mask(), folder / "ground_truth" / defect / domain / name)
    return folder
