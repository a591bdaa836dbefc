"""Poisson editing: equal to a direct solve over the full image, blind to brightness, still outside the mask."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from model.data import poisson

HEIGHT, WIDTH = 19, 23


def full_solve(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W) float: one unknown a pixel of the whole image, identity rows outside the mask; a plain loop over pixels."""
    height, width = mask.shape
    matrix, right = sparse.lil_matrix((height * width, height * width)), np.zeros(height * width)
    for row in range(height):
        for column in range(width):
            here = row * width + column
            if not mask[row, column]:
                matrix[here, here], right[here] = 1, target[row, column]
                continue
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < height and 0 <= c < width:
                    matrix[here, here] += 1
                    matrix[here, r * width + c] = -1
                    right[here] += float(source[row, column]) - float(source[r, c])
    return spsolve(matrix.tocsr(), right).reshape(height, width)


def masks() -> dict[str, np.ndarray]:
    middle, corner, edge, ring, holes, single, strips = (np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(7))
    middle[5:12, 6:17] = 1
    corner[:6, :9] = 1
    edge[:, -5:] = 255  # a mask file's white; three sides of the image
    ring[2:17, 3:20] = 1
    ring[7:11, 8:13] = 0
    holes[:] = 1
    holes[9, 9] = 0  # all of the image but one pixel
    single[7, 7] = 1
    strips[3:6] = strips[:, 4] = 1
    strips[14:16, 14:16] = 1  # a part of its own
    return {
        "middle": middle,
        "corner": corner,
        "edge": edge,
        "ring": ring,
        "holes": holes,
        "single": single,
        "strips": strips,
    }


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.uniform(60, 190, (HEIGHT, WIDTH, 3)), rng.uniform(60, 190, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("name", masks())
def test_it_is_the_direct_solve_over_the_full_image(images, name):
    source, target = images
    mask = masks()[name]
    found = poisson.solve(source, target, mask)
    for channel in range(3):
        expected = full_solve(source[..., channel], target[..., channel], mask)
        np.testing.assert_allclose(found[:, channel], expected[mask != 0], atol=1e-8)


def test_the_result_is_rounded_and_clipped(images):
    source, target = images
    mask = masks()["middle"]
    source = 4 * source  # strong edges leave 0..255
    exact = np.stack([full_solve(source[..., channel], target[..., channel], mask) for channel in range(3)], axis=2)
    assert exact.min() < -1
    assert exact.max() > 256
    edited = poisson.edit(source, target, mask)
    assert edited.dtype == np.uint8
    np.testing.assert_array_equal(edited, np.clip(np.round(exact), 0, 255))


@pytest.mark.parametrize("name", masks())
def test_nothing_outside_the_mask_changes(images, name):
    source, target = (image.astype(np.uint8) for image in images)
    mask, before = masks()[name], target.copy()
    edited = poisson.edit(source, target, mask)
    assert np.array_equal(edited[mask == 0], target[mask == 0])
    assert not np.array_equal(edited[mask != 0], target[mask != 0])
    assert np.array_equal(target, before)


def test_the_sources_brightness_does_not_matter(images):
    source, target = images
    mask = masks()["ring"]
    np.testing.assert_allclose(
        poisson.solve(source + np.array([30.0, -50.0, 7.5]), target, mask),
        poisson.solve(source, target, mask),
        atol=1e-8,
    )


def test_the_targets_brightness_passes_through(images):
    source, target = images
    mask = masks()["corner"]
    np.testing.assert_allclose(
        poisson.solve(source, target + 20, mask), poisson.solve(source, target, mask) + 20, atol=1e-8
    )


def test_a_source_equal_to_the_target_changes_nothing(images):
    image = images[1].astype(np.uint8)
    assert np.array_equal(poisson.edit(image, image, masks()["edge"]), image)


def test_grey_images_have_no_channel_axis(images):
    source, target = (image[..., 0] for image in images)
    mask = masks()["middle"]
    edited = poisson.edit(source, target, mask)
    assert edited.shape == (HEIGHT, WIDTH)
    assert np.array_equal(edited, poisson.edit(*images, mask)[..., 0])


def test_unsigned_bytes_do_not_wrap_round():
    source, target = np.zeros((9, 9), np.uint8), np.full((9, 9), 100, np.uint8)
    source[4, 4], source[4, 5] = 200, 10
    mask = np.zeros((9, 9), np.uint8)
    mask[3:6, 3:7] = 1
    expected = full_solve(source, target, mask)
    np.testing.assert_array_equal(poisson.edit(source, target, mask), np.clip(np.round(expected), 0, 255))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 9, 3), (9, 8, 3), (9, 9)), r"source \(9, 9, 3\), target \(9, 8, 3\) and mask \(9, 9\) do not fit"),
        (((9, 9, 3), (9, 9), (9, 9)), "do not fit"),
        (((9, 9, 3), (9, 9, 3), (9, 9, 3)), "a mask"),
        (((9,), (9,), (9,)), "do not fit"),
    ],
)
def test_wrong_shapes_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        poisson.edit(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize(("value", "message"), [(0, "mask is empty"), (1, "covers the whole image")])
def test_masks_without_a_solution_are_refused(images, value, message):
    with pytest.raises(ValueError, match=message):
        poisson.edit(*images, np.full((HEIGHT, WIDTH), value))


def test_values_that_are_no_numbers_are_refused(images):
    source = images[0].copy()
    source[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        poisson.edit(source, images[1], masks()["middle"])
