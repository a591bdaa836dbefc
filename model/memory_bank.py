"""The memory bank: how far each patch is from every normal patch seen before (PatchCore's idea, Roth et al. 2022).

Frozen features only: no gradient passes. B batch, P patches, V vision width, L taps, N patches in a bank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.decoder import upsample
from model.precision import full


def rotations(images: Tensor) -> Tensor:
    """(K, 3, H, H) -> (4K, 3, H, H): by 0, 90, 180 and 270 degrees."""
    return torch.cat([torch.rot90(images, turns, dims=(2, 3)) for turns in range(4)])


def fill(taps: Sequence[Tensor]) -> Tensor:
    """L taps of (K, P, V), of K normal images -> one class's bank (L, N, V), N = K P, rows of unit length."""
    return torch.stack([F.normalize(full(tap).flatten(0, 1), dim=-1) for tap in taps])


def anomaly_map(taps: Sequence[Tensor], bank: Tensor, size: int) -> Tensor:
    """1 - mean over taps of the largest cosine similarity with the bank, upsampled.

    L taps of (B, P, V), bank (B, L, N, V) of each sample's class -> (B, 1, size, size), fp32. One sample and tap at a
    time: P N values are held, where the published code broadcasts to B P N V and a single product would take L B P N.
    """
    nearest = [_nearest(tap, normal) for tap, normal in zip(taps, bank.unbind(1), strict=True)]  # L of (B, P)
    return 1 - upsample(torch.stack(nearest, 1).mean(1, keepdim=True), size)


def _nearest(tap: Tensor, bank: Tensor) -> Tensor:
    """(B, P, V) against (B, N, V) -> (B, P): each patch's largest cosine similarity."""
    patches = F.normalize(full(tap), dim=-1)
    return torch.stack([(own @ full(normal).mT).amax(-1) for own, normal in zip(patches, bank, strict=True)])
