"""Blended defects: the mask is what visibly changed, nothing else changed, the words say where."""

import re

import cv2
import numpy as np
import pytest
from scipy import ndimage

from model.data import DataError, synthesis, texts
from model.data.dataset import DEFECT
from model.data.synthesis import Box, Defect
from model.data.textures import Textures

SIZE = 112


@pytest.fixture(scope="module")
def made() -> list[tuple[np.ndarray, Defect]]:
    """Normal images with the defects made on them."""
    data = Textures(image_size=SIZE, seed=3)
    pairs = []
    for pair in range(48):
        class_id, image = data.normal(pair)
        source = lambda rng, class_id=class_id: data.foreign(class_id, rng)  # noqa: E731
        pairs.append((image, synthesis.add_defects(image, source, data.rng(DEFECT, pair))))
    return pairs


def test_nothing_outside_the_boxes_changes(made):
    for normal, defect in made:
        outside = np.ones((SIZE, SIZE), bool)
        for box in defect.boxes:
            outside[box.pixels] = False
        assert np.array_equal(defect.image[outside], normal[outside])
        assert not defect.mask[outside].any()


def test_the_mask_is_the_visible_change(made):
    for normal, defect in made:
        change = np.abs(defect.image.astype(int) - normal.astype(int)).max(axis=2)
        assert np.array_equal(defect.mask, ndimage.median_filter(change, 5, mode="nearest") > 8)
        assert defect.mask.dtype == np.uint8
        assert (change[defect.mask == 1] > 0).mean() > 0.9
        assert change[defect.mask == 1].mean() > 12
        assert change[defect.mask == 0].mean() < 1


def test_each_defect_is_large_enough_to_be_seen(made):
    for _, defect in made:
        for box in defect.boxes:
            assert defect.mask[box.pixels].sum() >= SIZE * SIZE / 256


def test_grey_stays_grey(made):
    for _, defect in made:
        assert np.ptp(defect.image, axis=2).max() == 0


def test_one_or_two_defects_apart_from_each_other(made):
    counts = [len(defect.boxes) for _, defect in made]
    assert set(counts) == {1, 2}
    for _, defect in made:
        if len(defect.boxes) == 2:
            assert not defect.boxes[0].near(defect.boxes[1])
            assert sum(int(defect.mask[box.pixels].sum()) for box in defect.boxes) == defect.mask.sum()


def test_the_words_say_where_the_mask_is(made):
    cell = {word: divmod(number, 3) for number, word in enumerate(texts.POSITIONS)}
    for _, defect in made:
        assert len(defect.positions) == len(defect.boxes)
        for word, box in zip(defect.positions, defect.boxes, strict=True):
            part = np.zeros((SIZE, SIZE), bool)
            part[box.pixels] = defect.mask[box.pixels]
            centre = np.argwhere(part).mean(axis=0) + 0.5
            assert tuple((3 * centre / SIZE).astype(int)) == cell[word]


def test_the_input_is_left_as_it_is():
    data = Textures(image_size=SIZE, seed=3)
    _, image = data.normal(0)
    before = image.copy()
    synthesis.add_defects(image, lambda rng: data.foreign(0, rng), data.rng(DEFECT, 0))
    assert np.array_equal(image, before)


def test_opencv_gets_a_mask_of_its_own(monkeypatch):
    """seamlessClone overwrites the mask it is given: whatever it leaves there must reach nothing."""
    original, given = cv2.seamlessClone, []

    def spoiling(src, dst, mask, *rest):
        given.append(mask)
        result = original(src, dst, mask, *rest)
        mask[:] = 255 - mask
        return result

    data = Textures(image_size=SIZE, seed=3)
    clean = data[1]
    monkeypatch.setattr(cv2, "seamlessClone", spoiling)
    spoiled = data[1]
    assert np.array_equal(clean.image, spoiled.image)
    assert np.array_equal(clean.mask, spoiled.mask)
    assert given
    assert not any(np.shares_memory(mask, spoiled.mask) for mask in given)


def test_blending_is_equal_bit_for_bit_whatever_the_threads(monkeypatch):
    data = Textures(image_size=224, seed=0)
    image, patch, box = data.normal(0)[1], data.normal(1)[1][:90, :61], Box(7, 100, 97, 161)
    first = synthesis.blend(image, patch, box)
    assert all(np.array_equal(first, synthesis.blend(image, patch, box)) for _ in range(5))
    monkeypatch.setattr(cv2, "setNumThreads", lambda _: None)
    assert np.array_equal(first, synthesis.blend(image, patch, box))


def test_blending_takes_one_thread():
    cv2.setNumThreads(2)
    data = Textures(image_size=SIZE, seed=0)
    data[1]
    assert cv2.getNumThreads() == 1


def test_an_opencv_that_pastes_elsewhere_is_refused(monkeypatch):
    original = cv2.seamlessClone
    monkeypatch.setattr(
        cv2,
        "seamlessClone",
        lambda src, dst, mask, centre, mode: original(src, dst, mask, (centre[0] + 5, centre[1]), mode),
    )
    with pytest.raises(DataError, match="outside the pasted box"):
        Textures(image_size=SIZE, seed=0)[1]


def test_alike_images_are_refused_after_a_bounded_number_of_tries():
    flat = np.full((SIZE, SIZE, 3), 100, np.uint8)
    drawn = []

    def source(rng: np.random.Generator) -> np.ndarray:
        drawn.append(rng)
        return flat

    with pytest.raises(DataError, match=r"no visible defect in 100 tries on an image of 112 x 112 pixels"):
        synthesis.add_defects(flat, source, np.random.default_rng(0))
    assert len(drawn) == synthesis.MAX_TRIES / synthesis.TRIES_PER_SOURCE


def test_patches_vary_in_size_and_stay_within_bounds(made):
    sides = (
        np.array([(box.bottom - box.top, box.right - box.left) for _, d in made for box in d.boxes]) - 2 * synthesis.RIM
    )
    assert sides.min() >= synthesis.MIN_SIDE
    assert sides.max() <= 0.4 * SIZE
    assert len(np.unique(sides)) > 15


def test_position_words():
    for number, word in enumerate(texts.POSITIONS):
        mask = np.zeros((90, 90), np.uint8)
        row, column = divmod(number, 3)
        mask[30 * row + 10 : 30 * row + 20, 30 * column + 10 : 30 * column + 20] = 1
        assert texts.position(mask) == word
    assert texts.POSITIONS[0] == "top left"
    assert texts.POSITIONS[5] == "right"
    with pytest.raises(ValueError, match="empty"):
        texts.position(np.zeros((9, 9)))


def test_a_centroid_on_the_line_counts_as_upper_left():
    mask = np.zeros((9, 9), np.uint8)
    mask[2:4, 2:4] = 1  # centroid at 3 of 9
    assert texts.position(mask) == "top left"


def test_answers():
    assert texts.answer([]) == "No, there is no anomaly in the image."
    assert texts.answer(["left"]) == "Yes, there is an anomaly in the image, at the left of the image."
    two = "Yes, there are 2 anomalies in the image, they are at the "
    assert texts.answer(["top", "center"]) == two + "top and center of the image."
    assert texts.answer(["top", "top"]) == two + "top of the image."
    with pytest.raises(ValueError, match="at most 2"):
        texts.answer(["top"] * 3)


def test_all_answers_are_all(made):
    known = set(texts.all_answers())
    assert len(known) == len(texts.all_answers()) == 1 + 9 + 9 * 9
    assert {texts.answer(defect.positions) for _, defect in made} <= known
    assert all(re.match(r"(Yes|No), ", text) for text in known)
