"""The memory-bank map against loops, and what a bank holds."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from model.decoder import upsample
from model.memory_bank import anomaly_map, fill, rotations


def features(*shape: int, taps: int = 3, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=draw) for _ in range(taps)]


def test_map_equals_the_loops() -> None:
    taps, normal = features(2, 4, 5), features(2, 4, 5, seed=1)  # two queries; two normal images
    bank = fill(normal).expand(2, -1, -1, -1)
    for sample in range(2):
        similarity = torch.zeros(4)
        for patch in range(4):
            nearest = [
                max(cosine_similarity(tap[sample, patch], other, dim=0) for other in stored.reshape(-1, 5))
                for tap, stored in zip(taps, normal, strict=True)
            ]
            similarity[patch] = sum(nearest) / len(nearest)
        expected = 1 - upsample(similarity.view(1, 1, 4), 6)[0]
        torch.testing.assert_close(anomaly_map(taps, bank, 6)[sample], expected)


def test_each_sample_is_held_against_its_own_class() -> None:
    taps = features(2, 4, 5)
    banks = torch.stack([fill(features(1, 4, 5, seed=1)), fill(features(1, 4, 5, seed=2))])
    both = anomaly_map(taps, banks, 4)
    for sample in range(2):
        alone = anomaly_map([tap[sample : sample + 1] for tap in taps], banks[sample : sample + 1], 4)
        torch.testing.assert_close(both[sample : sample + 1], alone)


def test_only_directions_count() -> None:
    taps, bank = features(1, 4, 5), fill(features(1, 4, 5, seed=1))[None]
    scaled = fill([7 * tap for tap in features(1, 4, 5, seed=1)])[None]
    torch.testing.assert_close(anomaly_map([3 * tap for tap in taps], scaled, 4), anomaly_map(taps, bank, 4))


def test_a_known_patch_is_no_anomaly_wherever_it_stands() -> None:
    normal = features(1, 4, 5)
    shuffled = [tap.flip(1) for tap in normal]
    assert anomaly_map(shuffled, fill(normal)[None], 4).abs().max() < 1e-6
    assert anomaly_map([-tap for tap in normal], fill(normal)[None], 4).max() > 0.1


def test_bank_of_k_images_has_the_patches_of_all() -> None:
    bank = fill(features(3, 4, 5))
    assert bank.shape == (3, 12, 5)
    torch.testing.assert_close(bank.norm(dim=-1), torch.ones(3, 12))


def test_rotations_are_the_four_quarter_turns() -> None:
    image = torch.arange(4.0).view(1, 1, 2, 2)
    turned = rotations(image)[:, 0].tolist()
    assert turned == [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
