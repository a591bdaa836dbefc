"""The prompt learner (trained): an anomaly map becomes 9 tokens for the LLM, beside 9 free ones.

B batch, W LLM width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PromptLearner(nn.Module):
    """AnomalyGPT, section 3.4 of arXiv 2308.15366. Published at W 4096: 107,416,504 values, 98% in the last kernel."""

    def __init__(self, channels: Sequence[int], width: int, image_size: int, base_tokens: int = 9) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side = image_size // 2 ** len(channels)  # 7 at 224
        layers.append(nn.Conv2d(channels[-1], width, side - 2))  # leaves 3 x 3
        self.meta_net = nn.Sequential(*layers)
        self.base_prompts = nn.Parameter(torch.randn(base_tokens, width))

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """(B, 1, H, H) in [0, 1] -> (B, base_tokens + 9, W)."""
        drawn = self.meta_net(anomaly_map.to(self.base_prompts.dtype))  # (B, W, 3, 3)
        drawn = drawn.flatten(2).mT  # (B, 9, W)
        return torch.cat([self.base_prompts.to(drawn.dtype).expand(len(drawn), -1, -1), drawn], dim=1)
