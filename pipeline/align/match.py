"""How a placed frame lies to the image that it should show: motion, misfit, correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.align.canvas import for_each
from pipeline.align.explain import Unknown
from pipeline.align.pairs import band_pass

FINE_PX, WIDE_PX = 1.2, 8.0
"""Frames and model are compared in the band between these two Gaussian blurs [pixel of the level].
A volume from few angles is complete at low frequencies only, and finer detail follows each frame
wherever it is; what is broader than an edge is left to dichroism, which changes with the angle."""


STRANGE, STRANGE_SPREADS = 0.6, 6.0
"""A frame whose correlation with its image is below this part of the usual one, and further from it
than this many standard deviations of all frames, shows something else."""


def misfit(
    moved: NDArray[np.float32], model: NDArray[np.float32], seen: list[tuple[slice, slice]]
) -> float:
    """Rms between frames and reprojections where frames were measured."""
    total, count = 0.0, 0
    for frame, image, part in zip(moved, model, seen, strict=True):
        rest = frame[part] - image[part]
        total += float(np.sum(rest * rest, dtype=np.float64))
        count += rest.size
    return float(np.sqrt(total / max(count, 1)))


def steps(
    moved: NDArray[np.float32],
    model: NDArray[np.float32],
    seen: list[tuple[slice, slice]],
    unknown: Unknown,
    lever: float,
) -> NDArray[np.float64]:
    """Least-squares motion of every frame towards its model, (n, 4) [pixel of the level]."""
    found = np.zeros((len(moved), 4))

    def one(index: int) -> None:
        rest = moved[index] - model[index]
        mask = unknown[index]
        if mask is not None:
            rest[mask] = 0.0
        found[index] = match_frame(rest, model[index], seen[index], lever)

    for_each(len(moved), one)
    return found


def match_frame(
    rest: NDArray[np.float32],
    image: NDArray[np.float32],
    part: tuple[slice, slice],
    lever: float,
) -> NDArray[np.float64]:
    """Least-squares motion of a frame towards its image, with offset and slope of its phase.

    Parameters
    ----------
    rest : (ny, nx) float32 frame less image.
    image : (ny, nx) float32 what the frame should show.
    part : rows and columns that are compared.
    lever : pixels by which a unit of rotation or of the logarithm of the scale counts.

    Returns
    -------
    (4,) float64 `(dy, dx, turn, growth)` [pixel] to add to the frame's motion.
    """
    ny, nx = image.shape
    edges = band_pass(image, FINE_PX, WIDE_PX)
    # The unit of the data must not decide how much the tiny ridge below weighs.
    unit = float(np.abs(edges).max()) or 1.0
    edges /= unit
    rest = band_pass(rest, FINE_PX, WIDE_PX)[part] / unit
    gy, gx = np.gradient(edges, axis=0)[part], np.gradient(edges, axis=1)[part]
    y = (np.arange(ny, dtype=np.float32) - ny // 2)[part[0], None] / np.float32(lever)
    x = (np.arange(nx, dtype=np.float32) - nx // 2)[None, part[1]] / np.float32(lever)
    one = np.ones_like(gy)
    design = np.stack([gy, gx, gy * x - gx * y, gy * y + gx * x, one, one * y, one * x])
    design = design.reshape(7, -1)
    normal = (design @ design.T).astype(np.float64)
    normal[np.diag_indices(7)] *= 1.0 + 1e-6
    normal[np.diag_indices(7)] += 1e-12
    solution = np.linalg.solve(normal, (design @ rest.ravel()).astype(np.float64))
    motion: NDArray[np.float64] = np.clip(solution[:4], -0.1 * ny, 0.1 * ny)
    return motion


def strangers(
    moved: NDArray[np.float32], model: NDArray[np.float32], seen: list[tuple[slice, slice]]
) -> NDArray[np.bool_]:
    """Frames (n,) bool that do not look like their images, where others do.

    Parameters
    ----------
    moved, model : (n, ny, nx) placed frames and what they should show.
    seen : rows and columns where each frame was measured.
    """
    likeness = np.zeros(len(moved))

    def one(index: int) -> None:
        pair = [
            band_pass(image[index], FINE_PX, WIDE_PX)[seen[index]].ravel()
            for image in (moved, model)
        ]
        size = float(np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]))
        likeness[index] = float(pair[0] @ pair[1]) / size if size > 0.0 else 0.0

    for_each(len(moved), one)
    usual = float(np.median(likeness))
    spread = float(np.median(np.abs(likeness - usual))) / 0.6745
    return likeness < min(STRANGE * usual, usual - STRANGE_SPREADS * spread)
