"""Streaming metrics: equal to scikit-learn and to brute force, exact when merged, and no larger for more images."""

import itertools
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from skimage.measure import label
from sklearn.metrics import roc_auc_score

from model import metrics
from model.metrics import ALLOWED_ERROR, Histogram, auroc, keys

SIDE = 48
Image = tuple[np.ndarray, np.ndarray]
SPREADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "wide": lambda s: s,
    "narrow": lambda s: 0.3 + 0.001 * s,
    "saturated": lambda s: 1 / (1 + np.exp(10 - 30 * s)),
    "tiny": lambda s: np.exp(-80 * s),
    "tied": lambda s: np.round(s, 1),
    "distances": lambda s: 1.7 * s - 0.2,
}


def images(count: int, spread: str = "wide", seed: int = 0) -> Iterator[Image]:
    """Score maps and masks, every third image normal; defects touch at corners, overlap, and score a bit higher."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(0 if number % 3 == 0 else 4):
            top, left = draw.integers(0, SIDE - 4, 2)
            mask[top : top + draw.integers(1, 12), left : left + draw.integers(1, 12)] = 1
        mask[:2, :2] |= np.eye(2, dtype=np.uint8) * (number % 3)  # two pixels that only touch at a corner: one region
        yield SPREADS[spread](draw.random((SIDE, SIDE)) + 0.2 * mask).astype(np.float32), (mask > 0).astype(np.uint8)


def filled(parts: Sequence[Image]) -> Histogram:
    histogram = Histogram()
    for scores, mask in parts:
        histogram.add(scores, mask)
    return histogram


def stacked(parts: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    scores, masks = zip(*parts, strict=True)
    return np.stack(scores), np.stack(masks)


def brute_force_pro(parts: Sequence[Image], limit: float) -> float:
    """A threshold at a time, a region at a time; regions from another library."""
    scores, masks = stacked(parts)
    regions = [
        scores[number][found == region]
        for number, mask in enumerate(masks)
        for found in [label(mask, connectivity=2)]
        for region in range(1, found.max() + 1)
    ]
    normal = np.sort(scores[masks == 0])
    curve = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        rate = (len(normal) - np.searchsorted(normal, threshold)) / len(normal)
        curve.append((rate, float(np.mean([(region >= threshold).mean() for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


@pytest.mark.parametrize("spread", SPREADS)
def test_pixel_auroc_is_scikit_learns_over_all_pixels(spread: str) -> None:
    parts = list(images(12, spread))
    found = filled(parts).auroc()
    scores, masks = stacked(parts)
    assert found.error == 0  # few enough scores to be counted one by one
    assert found.value == pytest.approx(roc_auc_score(masks.ravel(), scores.ravel()), abs=1e-12)


@pytest.mark.parametrize("spread", SPREADS)
def test_bins_are_off_by_no_more_than_they_say(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = list(images(12, spread))
    exact_pro = filled(parts).pro().value
    monkeypatch.setattr(metrics, "BINS", 1 << 14)  # of 27,648 pixels
    histogram = filled(parts)
    found, pro = histogram.auroc(), histogram.pro()
    scores, masks = stacked(parts)
    assert histogram.counts().shape[1] <= 1 << 14
    assert (histogram.shift > 0) == (spread != "tied")
    assert found.value is not None
    assert pro.value is not None
    assert exact_pro is not None
    assert abs(found.value - roc_auc_score(masks.ravel(), scores.ravel())) <= found.error + 1e-12 < ALLOWED_ERROR
    assert abs(pro.value - exact_pro) <= pro.error + 1e-11 < ALLOWED_ERROR
    assert (found.error > 0) == (spread != "tied")


def test_the_bound_holds_where_it_is_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores in one bin: any order of them is possible, and the bound says so."""
    monkeypatch.setattr(metrics, "BINS", 1)
    scores = np.array([[0.25, 0.250001]], np.float32)
    for mask, true in ((np.array([[0, 1]]), 1.0), (np.array([[1, 0]]), 0.0)):
        histogram = filled([(scores, mask)])
        found = histogram.auroc()
        assert (found.value, found.error) == (None, 0.5)
        assert found.reason is not None
        assert "too close together" in found.reason
        assert abs(0.5 - true) == found.error


@pytest.mark.parametrize("spread", ["wide", "saturated", "tied"])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pro_is_what_brute_force_finds(spread: str, limit: float) -> None:
    parts = list(images(5, spread))
    found = filled(parts).pro(limit).value
    assert found == pytest.approx(brute_force_pro(parts, limit), abs=1e-9)
    assert 0.01 < found < 0.999


