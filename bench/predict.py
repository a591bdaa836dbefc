"""`ringzero predict`: one picture in, an overlay picture and a sentence out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from bench.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which weights look at the pictures."""

    preset: str | None = None
    """Model size, as --preset of a run; without it the checkpoint's, where it says one, or small."""
    checkpoint: Path | None = None
    """What a run trained (its --export), or a published anomalygpt.pt; without it nothing is trained, and this is said."""
    weights: Path | None = None
    """Folder with published weights for `base` and `7b` (docs/weights.md)."""
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    """As --precision of a run."""
    seed: int = 0
    """Draws what is trained, where no checkpoint gives it."""
    rotations: bool = True
    """Bank each normal image also turned by 90, 180 and 270 degrees, unless the checkpoint was trained without."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show where one picture is defective, and ask the LLM whether it is."""

    image: tyro.conf.Positional[Path]
    """Picture of any size and mode."""
    normal: tuple[Path, ...] = ()
    """Normal pictures of the same thing: the map is then the distance from them (few-shot), not the decoder's."""
    class_name: str = "object"
    """What the picture shows, such as brick: for the text features and the question."""
    question: str | None = None
    """Asked instead of the trained question."""
    threshold: float | None = None
    """Score from which on pixels are outlined; without it one is chosen, and told."""
    output: Path = Path("overlay.png")
    """Where the overlay is written."""
    net: Model = field(default_factory=Model)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 once the overlay is written."""
    asked = tyro.cli(Predict, args=argv, prog="ringzero predict", config=(tyro.conf.OmitArgPrefixes,))
    from bench.overlay import overlay
    from bench.viewer import Viewer

    viewer = Viewer(asked.net, asked.class_name)
    photo = viewer.photo(asked.image)
    references = [viewer.photo(path) for path in asked.normal]
    for path, each in zip((asked.image, *asked.normal), (photo, *references), strict=True):
        if each.converted:
            print(f"{path}: {each.converted}")
    viewer.remember([each.pixels for each in references])
    seen = viewer.see(photo.pixels)
    threshold, why = (asked.threshold, "asked") if asked.threshold is not None else viewer.threshold(seen)
    answer = viewer.ask(seen, asked.question or viewer.question)
    inside = (seen.anomaly_map >= threshold).mean()
    outline = f"outline at {threshold:.3g}, {why}: {inside:.1%} of the picture"
    drawn = overlay(photo.pixels, seen.anomaly_map, threshold, f"{viewer.source}; {outline}")
    try:
        drawn.save(asked.output)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--output {asked.output} can't be written ({error}); name a .png in a folder that exists"
        ) from error
    print(f"map: {viewer.source}, largest score {seen.anomaly_map.max():.3g}; {outline}")
    print(f"answer: {answer.shown}  (Yes minus No: {answer.score:+.2f})")
    print(asked.output)
    return 0
