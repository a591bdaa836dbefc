"""The picture of an anomaly map: image, heat map over it with its scale, outline at a threshold."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, SCALE, TEXT = 8, 46, 40  # pixels
HEAT, LINE = 0.5, (255, 40, 40)  # share of the heat map in the middle picture; colour of the outline
SMALLEST = 224  # a smaller picture is enlarged to this side


def overlay(picture: np.ndarray, anomaly_map: np.ndarray, threshold: float, caption: str) -> Image.Image:
    """picture (H, W, 3) uint8, map (H, W): RGB with three panels side by side, a colour scale and the caption below.

    The scale runs from the map's least to its largest score. Raises ValueError for a map that is not finite.
    """
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("the anomaly map is not finite; the weights have diverged")
    side = max(SMALLEST, *picture.shape[:2])
    picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC) if side > picture.shape[0] else picture
    shown = cv2.resize(anomaly_map.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    blended = cv2.addWeighted(_colours((shown - low) / max(high - low, 1e-12)), HEAT, picture, 1 - HEAT, 0)
    sheet = Image.new("RGB", (3 * side + 4 * GAP + SCALE, side + 2 * GAP + TEXT), "white")
    for place, panel in enumerate((picture, blended)):
        sheet.paste(Image.fromarray(panel), (GAP + place * (side + GAP), GAP))
    bar = _colours(np.repeat(np.linspace(1, 0, side)[:, None], 10, axis=1))
    left = 2 * (side + GAP) + GAP
    sheet.paste(Image.fromarray(bar), (left, GAP))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for score, top in ((high, GAP), (low, GAP + side - 13)):
        draw.text((left + 12, top), f"{score:.2f}", fill="black", font=font)
    sheet.paste(Image.fromarray(_outlined(picture, shown >= threshold)), (left + SCALE, GAP))
    draw.text((GAP, side + 2 * GAP), caption, fill="black", font=font)
    return sheet


def _colours(heat: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3) uint8."""
    coloured = cv2.applyColorMap(np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)


def _outlined(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """A line on the first pixels outside, so that all inside stays to be seen; one that fills the picture has none."""
    mask = inside.astype(np.uint8)
    around = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - mask
    drawn = picture.copy()
    drawn[around.astype(bool)] = LINE
    return drawn
