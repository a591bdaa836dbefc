"""ImageBind's frozen vision and text towers (Girdhar et al. 2023, arXiv 2305.05665), in the form of OpenCLIP's ViT-H/14.

Blocks are CLIP's with exact GELU. B batch, P patches, V and T the widths of vision and text, E of the image embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoder

from model.presets import ModelConfig
from model.text import SentenceTower
from model.tokenizer import text_tokenizer
from model.vision import Seen

EPS = 1e-6
FRAMES = 2  # the stem takes videos; a still image is two equal frames


class Stem(nn.Conv3d):
    """Image to patches: two equal frames under a kernel two frames deep are one frame under the kernel's sum."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(3, width, (FRAMES, patch, patch), stride=(FRAMES, patch, patch), bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, P, V), row by row."""
        return F.conv2d(image, self.weight.sum(2), stride=self.stride[1:]).flatten(2).mT


class VisionEmbeddings(nn.Module):
    """Patches after a class token, each with its position's vector; then a norm, before the blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.grid = config.vision_width, config.vision_grid
        self.stem = Stem(width, config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.grid**2, width))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + P, V)."""
        patches = self.stem(image)
        x = torch.cat([self.class_token.expand(len(image), -1, -1).to(patches.dtype), patches], dim=1)
        normed: Tensor = self.norm(x + self._table(round(patches.shape[1] ** 0.5)))
        return normed

    def _table(self, side: int) -> Tensor:
        """(1, 1 + side^2, V)"""
        if side == self.grid:
            return self.positions
        patches = self.positions[:, 1:].mT.unflatten(2, (self.grid, self.grid))
        resized = F.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], resized.flatten(2).mT], dim=1)


class ImageBindVision(nn.Module):
    """The vision tower, tapped as in AnomalyGPT. Huge: 632,829,440 values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.embeddings = VisionEmbeddings(config)
        sizes = CLIPVisionConfig(
            hidden_size=config.vision_width,
            num_hidden_layers=config.vision_blocks,
            num_attention_heads=config.vision_heads,
            intermediate_size=config.vision_mlp_ratio * config.vision_width,
            hidden_act="gelu",
            layer_norm_eps=EPS,
            attn_implementation="sdpa",
        )
        self.encoder = CLIPEncoder(sizes)
        self.norm = nn.LayerNorm(config.vision_width, eps=EPS)
        self.projection = nn.Linear(config.vision_width, config.embed_width, bias=False)
        _draw(self, config.frozen_std)

    def forward(self, image: Tensor) -> Seen:
        """image (B, 3, H, W), normalised."""
        x = self.embeddings(image)  # (B, 1 + P, V)
        taps = []
        for depth, block in enumerate(self.encoder.layers, start=1):
            x = block(x, None)
            if depth in self.taps:
                taps.append(x[:, 1:])
        return Seen(tuple(taps), F.normalize(self.projection(self.norm(x[:, 0])), dim=-1))


class TextEmbeddings(nn.Module):
    """A vector for each token and one for each position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.text_vocab, config.text_width)
        self.positions = nn.Parameter(torch.empty(1, config.text_positions, config.text_width))

    def forward(self, ids: Tensor) -> Tensor:
        """ids (S, L) -> (S, L, T)."""
        embedded: Tensor = self.tokens(ids)
        return embedded + self.positions[:, : ids.shape[1]]


class ImageBindText(SentenceTower):
    """The text tower: causal, read at the end token. Huge: 354,032,640 values. Its logit scale cancels and is left out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        sizes = CLIPTextConfig(
            hidden_size=config.text_width,
            num_hidden_layers=config.text_blocks,
            num_attention_heads=config.text_heads,
            intermediate_size=config.text_mlp,
            hidden_act="gelu",
            layer_norm_eps=EPS,
            attn_implementation="sdpa",
        )
        self.encoder = CLIPEncoder(sizes)
        self.norm = nn.LayerNorm(config.text_width, eps=EPS)
        self.projection = nn.Linear(config.text_width, config.text_width, bias=False)
        self.tokenizer = text_tokenizer(config)
        self.length, self.start, self.end = config.text_positions, config.text_vocab - 2, config.text_vocab - 1
        _draw(self, config.frozen_std)

    def ids(self, sentences: Sequence[str]) -> Tensor:
        """(S, L): start, tokens, end, zeros up to the number of positions. A sentence too long is cut before its end token."""
        rows = self.tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
        rows = [[self.start, *row[: self.length - 2], self.end] for row in rows]
        return torch.tensor([row + [0] * (self.length - len(row)) for row in rows])

    def forward(self, ids: Tensor) -> Tensor:
        """ids (S, L) of S sentences -> (S, T), unit length."""
        x = self.embeddings(ids)
        future = torch.full((1, 1, *2 * ids.shape[1:]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for block in self.encoder.layers:
            x = block(x, future)
        last = x[torch.arange(len(ids), device=x.device), ids.argmax(1)]  # the end token has the largest id
        return F.normalize(self.projection(self.norm(last)), dim=-1)

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Features (S, T) of sentences, unit length."""
        features: Tensor = self(self.ids(sentences).to(self.norm.weight.device))
        return features


def _draw(tower: nn.Module, std: float) -> None:
    """Random weights: matrices and tables normal, biases zero; norms stay as they are made."""
    for name, parameter in tower.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
