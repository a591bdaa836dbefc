"""The pixel maps against the formula, by hand, in NumPy."""

import numpy as np
import torch

from model.decoder import ImageDecoder, upsample

# 2 x 2 patches of width 2 to a 3 x 3 map: corners are patches, the centre is the mean of all four.
PATCHES = np.array([[3.0, 0.0], [0.2, 0.19], [0.2, 0.21], [0.3, 0.5]])
TEXT = np.array([[1.0, 0.0], [0.0, 1.0]])  # normal, abnormal
LOGITS = 100 * PATCHES / np.linalg.norm(PATCHES, axis=1, keepdims=True)  # (normal, abnormal), as TEXT is the identity


def expected_map(logits: np.ndarray) -> np.ndarray:
    """Logits (4, 2) -> abnormal probability (3, 3): upsampled first, softmax after."""
    corners = logits.reshape(2, 2, 2)
    rows = np.stack([corners[0], corners.mean(0), corners[1]])
    grid = np.stack([rows[:, 0], rows.mean(1), rows[:, 1]], axis=1)
    return 1 / (1 + np.exp(grid[..., 0] - grid[..., 1]))


def identity_decoder() -> ImageDecoder:
    decoder = ImageDecoder(vision_width=2, text_width=2, taps=1, image_size=3).double()
    with torch.no_grad():
        decoder.fc[0].weight.copy_(torch.eye(2))
        decoder.fc[0].bias.zero_()
    return decoder


def test_map_is_the_softmax_of_upsampled_logits_times_100() -> None:
    probability = identity_decoder()([torch.tensor(PATCHES)[None]], torch.tensor(TEXT)[None])
    assert probability.shape == (1, 1, 2, 3, 3)
    np.testing.assert_allclose(probability[0, 0, 1].detach().numpy(), expected_map(LOGITS), rtol=1e-9)
    np.testing.assert_allclose(probability.sum(2).detach().numpy(), 1, rtol=1e-12)
    # Softmax before upsampling, as the paper's formula has it, would give the centre another value.
    corners = 1 / (1 + np.exp(LOGITS[:, 0] - LOGITS[:, 1]))
    assert abs(expected_map(LOGITS)[1, 1] - corners.mean()) > 0.1


def test_gradient_equals_differences_of_the_formula() -> None:
    decoder, weight = identity_decoder(), np.arange(9.0).reshape(3, 3)

    def objective(matrix: np.ndarray) -> float:
        decoded = PATCHES @ matrix.T
        logits = 100 * decoded / np.linalg.norm(decoded, axis=1, keepdims=True) @ TEXT.T
        return float((weight * expected_map(logits)).sum())

    probability = decoder([torch.tensor(PATCHES)[None]], torch.tensor(TEXT)[None])
    (torch.tensor(weight) * probability[0, 0, 1]).sum().backward()
    got = decoder.fc[0].weight.grad.numpy()
    for index in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[index] = 1e-6
        difference = (objective(np.eye(2) + step) - objective(np.eye(2) - step)) / 2e-6
        np.testing.assert_allclose(got[index], difference, rtol=1e-5, atol=1e-6)


def test_each_tap_has_its_own_layer_and_each_sample_its_own_text() -> None:
    torch.manual_seed(0)
    decoder = ImageDecoder(vision_width=5, text_width=3, taps=2, image_size=4)
    taps = [torch.randn(2, 4, 5), torch.randn(2, 4, 5)]
    text = torch.nn.functional.normalize(torch.randn(2, 2, 3), dim=-1)
    together = decoder(taps, text)
    for sample in range(2):
        for tap in range(2):
            decoded = torch.nn.functional.normalize(decoder.fc[tap](taps[tap][sample]), dim=-1)
            logits = 100 * decoded @ text[sample].T  # (4, 2)
            torch.testing.assert_close(together[sample, tap], upsample(logits.T[None], 4)[0].softmax(0))


def test_patches_are_laid_out_row_by_row_with_corners_on_corners() -> None:
    line = torch.linspace(0, 1, 4)  # without corners on corners, it would be 0, 1/4, 3/4, 1
    torch.testing.assert_close(upsample(torch.arange(4.0).view(1, 1, 4), 4)[0, 0], 2 * line[:, None] + line)
