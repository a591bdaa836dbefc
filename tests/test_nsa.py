"""The full synthesis: the published table, its bounds, labels that agree with what is seen, and the published quirks."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import disk

from model.data import nsa, texts
from model.data.synthesis import Box, visible_change
from tests import layouts

SIZE = 112
LAWS = ("bottle", "carpet", "screw", "candle")


def image(number: int) -> np.ndarray:
    return np.asarray(layouts.picture(number, SIZE, SIZE))


@pytest.fixture(scope="module")
def made() -> list[tuple[str, np.ndarray, nsa.Defect]]:
    """(class, normal image, what was made of it)."""
    done = []
    for number in range(32):
        name = LAWS[number % len(LAWS)]
        rng = np.random.default_rng(number)
        source = lambda rng: image(500 + int(rng.integers(50)))  # noqa: E731
        done.append((name, image(number), nsa.add_defects(image(number), source, rng, nsa.bounds(name))))
    return done


def test_the_table_is_the_published_one():
    assert set(nsa.CLASSES) == set(texts.MVTEC) | set(texts.BLADES)
    assert nsa.bounds("metal_nut") == nsa.Bounds(slope=1 / 3, middle=7, background=(20, 20))
    assert nsa.bounds("cable").rows == nsa.bounds("cable").columns == (0.05, 0.4)
    assert nsa.bounds("zipper").columns == nsa.bounds("toothbrush").columns == (0.03, 0.2)
    assert nsa.bounds("pcb4") == nsa.bounds("a thing of one's own") == nsa.VISA
    assert {name for name, law in nsa.CLASSES.items() if law.resize == (0.5, 2.0)} == {
        "carpet", "grid", "leather", "tile", "wood"
    }  # fmt: skip
    light = {name for name, law in nsa.CLASSES.items() if law.background == (200, 60)}
    assert light == {"bottle", "capsule", "screw", "zipper", *texts.BLADES}


@pytest.mark.parametrize(("name", "level"), [("bottle", 13.8), ("carpet", 4.5), ("screw", 2.2)])
def test_a_label_counts_from_the_published_grey_level(name, level):
    before = np.full((SIZE, SIZE, 3), 100, np.uint8)
    box, inside = Box(20, 20, 60, 60), np.ones((40, 40), bool)
    shown = []
    for step in (np.floor(level), np.ceil(level)):
        after = before.copy()
        after[box.pixels] += int(step)
        shown.append(nsa.binary(nsa.intensity_label(before, after, box, inside, nsa.bounds(name)))[40, 40])
    assert shown == [0, 1]


def test_labels_are_cut_out_of_the_whole_images():
    """The crop that makes it fast changes nothing, at the box's hard edges and at the image's."""
    rng, law = np.random.default_rng(0), nsa.bounds("bottle")
    for box in (Box(30, 40, 60, 75), Box(0, 90, 25, SIZE), Box(SIZE - 9, 0, SIZE, 9)):
        before, change = image(0), np.zeros((SIZE, SIZE), np.float32)
        after = before.copy()
        after[box.pixels] = rng.integers(256, size=after[box.pixels].shape)
        inside = rng.random((box.bottom - box.top, box.right - box.left)) < 0.8
        change[box.pixels] = np.abs(before.astype(int) - after)[box.pixels].mean(axis=2) * inside
        smooth = ndimage.median_filter(change, footprint=disk(5), mode="nearest")
        changed = ndimage.median_filter((change > 1).astype(np.uint8), 5, mode="nearest")
        whole = changed / (1 + np.exp(-law.slope * (smooth - law.middle)))
        label = nsa.intensity_label(before, after, box, inside, law)
        assert np.allclose(label[box.pixels], whole[box.pixels])
        assert label.any()
        label[box.pixels] = 0
        assert not label.any()


def test_masks_answers_and_what_is_seen_agree(made):
    counts = set()
    for _, normal, defect in made:
        seen = visible_change(normal, defect.image)
        counts.add(len(defect.boxes))
        assert len(defect.positions) == len(defect.boxes) >= 1
        left = defect.mask.copy()
        for box, word in zip(defect.boxes, defect.positions, strict=True):
            alone = np.zeros_like(defect.mask)
            alone[box.pixels] = defect.mask[box.pixels]
            assert (alone & seen).mean() >= nsa.MIN_PIXELS
            assert texts.position(alone) == word
            left[box.pixels] = 0
        assert not left.any()
        outside = np.ones((SIZE, SIZE), bool)
        for box in defect.boxes:
            outside[box.pixels] = False
        assert np.array_equal(defect.image[outside], normal[outside])
    assert counts == {1, 2}


def test_patches_keep_the_bounds_of_their_class(made):
    tallest = dict.fromkeys(LAWS, 0)
    for name, _, defect in made:
        law = nsa.bounds(name)
        for box in defect.boxes:
            for side, (_, most) in ((box.bottom - box.top, law.rows), (box.right - box.left, law.columns)):
                assert side <= most * SIZE
            tallest[name] = max(tallest[name], box.bottom - box.top)
    assert tallest["screw"] <= 0.12 * SIZE < tallest["bottle"]


def test_defects_lie_on_the_object_where_there_is_a_background(made):
    for name, normal, defect in made:
        law = nsa.bounds(name)
        if law.background is None:
            continue
        assert nsa.object_mask(normal, law).any()
        for box in defect.boxes:
            assert nsa.object_mask(normal, law)[box.pixels].any()


def test_the_object_mask_is_what_differs_from_the_ground():
    law, picture = nsa.bounds("bottle"), image(3)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(rows - SIZE / 2, columns - SIZE / 2) / SIZE
    shown = nsa.object_mask(picture, law)
    assert shown[distance < 0.36].mean() > 0.99
    assert not shown[distance > 0.44].any()
    with pytest.raises(ValueError, match="no background"):
        nsa.object_mask(picture, nsa.VISA)


@pytest.mark.parametrize("faithful", [False, True])
def test_equal_seeds_give_equal_defects_and_the_input_stays(faithful):
    normal = image(1)
    normal.setflags(write=False)
    law = nsa.bounds("bottle")
    one, two = (
        nsa.add_defects(normal, lambda rng: image(9), np.random.default_rng(7), law, faithful=faithful) for _ in "ab"
    )
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.mask, two.mask)
    assert one.positions == two.positions
    assert not np.array_equal(one.image, normal)


def test_where_nothing_can_be_seen_the_image_stays_and_the_answer_is_no():
    flat = np.full((SIZE, SIZE, 3), 100, np.uint8)
    drawn = []

    def source(rng: np.random.Generator) -> np.ndarray:
        drawn.append(1)
        return flat

    defect = nsa.add_defects(flat, source, np.random.default_rng(0), nsa.VISA)
    assert len(drawn) == nsa.SOURCES
    assert np.array_equal(defect.image, flat)
    assert not defect.mask.any()
    assert texts.answer(defect.positions) == "No, there is no anomaly in the image."
    published = nsa.add_defects(flat, source, np.random.default_rng(0), nsa.VISA, faithful=True)
    assert not published.mask.any()
    assert texts.answer(published.positions).startswith("Yes")  # the published label noise


@pytest.mark.parametrize("faithful", [False, True])
def test_without_an_object_there_is_no_patch(faithful):
    ground = np.full((SIZE, SIZE, 3), 200, np.uint8)
    defect = nsa.add_defects(
        image(0), lambda rng: ground, np.random.default_rng(0), nsa.bounds("bottle"), faithful=faithful
    )
    assert defect.boxes == defect.positions == ()
    assert np.array_equal(defect.image, image(0))


def test_faithful_tells_the_second_place_as_the_middle_of_both():
    seen, apart = 0, 0
    for number in range(60):
        rng = np.random.default_rng(number)
        defect = nsa.add_defects(image(number), lambda rng: image(200), rng, nsa.VISA, faithful=True)
        if len(defect.boxes) < 2:
            continue
        seen += 1
        one, two = defect.boxes
        centre = (min(one.top, two.top) + max(one.bottom, two.bottom)) / 2 / SIZE
        across = (min(one.left, two.left) + max(one.right, two.right)) / 2 / SIZE
        assert defect.positions[1] == texts.cell(centre, across)
        own = texts.cell((two.top + two.bottom) / 2 / SIZE, (two.left + two.right) / 2 / SIZE)
        apart += own != defect.positions[1]
    assert 20 <= seen <= 40
    assert apart > 5


def test_faithful_overwrites_where_patches_meet(monkeypatch):
    """Two patches in one place: only the second one's label stays."""
    labels = [np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE))]
    boxes = [Box(10, 10, 50, 50), Box(10, 10, 50, 30)]

    def paste(image, *_):
        return nsa.Patch(image, boxes.pop(0), labels.pop(0))

    class Always:
        def random(self) -> float:
            return 0.0

    monkeypatch.setattr(nsa, "paste", paste)
    defect = nsa.add_defects(image(0), lambda rng: image(1), Always(), nsa.VISA, faithful=True)
    assert not defect.mask[10:50, 10:30].any()
    assert defect.mask[10:50, 30:50].all()
