"""The image decoder (trained): one linear layer a tap puts patches where text features can tell normal from abnormal.

B batch, P patches (h x h), V vision width, D text width, L taps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.precision import full

LOGIT_SCALE = 100.0  # CLIP's largest temperature; the report and the paper leave it out, the published code has it


class ImageDecoder(nn.Module):
    """AnomalyGPT, section 3.2 of arXiv 2308.15366, in the form of its code: upsampling first, softmax after."""

    def __init__(self, vision_width: int, text_width: int, taps: int, image_size: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(vision_width, text_width) for _ in range(taps))
        self.image_size = image_size

    def forward(self, taps: Sequence[Tensor], text: Tensor) -> Tensor:
        """L taps of (B, P, V), text (B, 2, D) of unit length -> probabilities (B, L, 2, H, W), [normal, abnormal]."""
        dtype = next(self.fc.parameters()).dtype  # bf16 where an engine holds the parameters so
        patches = torch.stack([fc(tap.to(dtype)) for fc, tap in zip(self.fc, taps, strict=True)], 1)
        patches = F.normalize(full(patches), dim=-1)  # (B, L, P, D)
        logits = LOGIT_SCALE * patches @ full(text).mT.unsqueeze(1)  # (B, L, P, 2)
        return F.softmax(upsample(logits.mT.flatten(0, 1), self.image_size), dim=1).unflatten(0, logits.shape[:2])


def upsample(patches: Tensor, size: int) -> Tensor:
    """(N, C, P), P patches row by row -> (N, C, size, size), bilinear, corners on corners."""
    side = round(patches.shape[-1] ** 0.5)
    return F.interpolate(patches.unflatten(-1, (side, side)), size=(size, size), mode="bilinear", align_corners=True)
