"""The pixel losses, in the form of AnomalyGPT's code (section 3.3 of arXiv 2308.15366 writes Dice otherwise).

Each is one value an image, so that the mean over micro-batches is the loss of the whole batch. B batch, L taps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CLAMP = 1e-5  # of the one-hot target, and added to the probability of the true class
GAMMA = 2.0
SMOOTH = 1.0


class Losses(NamedTuple):
    """What one micro-batch costs; 0-d, fp32. `total` is the sum of the others, with weights of 1, as published."""

    total: Tensor
    lm: Tensor
    focal: Tensor
    dice: Tensor


def focal_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), gamma 2, both classes weighing 1: (B), sum over taps of the mean over pixels.

    probability (B, L, 2, H, W) is [normal, abnormal], mask (B, H, W) in {0, 1}.
    """
    abnormal = mask.unsqueeze(1) > 0.5  # (B, 1, H, W)
    normal_p, abnormal_p = probability.unbind(2)  # (B, L, H, W)
    true = torch.where(abnormal, abnormal_p, normal_p)
    false = torch.where(abnormal, normal_p, abnormal_p)
    p = (1 - CLAMP) * true + CLAMP * false + CLAMP
    return (-((1 - p) ** GAMMA) * p.log()).mean((2, 3)).sum(1)


def dice_loss(abnormal: Tensor, mask: Tensor) -> Tensor:
    """1 - Dice with linear denominators (Milletari et al. 2016 square them): (B), sum over taps.

    Smoothing by 1 keeps a gradient on images without a defect. abnormal (B, L, H, W), mask (B, H, W) in {0, 1}.
    """
    mask = mask.unsqueeze(1)
    overlap = (abnormal * mask).sum((2, 3))  # (B, L)
    dice = (2 * overlap + SMOOTH) / (abnormal.sum((2, 3)) + mask.sum((2, 3)) + SMOOTH)
    return (1 - dice).sum(1)
