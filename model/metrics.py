"""Detection metrics whose memory does not grow with the number of images: AUROC over all pixels, and PRO.

Scores are counted one by one as long as few differ, then in bins of their float32 bit pattern. Counts are integers,
and how wide a bin is depends on the scores alone: parts merge to exactly what one process would have counted. What
the bins can hide is computed with each number.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

ALLOWED_ERROR = 1e-4  # of a binned number; above, it is withheld
PRO_LIMIT = 0.3  # false positive rate up to which PRO is integrated (Bergmann et al. 2021)
BINS = 1 << 18  # at most, in one histogram: 10 MB
WAITING = 64  # images of few scores, at most, that are not yet in it
HALF = 0x3F000000  # bit pattern of 0.5
UNIT = 1 << 40  # one region's overlap, as an integer
EIGHT = np.ones((3, 3), int)  # pixels that touch at a corner are one region, as in MVTec's own code
NEGATIVE, POSITIVE, OVERLAP, LOW, HIGH = range(5)  # rows of a histogram; the last two: least and largest key in a bin


class Number(NamedTuple):
    """A metric with the largest error that counting in bins can have made, or None and the reason."""

    value: float | None
    reason: str | None = None
    error: float = 0.0


def keys(scores: np.ndarray) -> np.ndarray:
    """int64 that rise as float32 scores do, and differ where these differ (up to 2; above, equal keys may happen).

    As fine near 1 as near 0, since probabilities saturate at both: from 0.5 on it is 1 - score, exact, that counts.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    return np.where(scores < 0.5, _bits(scores), 2 * HALF - _bits(1 - scores))


def _bits(x: np.ndarray) -> np.ndarray:
    raw = x.view(np.int32).astype(np.int64)
    return np.where(raw < 0, -(raw & 0x7FFFFFFF), raw)


