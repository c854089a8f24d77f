"""Projection about the grid's own y axis: a sum over independent slices.

Arrays have y last, so that the inner loop runs along contiguous memory. A voxel of the column
(z, x) falls on the detector column `u = cos x + sin z` and is shared by the two columns beside it,
by tables of shares that depend on the angle. Images bring one spare column on either side, so that
the inner loop needs no tests; what falls beyond those is left out, in both directions alike.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

BLOCK = 8
"""Projections that share one pass through the volume: their images stay in the cache."""

FINENESS = 256
"""Steps of a table of shares between two neighbouring columns."""

_ON_GRID = 0.25
"""Largest shift [column] along the volume's edge of a turn that counts as none."""


def linear_shares(n: int) -> NDArray[np.float32]:
    """Shares of linear interpolation for `n` projections: (n, FINENESS + 1, 2) float32."""
    right = np.linspace(0.0, 1.0, FINENESS + 1, dtype=np.float32)
    return np.repeat(np.stack([1.0 - right, right], axis=1)[None], n, axis=0)


def footprint_shares(
    cosines: NDArray[np.float64], sines: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Shares of a voxel in the two columns beside its shadow.

    The shadow of a square voxel is `box(|cos|) * box(|sin|)`, whose spectrum vanishes wherever the
    grid of voxels repeats its own: sharing linearly instead leaves a moiré of 7 % at 45 degrees.
    Blurred with `box(2 - |cos| - |sin|)` it is two columns wide at every angle, so that it costs
    what linear sharing costs, and is linear sharing where the grid is not turned.

    Parameters
    ----------
    cosines, sines : (k,) float64 of the rotation.

    Returns
    -------
    (k, FINENESS + 1, 2) float32: shares of the left and the right column for a shadow that falls
    at `j / FINENESS` between them.
    """
    long = np.maximum(np.abs(cosines), np.abs(sines))[:, None]
    short = np.minimum(np.abs(cosines), np.abs(sines))[:, None]
    blur = 2.0 - long - short
    right = np.linspace(0.0, 1.0, FINENESS + 1)[None]

    def area(t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the shadow between 0 and `t`."""
        flat = np.clip(np.abs(t), 0.0, (long - short) / 2.0)
        slope = np.clip(np.abs(t) - (long - short) / 2.0, 0.0, short)
        steep = slope * slope / (2.0 * np.maximum(short, 1e-300))
        return np.sign(t) * (flat + slope - steep) / long

    def height(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return (area(t + blur / 2.0) - area(t - blur / 2.0)) / blur

    return np.stack([height(right), height(1.0 - right)], axis=2).astype(np.float32)


def footprint_sharpening(
    cosines: NDArray[np.float64], sines: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """What undoes the blur of `footprint_shares`, to fourth order in the frequency.

    Parameters
    ----------
    cosines, sines : (k,) float64 of the rotation.
    reach : float, half the longest edge of a slice [voxel].

    Returns
    -------
    (k,) float64 `s` of the filter `(-s, 1 + 2 s, -s)` along the columns: half the variance of the
    three boxes; zero where the turn moves no voxel off the grid and nothing is blurred.
    """
    long = np.maximum(np.abs(cosines), np.abs(sines))
    short = np.minimum(np.abs(cosines), np.abs(sines))
    variance = (1.0 + (2.0 - long - short) ** 2) / 12.0
    return np.where(short * reach < _ON_GRID, 0.0, variance / 2.0)


@njit(cache=True, error_model="numpy", inline="always")
def _share(shares: NDArray[np.float32], m: int, u: float, left: int) -> tuple[float, float]:
    """Shares of the columns `left` and `left + 1`."""
    at = np.float32(u - left) * np.float32(FINENESS)
    j = min(int(at), FINENESS - 1)
    f = at - np.float32(j)
    a = shares[m, j, 0] + f * (shares[m, j + 1, 0] - shares[m, j, 0])
    b = shares[m, j, 1] + f * (shares[m, j + 1, 1] - shares[m, j, 1])
    return a, b


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def project_slices(
    volume: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    shares: NDArray[np.float32],
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
    shares : (k, FINENESS + 1, 2) float32 of `footprint_shares` or `linear_shares`.
    z_low, x_low : int coordinates of the first slice and column.
    images : (k, nu + 2, ny) float32, changed in place; column u of the detector, which lies at
        `u - nu // 2`, is column u + 1 here; `sharpen` leaves the two spare columns out.
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
                    a, b = _share(shares, m, u, left)
                    for y in range(ny):
                        images[m, left, y] += a * mixed[y]
                        images[m, left + 1, y] += b * mixed[y]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def back_project_slices(
    images: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    shares: NDArray[np.float32],
    z_low: int,
    x_low: int,
    volume: NDArray[np.float32],
) -> None:
    """Adjoint of `project_slices`: overwrite `volume`.

    Arguments as there; `images` as `sharpen_adjoint` leaves them.
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
                a, b = _share(shares, m, u, left)
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


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def sharpen(
    images: NDArray[np.float32], side: NDArray[np.float32], rows: float, sharp: NDArray[np.float32]
) -> None:
    """Filter images along their columns by `(-s, 1 + 2 s, -s)` and along their rows alike.

    Parameters
    ----------
    images : (k, nu + 2, ny) float32.
    side : (k,) float32 `s` along the columns for each image; negative where it blurs.
    rows : float, `s` along the rows, outside of which images are zero.
    sharp : (k, nu, ny) float32, overwritten.
    """
    n_images, n_columns, ny = sharp.shape
    across = np.float32(rows)
    for m in prange(n_images):
        line = np.empty(ny, np.float32)
        s = side[m]
        middle = np.float32(1.0) + np.float32(2.0) * s
        for u in range(n_columns):
            for y in range(ny):
                line[y] = middle * images[m, u + 1, y] - s * (images[m, u, y] + images[m, u + 2, y])
            _along_line(line, across, sharp[m, u])


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def sharpen_adjoint(
    sharp: NDArray[np.float32], side: NDArray[np.float32], rows: float, images: NDArray[np.float32]
) -> None:
    """Adjoint of `sharpen`: overwrite `images`. Arguments as there."""
    n_images, n_columns, ny = sharp.shape
    across = np.float32(rows)
    for m in prange(n_images):
        line = np.empty(ny, np.float32)
        s = side[m]
        middle = np.float32(1.0) + np.float32(2.0) * s
        images[m] = np.float32(0.0)
        for u in range(n_columns):
            # The filter along the rows is symmetric, hence its own adjoint.
            _along_line(sharp[m, u], across, line)
            for y in range(ny):
                images[m, u, y] -= s * line[y]
                images[m, u + 1, y] += middle * line[y]
                images[m, u + 2, y] -= s * line[y]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _along_line(line: NDArray[np.float32], s: np.float32, target: NDArray[np.float32]) -> None:
    """Overwrite `target` (n,) with `line` filtered by `(-s, 1 + 2 s, -s)`, zero outside."""
    n = len(line)
    if s == np.float32(0.0) or n == 1:
        middle = np.float32(1.0) + np.float32(2.0) * s
        for y in range(n):
            target[y] = middle * line[y]
        return
    middle = np.float32(1.0) + np.float32(2.0) * s
    target[0] = middle * line[0] - s * line[1]
    target[n - 1] = middle * line[n - 1] - s * line[n - 2]
    for y in range(1, n - 1):
        target[y] = middle * line[y] - s * (line[y - 1] + line[y + 1])
