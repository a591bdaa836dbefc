"""A model that pictures from files are shown to, one at a time: what `ringzero predict` and `ringzero chat` see with."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import model
from bench.config import ConfigError
from bench.predict import Model
from model import memory_bank, precision
from model.anomalygpt import AnomalyGPT
from model.assets import AssetError
from model.checkpoints import SET_BY_RUN, load_delta, made_with
from model.data import DataError, question
from model.data.dataset import decoded
from model.evaluate import evaluating, pixels
from model.generate import Answer, Speaker
from model.presets import ModelConfig

LONGEST = 256  # tokens of an answer to somebody's own question: more than to the trained one, which an evaluation asks
RARE = 0.99  # share of a picture's own pixels below the outline, where nothing better is known


class Photo(NamedTuple):
    """(H, W, 3) uint8 of the model's size, and in words what was done to the file for it (None: nothing)."""

    pixels: np.ndarray
    converted: str | None


class Seen(NamedTuple):
    """A picture as the model sees it: its map (H, W) in words, and what the LLM is given."""

    anomaly_map: np.ndarray
    token: Tensor  # (1, W)
    prompts: Tensor  # (1, N, W)


class Viewer:
    """A model that pictures from files can be shown to. Raises ConfigError, AssetError or DataError, naming the field or file."""

    def __init__(self, asked: Model, class_name: str) -> None:
        self.net = built(asked)
        self._speaker = Speaker(self.net)
        with evaluating(self.net), precision.reduced(self.net.profile, self.net.pixel_mean.device):
            self._text = self.net.text.class_features(class_name)[None]
        # A bank of zeros is as far from everything: its map is not looked at before `remember`.
        self._bank = torch.zeros(
            1, len(self.net.config.taps), 1, self.net.config.vision_width, device=self._text.device
        )
        self._references: list[np.ndarray] = []
        self.question = question(class_name)

    @property
    def source(self) -> str:
        """Where the map comes from, in words."""
        count = len(self._references)
        return (
            f"distance from {count} normal picture{'s' * (count > 1)}" if count else "the decoder, text against patches"
        )

    def photo(self, path: Path) -> Photo:
        return read(path, self.net.config.image_size)

    def remember(self, normals: Sequence[np.ndarray]) -> None:
        """Take the distance from these normal pictures (H, W, 3) as the map; none: the decoder's."""
        self._references = list(normals)
        if normals:
            self._bank = self._filled(normals)

    def see(self, picture: np.ndarray) -> Seen:
        """picture (H, W, 3) uint8."""
        return self._see(picture, self._bank)

    def ask(self, seen: Seen, question: str, turns: Sequence[tuple[str, str]] = ()) -> Answer:
        """Greedy answer; `turns` are earlier questions and answers. Raises ValueError where they are too long."""
        text = self._speaker.text(question, turns)
        with evaluating(self.net):
            return self._speaker(seen.token, seen.prompts, [text], max_new=LONGEST)[0]

    def threshold(self, seen: Seen) -> tuple[float, str]:
        """A score to outline from, and why this one."""
        if not self._references:
            return 0.5, "where defective is as likely as normal"
        if len(self._references) == 1:
            return float(np.quantile(seen.anomaly_map, RARE)), "the highest hundredth of this picture"
        largest = [
            self._see(each, self._filled([*self._references[:place], *self._references[place + 1 :]])).anomaly_map.max()
            for place, each in enumerate(self._references)
        ]
        return float(max(largest)), "the largest of each normal picture against the others"

    def _filled(self, normals: Sequence[np.ndarray]) -> Tensor:
        with evaluating(self.net), precision.reduced(self.net.profile, self._text.device):
            images = self.net.normal_pixels(torch.from_numpy(np.stack(normals)))
            return memory_bank.fill(self.net.vision(images).taps)[None]

    def _see(self, picture: np.ndarray, bank: Tensor) -> Seen:
        with evaluating(self.net):
            looked = self.net.look(pixels(self.net, [picture]), self._text, bank)
            anomaly_map = looked.bank_map if self._references else looked.text_map
            with precision.reduced(self.net.profile, self._text.device):
                prompts = self.net.prompt_learner(anomaly_map)
        return Seen(anomaly_map[0, 0].float().cpu().numpy(), looked.token, prompts)


def built(asked: Model) -> AnomalyGPT:
    """The model with its checkpoint, in evaluation mode; what it is and is not is printed."""
    try:
        config = configured(asked)
        net = model.build(config, precision=asked.precision, seed=asked.seed, weights=asked.weights).eval()
    except (AssetError, ConfigError):
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(f"{config.name}: towers {config.towers}")
    if asked.checkpoint is None:
        print("no --checkpoint: decoder and prompt learner are untrained, their map and the answers mean nothing")
    else:
        load_delta(net, asked.checkpoint)
    return net


def configured(asked: Model) -> ModelConfig:
    """The sizes and layers of the checkpoint, where it says them. Raises ConfigError where a flag contradicts it."""
    path, published = asked.checkpoint, asked.weights is not None
    made = {} if path is None else made_with(path)
    preset = asked.preset or made.get("preset", "small")
    if preset != made.get("preset", preset):
        raise ConfigError(f"--preset is {preset}, but {path} was trained as {made['preset']}; leave --preset out")
    if published != made.get("weights", published):
        said = (
            "without published weights; leave --weights out"
            if published
            else "on published weights; add --weights FOLDER"
        )
        raise ConfigError(f"{path} was trained {said}")
    config = replace(model.preset(preset), **{name: made[name] for name in SET_BY_RUN if name in made})
    return replace(config, bank_rotations=asked.rotations and config.bank_rotations)


def read(path: Path, side: int) -> Photo:
    """A picture of any size and mode. Raises DataError, naming the file, where there is none or it is broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                rgb, done = decoded(file)
    except FileNotFoundError as error:
        raise DataError(f"picture {path} is missing; name one that exists") from error
    except IsADirectoryError as error:
        raise DataError(f"picture {path} is a folder; name one picture in it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"picture {path} cannot be read ({error}); name a PNG, JPEG or another file of Pillow's"
        ) from error
    if rgb.size != (side, side):
        done.append(f"{rgb.size[0]} x {rgb.size[1]} pixels squashed to {side} x {side}")
        rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
    return Photo(np.asarray(rgb), ", ".join(done) or None)
