"""What solving for the mask's pixels alone saves over one unknown for each pixel of the image. Only ratios mean anything."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import sparse
from scipy.sparse.linalg import spsolve

from model.data import poisson

SIDE = 128
PAIRS = 5


def full(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, C) float: the Laplacian over the whole image, rows of the identity outside the mask, one solve a channel."""
    line = sparse.diags_array(
        [-np.ones(SIDE - 1), np.r_[1, np.full(SIDE - 2, 2), 1], -np.ones(SIDE - 1)], offsets=[-1, 0, 1]
    )
    laplacian = sparse.kronsum(line, line)
    inside = sparse.diags_array((mask.ravel() != 0).astype(float))
    matrix = (inside @ laplacian + sparse.eye_array(SIDE**2) - inside).tocsc()
    channels = zip(np.moveaxis(source, 2, 0), np.moveaxis(target, 2, 0), strict=True)
    rights = [np.where(mask.ravel() != 0, laplacian @ s.ravel(), t.ravel()) for s, t in channels]
    return np.stack([spsolve(matrix, right).reshape(SIDE, SIDE) for right in rights], axis=2)


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@pytest.mark.parametrize("side", [SIDE // 8, SIDE // 2])
def test_the_mask_alone_is_cheaper_than_the_full_image(benchmark: BenchmarkFixture, side: int) -> None:
    """Records the ratio in pairs, turn by turn; both give the same pixels."""
    rng = np.random.default_rng(0)
    source, target = (rng.uniform(0, 255, (SIDE, SIDE, 3)) for _ in range(2))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20 : 20 + side, 30 : 30 + side] = 1
    np.testing.assert_allclose(full(source, target, mask)[mask != 0], poisson.solve(source, target, mask), atol=1e-6)

    def ratio() -> float:
        return seconds(lambda: full(source, target, mask)) / seconds(lambda: poisson.solve(source, target, mask))

    found = [benchmark.pedantic(ratio, rounds=1)] + [ratio() for _ in range(PAIRS - 1)]
    benchmark.extra_info |= {"full / mask": float(np.median(found)), "mask's share of the image": float(mask.mean())}
    assert np.median(found) > 1
