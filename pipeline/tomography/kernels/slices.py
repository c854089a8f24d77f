"""Projection about the grid's own y axis: a sum over independent slices.

Arrays have y last, so that the inner loop runs along contiguous memory. A voxel of the column
(z, x) falls on the detector column `u = cos x + sin z` and is shared linearly by the two columns
beside it. Images bring one spare column on either side, so that the inner loop needs no tests;
what falls beyond those is left out, in both directions alike.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

BLOCK = 8
"""Projections that share one pass through the volume: their images stay in the cache."""


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def project_slices(
    volume: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    z_low: int,
    x_low: int,
    images: NDArray[np.float32],
) -> None:
    """Add the projections of `volume` to `images`.

    Parameters
    ----------
    volume : (r, nz, nx, ny) float32; element (z, x) lies at `(z + z_low, x + x_low)`.
    coefficients : (k, r) float32, what each projection takes of each of the r fields.
    cosines, sines : (k,) float64 of the rotation about y.
    z_low, x_low : int coordinates of the first slice and column.
    images : (k, nu + 2, ny) float32, changed in place; column u of the detector, which lies at
        `u - nu // 2`, is column u + 1 here. The two spare columns are to be ignored.
    """
    n_fields, nz, nx, ny = volume.shape
    n_images, n_columns, _ = images.shape
    centre = (n_columns - 2) // 2 + 1
    for block in prange((n_images + BLOCK - 1) // BLOCK):
        mixed = np.empty(ny, np.float32)
        first = block * BLOCK
        last = min(first + BLOCK, n_images)
        for z in range(nz):
            for x in range(nx):
                for m in range(first, last):
                    u = cosines[m] * (x + x_low) + sines[m] * (z + z_low) + centre
                    left = int(np.floor(u))
                    if left < 0 or left + 1 >= n_columns:
                        continue
                    a = coefficients[m, 0]
                    # Three fields at once are what linear dichroism needs.
                    if n_fields >= 3:
                        b, c = coefficients[m, 1], coefficients[m, 2]
                        for y in range(ny):
                            mixed[y] = (
                                a * volume[0, z, x, y]
                                + b * volume[1, z, x, y]
                                + c * volume[2, z, x, y]
                            )
                    else:
                        for y in range(ny):
                            mixed[y] = a * volume[0, z, x, y]
                    for r in range(3 if n_fields >= 3 else 1, n_fields):
                        a = coefficients[m, r]
                        for y in range(ny):
                            mixed[y] += a * volume[r, z, x, y]
                    b = np.float32(u - left)
                    a = np.float32(1.0) - b
                    for y in range(ny):
                        images[m, left, y] += a * mixed[y]
                        images[m, left + 1, y] += b * mixed[y]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def back_project_slices(
    images: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    z_low: int,
    x_low: int,
    volume: NDArray[np.float32],
) -> None:
    """Adjoint of `project_slices`: overwrite `volume`.

    Arguments as there; the two spare columns of `images` must be zero.
    """
    n_fields, nz, nx, ny = volume.shape
    n_images, n_columns, _ = images.shape
    centre = (n_columns - 2) // 2 + 1
    for z in prange(nz):
        line = np.empty(ny, np.float32)
        total = np.empty((n_fields, ny), np.float32)
        for x in range(nx):
            total[:] = np.float32(0.0)
            for m in range(n_images):
                u = cosines[m] * (x + x_low) + sines[m] * (z + z_low) + centre
                left = int(np.floor(u))
                if left < 0 or left + 1 >= n_columns:
                    continue
                b = np.float32(u - left)
                a = np.float32(1.0) - b
                for y in range(ny):
                    line[y] = a * images[m, left, y] + b * images[m, left + 1, y]
                if n_fields >= 3:
                    a, b, c = coefficients[m, 0], coefficients[m, 1], coefficients[m, 2]
                    for y in range(ny):
                        total[0, y] += a * line[y]
                        total[1, y] += b * line[y]
                        total[2, y] += c * line[y]
                for r in range(3 if n_fields >= 3 else 0, n_fields):
                    a = coefficients[m, r]
                    for y in range(ny):
                        total[r, y] += a * line[y]
            for r in range(n_fields):
                for y in range(ny):
                    volume[r, z, x, y] = total[r, y]
