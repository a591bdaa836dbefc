"""AnomalyGPT (Gu et al. 2024, arXiv 2308.15366): frozen towers and LLM around a trained decoder and prompt learner.

The names of what is trained are those of the published checkpoints. Shapes: B batch, C classes, L taps, P patches,
N patches in a bank, V, D, W the widths of vision, text and LLM, E of the image embedding, T text positions.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model import checkpoints, memory_bank, precision
from model.decoder import ImageDecoder
from model.imagebind import ImageBindText, ImageBindVision
from model.language import LanguageModel
from model.losses import Losses, dice_loss, focal_loss
from model.presets import ModelConfig
from model.prompt_learner import PromptLearner
from model.text import TextTower
from model.vision import VisionTower


class Normals(Protocol):
    """What `prepare` asks of a dataset."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, as the sentences have them; underscores are spaces."""

    def normals(self, k: int) -> np.ndarray:
        """(C, k, H, W, 3) uint8."""


class Looked(NamedTuple):
    """What the model sees before it speaks."""

    token: Tensor  # (B, W): the image as one token of the LLM
    probability: Tensor  # (B, L, 2, H, W), [normal, abnormal] at each tap, from the text
    text_map: Tensor  # (B, 1, H, W): mean over taps of the abnormal channel; the unsupervised map
    bank_map: Tensor  # (B, 1, H, W): distance from the memory bank; the few-shot map


class AnomalyGPT(nn.Module):
    """Images and questions in, losses out. `prepare` once, before an engine takes the model."""

    pixel_mean: Tensor
    pixel_std: Tensor
    text_features: Tensor | None  # (C, 2, D)
    banks: Tensor | None  # (C, L, N, V)

    def __init__(self, config: ModelConfig, *, profile: str, seed: int) -> None:
        super().__init__()
        self.config, self.profile = config, precision.check(profile)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.frozen_seed)
            with checkpoints.skeleton(config):
                self.vision = (ImageBindVision if config.vision_form == "imagebind" else VisionTower)(config)
                self.text = (ImageBindText if config.text_form == "imagebind" else TextTower)(config)
                self.llama_proj = nn.Linear(config.embed_width, config.llm_width)
            self.llm = LanguageModel(config)
            self.requires_grad_(False)
            torch.default_generator.manual_seed(seed)
            size = config.image_size
            self.image_decoder = ImageDecoder(config.vision_width, config.text_width, len(config.taps), size)
            self.prompt_learner = PromptLearner(config.prompt_channels, config.llm_width, size, config.base_tokens)
        self.register_buffer("pixel_mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.image_std).view(3, 1, 1), persistent=False)
        self.register_buffer("text_features", None, persistent=False)
        self.register_buffer("banks", None, persistent=False)

    @torch.no_grad()
    def prepare(self, dataset: Normals) -> None:
        """Text features and memory banks of each class: constants, which the published code redoes in every step.

        Raises ValueError where the normal images have another size than the config's.
        """
        images = torch.from_numpy(dataset.normals(self.config.bank_shots))  # (C, k, H, W, 3)
        size = self.config.image_size
        expected = (len(dataset.classes), self.config.bank_shots, size, size, 3)
        if images.shape != expected or images.dtype != torch.uint8:
            raise ValueError(f"the normal images are {images.dtype} {tuple(images.shape)}, not uint8 {expected}; "
                             f"load the data with image_size={size}")  # fmt: skip
        was_training = self.training
        self.eval()  # the text tower has dropout
        with precision.reduced(self.profile, self.pixel_mean.device):
            text = [self.text.class_features(name) for name in dataset.classes]
            banks = [
                memory_bank.fill(self.vision(self.normal_pixels(shots_of_class)).taps) for shots_of_class in images
            ]
        self.train(was_training)
        self.text_features, self.banks = torch.stack(text), torch.stack(banks)

    def look(self, image: Tensor, text: Tensor, bank: Tensor) -> Looked:
        """What towers, decoder and memory bank make of images.

        image (B, 3, H, W) normalised, text (B, 2, D) and bank (B, L, N, V) of each image's class.
        """
        device = image.device
        with precision.reduced(self.profile, device), torch.no_grad():
            seen = self.vision(image)  # L taps of (B, P, V), cls (B, E)
            token = self.llama_proj(seen.cls)  # (B, W)
        with precision.unreduced(device):
            probability = self.image_decoder(seen.taps, text)  # (B, L, 2, H, W)
            text_map = probability[:, :, 1].mean(1, keepdim=True)
            return Looked(
                token, probability, text_map, memory_bank.anomaly_map(seen.taps, bank, self.config.image_size)
            )

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        """Losses of one micro-batch.

        batch: image (B, 3, H, W) normalised, mask (B, H, W) in {0, 1}, class_id (B), few_shot and pixel (B) bool,
        index (B), ids and labels (B, T). Raises RuntimeError before `prepare`.
        """
        if self.text_features is None or self.banks is None:
            raise RuntimeError("the model has no text features and memory banks yet; call prepare(dataset) first")
        device, classes = batch["image"].device, batch["class_id"]
        looked = self.look(batch["image"], self.text_features[classes], self.banks[classes])
        # Both maps for each sample, whatever the coin: equal cost in every step, equal module calls on every rank.
        anomaly_map = torch.where(batch["few_shot"].view(-1, 1, 1, 1), looked.bank_map, looked.text_map)

        with precision.reduced(self.profile, device):
            prompts = self.prompt_learner(anomaly_map)  # (B, 18, W)
            lm = self.llm(looked.token, prompts, batch["ids"], batch["labels"], batch["index"])  # (B)

        with precision.unreduced(device):
            weight = batch["pixel"].to(lm.dtype)  # instruction data has no mask
            focal = (
                weight * focal_loss(looked.probability, batch["mask"])
            ).mean()  # on the text maps, whatever the coin
            dice = (weight * dice_loss(looked.probability[:, :, 1], batch["mask"])).mean()
            return Losses(lm.mean() + focal + dice, lm.mean(), focal, dice)

    def normal_pixels(self, images: Tensor) -> Tensor:
        """(k, H, W, 3) uint8 of one class -> (k or 4k, 3, H, W), normalised."""
        pixels = (images.to(self.pixel_mean.device).permute(0, 3, 1, 2) / 255 - self.pixel_mean) / self.pixel_std
        return memory_bank.rotations(pixels) if self.config.bank_rotations else pixels
