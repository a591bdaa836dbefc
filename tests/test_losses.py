"""Focal and Dice against loops in NumPy, and the properties that choosing this form is for."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses import dice_loss, focal_loss


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    """Probabilities (3, 2, 2, 4, 5) of 3 images and 2 taps, and masks (3, 4, 5), the first of a normal image."""
    draw = torch.Generator().manual_seed(0)
    probability = torch.randn(3, 2, 2, 4, 5, generator=draw, dtype=torch.float64).softmax(2)
    mask = (torch.rand(3, 4, 5, generator=draw) > 0.6).double()
    mask[0] = 0
    return probability, mask


def test_focal_equals_the_published_loops(maps: tuple[Tensor, Tensor]) -> None:
    probability, mask = (value.numpy() for value in maps)
    images, taps, _, rows, columns = probability.shape
    expected = 0.0
    for tap in range(taps):
        pixels = []
        for image, row, column in np.ndindex(images, rows, columns):
            target = [1 - 1e-5, 1e-5] if mask[image, row, column] == 0 else [1e-5, 1 - 1e-5]
            p = sum(t * probability[image, tap, k, row, column] for k, t in enumerate(target)) + 1e-5
            pixels.append(-((1 - p) ** 2) * math.log(p))
        expected += sum(pixels) / len(pixels)
    assert focal_loss(*maps).mean().item() == pytest.approx(expected, rel=1e-12)


def test_dice_equals_the_published_loops(maps: tuple[Tensor, Tensor]) -> None:
    probability, mask = (value.numpy() for value in maps)
    images, taps, _, rows, columns = probability.shape
    expected = 0.0
    for tap in range(taps):
        scores = []
        for image in range(images):
            overlap = total = 0.0
            for row, column in np.ndindex(rows, columns):
                p, g = probability[image, tap, 1, row, column], mask[image, row, column]
                overlap, total = overlap + p * g, total + p + g
            scores.append((2 * overlap + 1) / (total + 1))
        expected += 1 - sum(scores) / len(scores)
    assert dice_loss(maps[0][:, :, 1], maps[1]).mean().item() == pytest.approx(expected, rel=1e-12)


def test_both_are_means_over_images_and_sums_over_taps(maps: tuple[Tensor, Tensor]) -> None:
    probability, mask = maps
    abnormal = probability[:, :, 1]
    one_image = [focal_loss(probability[i : i + 1], mask[i : i + 1]) for i in range(3)]
    one_tap = [focal_loss(probability[:, tap : tap + 1], mask) for tap in range(2)]
    torch.testing.assert_close(torch.cat(one_image), focal_loss(probability, mask))
    torch.testing.assert_close(sum(one_tap), focal_loss(probability, mask))
    one_image = [dice_loss(abnormal[i : i + 1], mask[i : i + 1]) for i in range(3)]
    one_tap = [dice_loss(abnormal[:, tap : tap + 1], mask) for tap in range(2)]
    torch.testing.assert_close(torch.cat(one_image), dice_loss(abnormal, mask))
    torch.testing.assert_close(sum(one_tap), dice_loss(abnormal, mask))


def test_perfect_maps_cost_nothing_and_wrong_ones_much(maps: tuple[Tensor, Tensor]) -> None:
    mask = maps[1].unsqueeze(1)
    right = torch.stack([1 - mask, mask], 2)
    assert focal_loss(right, maps[1]).mean() < 1e-12
    assert dice_loss(mask, maps[1]).mean() < 1e-12
    assert focal_loss(1 - right, maps[1]).mean() > 5
    assert dice_loss(1 - mask, maps[1]).mean() > 0.9


def test_a_normal_image_is_pushed_towards_normal_by_both() -> None:
    logits = torch.zeros(1, 1, 2, 3, 3, requires_grad=True)
    mask = torch.zeros(1, 3, 3)
    for loss in (focal_loss(logits.softmax(2), mask), dice_loss(logits.softmax(2)[:, :, 1], mask)):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[:, :, 1] > 0).all()  # descent lowers the abnormal logit
        assert (gradient[:, :, 0] < 0).all()


def test_focal_stays_finite_where_the_true_class_has_no_probability() -> None:
    probability = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1).requires_grad_()
    loss = focal_loss(probability, torch.ones(1, 1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2e-5), rel=1e-3)
    assert torch.isfinite(probability.grad).all()