def auroc(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> Number:
    """Area under the ROC curve of a few scores, exact; ties count half (Fawcett 2006)."""
    if not np.isfinite(scores).all():
        return Number(None, "a score is not finite")
    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    positives = np.asarray(positive, bool)
    counts = [np.bincount(place[wanted], minlength=len(values)) for wanted in (~positives, positives)]
    return _auroc(*counts, kind="image")


def _auroc(negative: np.ndarray, positive: np.ndarray, *, kind: str) -> Number:
    """From counts in rising order of the score."""
    n, p = int(negative.sum()), int(positive.sum())
    if not n or not p:
        return Number(None, f"no {'normal' if p else 'defective'} {kind}")
    number = np.int64 if 2 * n * p < 2**63 else object
    negative, positive = negative.astype(number), positive.astype(number)
    below = np.cumsum(negative) - negative
    return Number(int((positive * (2 * below + negative)).sum()) / (2 * n * p))


class Histogram:
    """How many defective and normal pixels have which score, in at most BINS bins.

    `regions`: connected defects; `images`: with a mask. `shift`: low bits of a key that its bin leaves out, as few as
    BINS allows, so that the order of images does not matter.
    """

    def __init__(self) -> None:
        self.regions = self.images = self.shift = 0
        self._table = np.zeros((5, 0), np.int64)
        self._waiting: list[
            np.ndarray
        ] = []  # tables that are not yet in it: sorting once for several images is cheaper

    def add(self, scores: np.ndarray, mask: np.ndarray) -> None:
        """Count an image: scores (H, W), mask (H, W), not 0 where defective. Raises ValueError: shapes, NaN, infinity."""
        if scores.shape != mask.shape or not np.isfinite(scores).all():
            raise ValueError(f"scores {scores.shape} must be finite and have the mask's shape, {mask.shape}")
        defective = mask.ravel() != 0
        key, place = np.unique(keys(scores).ravel(), return_inverse=True)
        table = np.zeros((5, len(key)), np.int64)
        for row, wanted in ((NEGATIVE, ~defective), (POSITIVE, defective)):
            table[row] = np.bincount(place[wanted], minlength=len(key))
        table[LOW] = table[HIGH] = key
        labels, regions = ndimage.label(mask != 0, EIGHT)
        _overlap(table[OVERLAP], place[defective], labels.ravel()[defective])
        self.regions += regions
        self.images += 1
        self._put(table)

    @staticmethod
    def merge(parts: Iterable["Histogram"]) -> "Histogram":
        """All counts in a new histogram."""
        whole = Histogram()
        for part in parts:
            whole.regions += part.regions
            whole.images += part.images
            whole.shift = max(whole.shift, part.shift)
            whole._put(part.counts())
        return whole

    def counts(self) -> np.ndarray:
        """(5, bins that hold something), in rising order of the score."""
        if not self._waiting:
            return self._table
        table = np.concatenate([self._table, *self._waiting], axis=1)
        table = table[:, np.argsort(table[LOW], kind="stable")]
        while len(first := np.unique(table[LOW] >> self.shift, return_index=True)[1]) > BINS:
            self.shift += 1
        self._table = np.concatenate(
            [
                np.add.reduceat(table[:LOW], first, axis=1),
                table[None, LOW, first],
                np.maximum.reduceat(table[None, HIGH], first, axis=1),
            ]
        )
        self._waiting = []
        return self._table

    def _put(self, table: np.ndarray) -> None:
        self._waiting.append(table)
        if len(self._waiting) == WAITING or sum(each.shape[1] for each in self._waiting) > BINS:
            self.counts()

    def __getstate__(self) -> dict[str, object]:
        self.counts()  # sent to another rank as small as it can be
        return self.__dict__

    def auroc(self) -> Number:
        """Over all pixels of all images. Its error: half of all pairs that share a bin without having equal scores."""
        counts = self.counts()
        found = _auroc(counts[NEGATIVE], counts[POSITIVE], kind="pixel")
        if found.value is None:
            return found
        mixed = counts[LOW] < counts[HIGH]
        share = counts[:LOW] / counts[:LOW].sum(1, keepdims=True).clip(1)
        return _checked(found.value, float(0.5 * (share[NEGATIVE] * share[POSITIVE])[mixed].sum()))

    def pro(self, limit: float = PRO_LIMIT) -> Number:
        """Per-region overlap (Bergmann et al. 2021, IJCV, section 4.3): a defect weighs the same, small or large.

        The mean over regions of the share found, against the false positive rate over all normal pixels, integrated by
        trapezoids up to `limit` and divided by it.
        """
        counts = self.counts()[:, ::-1]  # from the highest score down
        if not self.regions or not counts[NEGATIVE].any():
            return Number(None, f"no {'normal pixel' if self.regions else 'defective region'}")
        steps = np.stack([counts[NEGATIVE] / counts[NEGATIVE].sum(), counts[OVERLAP] / (self.regions * UNIT)])
        found = np.cumsum(np.concatenate([[0], counts[NEGATIVE]])) / counts[NEGATIVE].sum()
        curve = np.cumsum(np.concatenate([[0], counts[OVERLAP]])) / (self.regions * UNIT)
        last = int(np.searchsorted(found, limit))  # the first point at the limit or right of it
        part = (limit - found[last - 1]) / (found[last] - found[last - 1])
        x = np.append(found[:last], limit)
        y = np.append(curve[:last], curve[last - 1] + part * (curve[last] - curve[last - 1]))
        mixed = (counts[LOW] < counts[HIGH])[:last]
        hidden = (steps[0] * steps[1])[:last] * np.where(np.arange(last) < last - 1, 0.5, 1.0)  # the last one is cut
        return _checked(float(np.trapezoid(y, x)) / limit, float(hidden[mixed].sum()) / limit)


def _overlap(into: np.ndarray, place: np.ndarray, label: np.ndarray) -> None:
    """Add the share of its region that each defective pixel is, so that every region is UNIT whatever its size.

    The share found above any score is rounded down to a UNIT-th. place (N) of each pixel in `into`, label (N) from 1.
    """
    order = np.lexsort((-place, label))
    place, label = place[order], label[order]
    size = np.bincount(label)
    before = np.arange(len(label)) - (np.cumsum(size) - size)[label]  # pixels of the same region with a higher score
    share = (before + 1) * UNIT // size[label] - before * UNIT // size[label]
    np.add.at(into, place, share)


def _checked(value: float, error: float) -> Number:
    if error >= ALLOWED_ERROR:
        return Number(None, f"scores too close together to be told apart: {value:.4f}, at most {error:.1g} off", error)
    return Number(value, None, error)
