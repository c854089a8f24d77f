"""The largest upright rectangle in a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def largest_rectangle(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Largest upright rectangle that holds nothing but True.

    Parameters
    ----------
    mask : (ny, nx) bool.

    Returns
    -------
    Slices along y and x; empty ones without any True. Of equal areas the first in row order.

    Notes
    -----
    Row by row the columns above each pixel form a histogram, whose largest rectangle a stack of
    rising heights finds in linear time.
    """
    best_area, best = 0, (slice(0, 0), slice(0, 0))
    heights = np.zeros(mask.shape[1], np.intp)
    for row in range(mask.shape[0]):
        heights = np.where(mask[row], heights + 1, 0)
        area, height, start, stop = _largest_in_histogram(heights.tolist())
        if area > best_area:
            best_area = area
            best = slice(row + 1 - height, row + 1), slice(start, stop)
    return best


def _largest_in_histogram(heights: list[int]) -> tuple[int, int, int, int]:
    """Area, height, first and last-but-one column of the largest rectangle."""
    best = (0, 0, 0, 0)
    rising: list[tuple[int, int]] = []
    for column, height in enumerate([*heights, 0]):
        start = column
        while rising and rising[-1][1] >= height:
            start, tall = rising.pop()
            area = tall * (column - start)
            if area > best[0]:
                best = (area, tall, start, column)
        rising.append((start, height))
    return best
