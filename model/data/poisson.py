"""Poisson image editing (Pérez, Gangnet, Blake, SIGGRAPH 2003): a part of one image set into another without a seam."""

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu


def edit(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`target` with the source's details inside the mask: uint8 of the target's shape, rounded and clipped to 0..255.

    source, target: (H, W) or (H, W, C) of one shape, any real type, grey levels. mask: (H, W), pixels to replace are not 0.
    Outside the mask the target's values stay. Raises ValueError as `solve` does.
    """
    edited = np.array(target, np.float64)
    edited[mask != 0] = solve(source, target, mask)
    return np.clip(np.rint(edited), 0, 255).astype(np.uint8)


def solve(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The new values of the mask's n pixels in row-major order, (n) or (n, C) float64, before rounding.

    Equations 7 and 8 of the paper: at each pixel of the mask the discrete Laplacian is the source's (the guidance is its
    gradient), and the neighbours outside the mask keep the target's values. A pixel at the image's border has two or three
    neighbours. The channels share one factorisation; nothing is solved for pixels outside the mask.

    Raises ValueError: shapes that do not fit, a mask of no pixel or of all, values that are not finite.
    """
    inside = _checked(source, target, mask)
    box = _box(inside)  # as if the image ended there: what is further away has no part in it
    source, target, inside = source[box], target[box], inside[box]
    numbers = np.cumsum(inside.ravel()).reshape(inside.shape) - 1  # of the unknowns
    channels = target.shape[2:]
    source, target = (np.array(image, np.float64).reshape(*inside.shape, -1) for image in (source, target))

    degree, right = np.zeros(inside.shape), np.zeros(source.shape)
    rows, columns = [numbers[inside]], [numbers[inside]]  # the diagonal first
    for here, there in _neighbours():
        degree[here] += 1
        right[here] += source[here] - source[there] + np.where(inside[there][..., None], 0, target[there])
        both = inside[here] & inside[there]
        rows.append(numbers[here][both])
        columns.append(numbers[there][both])

    unknowns = len(rows[0])
    values = np.concatenate([degree[inside], np.full(sum(map(len, rows)) - unknowns, -1.0)])
    matrix = csc_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=(unknowns, unknowns))
    # Symmetric and positive definite: no pivoting, and an order that knows it halves both time and memory.
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(right[inside]).reshape(unknowns, *channels)


def _neighbours() -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(here, there): the pixels that have a neighbour on one side, and those neighbours, as slices of an image."""
    every, begin, end = slice(None), slice(None, -1), slice(1, None)
    pairs = [((begin, every), (end, every)), ((every, begin), (every, end))]
    return pairs + [(there, here) for here, there in pairs]


def _box(inside: np.ndarray) -> tuple[slice, slice]:
    """The mask's bounding box with its neighbours, within the image."""
    ends = [np.nonzero(inside.any(axis=axis))[0][[0, -1]] for axis in (1, 0)]
    rows, columns = (slice(max(int(first) - 1, 0), int(last) + 2) for first, last in ends)
    return rows, columns


def _checked(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask as (H, W) bool. Raises ValueError."""
    if source.shape != target.shape or target.ndim not in (2, 3) or mask.shape != target.shape[:2]:
        raise ValueError(
            f"source {source.shape}, target {target.shape} and mask {mask.shape} do not fit; "
            "take two images (H, W) or (H, W, C) of one shape and a mask (H, W)"
        )
    inside = mask != 0
    if not inside.any():
        raise ValueError("the mask is empty: there is nothing to edit")
    if inside.all():
        raise ValueError("the mask covers the whole image: no pixel of the target is left to fit the source to")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("source or target has values that are not finite")
    return inside