def test_each_region_weighs_the_same_whatever_its_size() -> None:
    """The large defect is found and the two-pixel one is not: half of the regions, nearly all of the pixels."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[5:25, 5:25] = 1
    mask[40, 40] = mask[41, 41] = 1
    scores = np.zeros((SIDE, SIDE), np.float32)
    scores[5:25, 5:25] = 0.9
    scores[30:, :10] = 0.5
    scores[40:, 40:] = -0.1
    histogram = filled([(scores, mask)])
    assert histogram.regions == 2
    assert histogram.pro().value == pytest.approx(0.5, abs=1e-12)


def test_a_perfect_map_scores_one_and_a_constant_one_half() -> None:
    parts = list(images(6))
    perfect = filled([(mask.astype(np.float32), mask) for _, mask in parts])
    constant = filled([(np.full_like(scores, 0.37), mask) for scores, mask in parts])
    assert (perfect.auroc(), perfect.pro()) == ((1.0, None, 0.0), (pytest.approx(1.0, abs=1e-12), None, 0.0))
    assert constant.auroc() == (0.5, None, 0.0)
    assert constant.pro().value == pytest.approx(0.15, abs=1e-12)  # the diagonal, up to 0.3


@pytest.mark.parametrize("bins", [1 << 18, 1 << 9])
def test_merged_parts_are_the_whole_exactly(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cut and the order, and however much was merged into wider bins on the way."""
    monkeypatch.setattr(metrics, "BINS", bins)
    parts = [*images(5, "narrow"), *images(6, "tiny", 1), *images(4, "wide", 2)]
    whole = filled(parts)
    cuts = [parts[0::2], parts[1::2]], [parts[:1], parts[1:]], [parts[10:], [], parts[5:10], parts[:5]]
    for cut in cuts:
        merged = Histogram.merge(pickle.loads(pickle.dumps(filled(part))) for part in cut)
        assert np.array_equal(merged.counts(), whole.counts())
        assert (merged.shift, merged.regions, merged.images) == (whole.shift, whole.regions, whole.images)
        assert (merged.auroc(), merged.pro()) == (whole.auroc(), whole.pro())
    assert (whole.shift > 0) == (bins < 1 << 18)


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BINS", 1 << 12)
    histogram, held = Histogram(), {}
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, (scores, mask) in enumerate(images(1000), start=1):
            histogram.add(scores, mask)
            if number in (100, 1000):
                histogram.counts()
                held[number] = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held[1000] < 1.1 * held[100]
    assert held[1000] < 5 * 8 * (1 << 12) + 500_000  # the table, and the last image's maps
    assert histogram.images == 1000


def test_keys_rise_with_scores_and_tell_neighbours_apart() -> None:
    around = np.array([-3.0, -0.2, -1e-7, 0.0, 1e-38, 1e-7, 0.25, 0.5, 0.75, 1.0, 1.5, 1.9], np.float32)
    infinity = np.float32(np.inf)
    points = np.unique(np.concatenate([np.nextafter(around, -infinity), around, np.nextafter(around, infinity)]))
    assert (np.diff(keys(points)) > 0).all()
    assert keys(np.array([-0.0], np.float32)) == keys(np.array([0.0], np.float32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Histogram().add(np.full((2, 2), wrong, np.float32), np.zeros((2, 2)))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask's shape, \(3, 2\)"):
        Histogram().add(np.zeros((2, 2), np.float32), np.zeros((3, 2)))


def test_what_cannot_be_measured_has_a_reason() -> None:
    empty, scores = Histogram.merge([Histogram()]), np.zeros((2, 2), np.float32)
    normal, all_defect = filled([(scores, np.zeros((2, 2)))]), filled([(scores, np.ones((2, 2)))])
    assert empty.auroc()[:2] == normal.auroc()[:2] == (None, "no defective pixel")
    assert all_defect.auroc()[:2] == (None, "no normal pixel")
    assert normal.pro()[:2] == (None, "no defective region")
    assert all_defect.pro()[:2] == (None, "no normal pixel")
    assert auroc([0.5], [True])[:2] == (None, "no normal image")
    assert auroc([np.nan, 1.0], [True, False])[:2] == (None, "a score is not finite")


def test_image_auroc_is_scikit_learns_with_ties() -> None:
    draw = np.random.default_rng(3)
    scores, positive = np.round(draw.random(200), 1), draw.random(200) < 0.3
    assert auroc(scores, positive).value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
