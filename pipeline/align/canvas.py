"""Frames placed where their motion takes them, on a canvas that may be wider than their field.

A border of a frame that shows matter is *open*: beyond it the sample goes on, unseen. Beyond a
closed border lies air, which is known without being measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.motion import move_frame

OPEN_LEVEL = 0.12
"""Matter at a border, as a fraction of the sample's, that makes it open."""

BORDER_BLUR, NOISE_LEVEL = 2.0, 5.0
"""Blur along a border before it is judged [pixel], and by how many standard deviations of what
noise is left it must stand out too."""

MARGIN = 2
"""Pixels along the border of a moved frame in which its interpolation is felt."""

LOW_Y, HIGH_Y, LOW_X, HIGH_X = range(4)
"""Columns of the table of open borders."""


def open_borders(matter: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Borders through which the sample leaves the field.

    Parameters
    ----------
    matter : (n, ny, nx) float32, matter positive, air at zero.

    Returns
    -------
    (n, 4) bool: low y, high y, low x, high x.
    """
    strong = float(np.percentile(matter[:: max(1, len(matter) // 32)], 99.5))
    found = np.zeros((len(matter), 4), np.bool_)
    # What is left of the noise of a pixel in the mean of three rows, blurred along the border.
    share = NOISE_LEVEL / np.sqrt(3.0 * 2.0 * np.sqrt(np.pi) * BORDER_BLUR)
    for index, frame in enumerate(matter):
        noise = share * _pixel_noise(frame)
        strips = (frame[:3], frame[-3:], frame[:, :3].T, frame[:, -3:].T)
        for side, strip in enumerate(strips):
            # Along the border a blur of some pixels keeps noise from looking like matter.
            line = ndimage.gaussian_filter1d(strip.mean(axis=0), BORDER_BLUR)
            found[index, side] = line.max() > max(OPEN_LEVEL * strong, noise)
    return found


def _pixel_noise(frame: NDArray[np.float32]) -> float:
    """Standard deviation of the noise of a pixel, from what linear change does not explain."""
    bend = frame[1:-1, 1:-1] - 0.25 * (
        frame[2:, 1:-1] + frame[:-2, 1:-1] + frame[1:-1, 2:] + frame[1:-1, :-2]
    )
    return float(np.median(np.abs(bend)) / (0.6745 * np.sqrt(1.25)))


class Canvas:
    """Frames of one binning on a canvas of any size.

    Parameters
    ----------
    frames : (n, ny, nx) float32.
    borders : (n, 4) bool from `open_borders`.
    width : columns of the canvas; both share the centre pixel `n // 2`.
    height : rows of the canvas, those of the frames if None.
    """

    def __init__(
        self,
        frames: NDArray[np.float32],
        borders: NDArray[np.bool_],
        width: int,
        height: int | None = None,
    ) -> None:
        self.frames, self.borders, self.width = frames, borders, width
        self.shape = (len(frames), height or frames.shape[1], width)

    def place(
        self,
        shifts: NDArray[np.float64],
        turns_rad: NDArray[np.float64],
        scales: NDArray[np.float64],
    ) -> tuple[NDArray[np.float32], list[tuple[slice, slice]]]:
        """Frames moved by `shifts` (n, 2), turned and scaled, and where each was measured.

        Returns
        -------
        moved : (n, ny, width) float32, zero where nothing was measured.
        seen : for each frame the rows and columns that hold its pixels, clear of its border.
        """
        moved = np.zeros(self.shape, np.float32)
        seen: list[tuple[slice, slice]] = [(slice(0), slice(0))] * len(moved)

        def one(index: int) -> None:
            whole = np.round(shifts[index])
            rest = shifts[index] - whole
            frame = move_frame(
                self.frames[index],
                float(rest[0]),
                float(rest[1]),
                float(turns_rad[index]),
                float(scales[index]),
            )
            skew = abs(np.sin(turns_rad[index])) + abs(scales[index] - 1.0)
            seen[index] = self._put(frame, whole.astype(int), float(skew), moved[index])

        for_each(len(moved), one)
        return moved, seen

    def _put(
        self,
        frame: NDArray[np.float32],
        whole: NDArray[np.int_],
        skew: float,
        out: NDArray[np.float32],
    ) -> tuple[slice, slice]:
        source, target, inner = [], [], []
        for axis in range(2):
            n, size = frame.shape[axis], out.shape[axis]
            start = size // 2 - n // 2 + int(whole[axis])
            low, high = max(start, 0), min(start + n, size)
            high = max(high, low)
            source.append(slice(low - start, high - start))
            target.append(slice(low, high))
            margin = MARGIN + int(np.ceil(0.5 * skew * max(frame.shape)))
            inner.append(
                slice(
                    low if start < 0 else min(low + margin, high),
                    high if start + n > size else max(high - margin, low),
                )
            )
        out[tuple(target)] = frame[tuple(source)]
        return inner[0], inner[1]

    def narrow(self, width: int) -> slice | None:
        """Cut the canvas to `width`, where it is wider: the columns that are kept."""
        if width >= self.width:
            return None
        low = self.width // 2 - width // 2
        self.width, self.shape = width, (*self.shape[:2], width)
        return slice(low, low + width)

    def unknown(self, index: int, seen: tuple[slice, slice]) -> NDArray[np.bool_] | None:
        """Pixels (ny, width) beyond the open borders of a frame; None where there are none."""
        sides = self.borders[index]
        _, ny, nx = self.shape
        rows, columns = seen
        beyond = (rows.start > 0, rows.stop < ny, columns.start > 0, columns.stop < nx)
        if not (sides & beyond).any():
            return None
        mask = np.zeros((ny, nx), np.bool_)
        for side, part in (
            (LOW_Y, np.s_[: rows.start]),
            (HIGH_Y, np.s_[rows.stop :]),
            (LOW_X, np.s_[:, : columns.start]),
            (HIGH_X, np.s_[:, columns.stop :]),
        ):
            if sides[side]:
                mask[part] = True
        return mask


def for_each(count: int, function: Callable[[int], None]) -> None:
    """Call `function` for every index, on as many threads as the kernels use.

    Each call writes its own part of the result, so that the order does not matter.
    """
    threads = min(numba.get_num_threads(), count)
    if threads < 2:
        for index in range(count):
            function(index)
        return
    with ThreadPoolExecutor(threads) as pool:
        # Walking through the results waits for all, and raises what any of them raised.
        deque(pool.map(function, range(count)), maxlen=0)
