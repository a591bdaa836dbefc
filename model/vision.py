"""The frozen vision tower: patch tokens at four depths and one embedding of the whole image.

B batch, P patches, V vision width, E width of the embedding.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from model import convert
from model.presets import ModelConfig


class Seen(NamedTuple):
    taps: tuple[Tensor, ...]  # four of (B, P, V): residual stream without class token and final norm, row by row
    cls: Tensor  # (B, E), unit length; E is V where the tower has no head


class VisionTower(nn.Module):
    """A pre-norm ViT (DINOv2, Oquab et al. 2023), tapped like ImageBind's trunk in AnomalyGPT (Gu et al. 2024)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.taps = config.taps
        sizes = {
            "hidden_size": config.vision_width,
            "num_hidden_layers": config.vision_blocks,
            "num_attention_heads": config.vision_heads,
            "mlp_ratio": config.vision_mlp_ratio,
            "image_size": config.vision_grid * config.patch_size,
            "patch_size": config.patch_size,
        }
        if config.vision_asset is None:
            self.vit = Dinov2Model(Dinov2Config(**sizes, use_mask_token=False, initializer_range=config.frozen_std))
        else:
            self.vit = convert.load(Dinov2Model, config.vision_asset, sizes)

    def forward(self, image: Tensor) -> Seen:
        """image (B, 3, H, W), normalised."""
        x = self.vit.embeddings(image)  # (B, 1 + P, V)
        taps = []
        for depth, block in enumerate(self.vit.encoder.layer, start=1):
            x = block(x)
            if depth in self.taps:
                taps.append(x[:, 1:])
        return Seen(tuple(taps), F.normalize(self.vit.layernorm(x)[:, 0], dim=-1))
