"""Projection about the grid's own y axis: a sum over independent slices.

Arrays have y last, so that the inner loop runs along contiguous memory. A voxel of the column
(z, x) falls on the detector column `u = cos x + sin z` and is shared by the two columns beside it,
by its footprint, which depends on the angle. Images bring one spare column on either side, so that
the inner loop needs no tests; what falls beyond those is left out, in both directions alike.

The twin for a GPU is `project.cu`.

Cost of a voxel under an angle, of one field: two multiply-adds. Forward, two sums lie in memory
(five moves of 4 bytes); back, four angles share one sum (2.5 moves). All lie in the first and
second level cache, by blocks of angles and of slices. How far that is from what a core can do:
the table in `kernels/README.md`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

BLOCK = 8
"""Projections that share one pass through the volume: their images stay in the cache."""

ROWS = 4
"""Slices in z that share one pass through the images."""

_ON_GRID = 0.25
"""Largest shift [column] along the volume's edge of a turn that counts as none."""


def linear_footprints(n: int) -> NDArray[np.float32]:
    """Footprints of linear interpolation for `n` projections: (n, 2) float32."""
    return np.repeat(np.array([[1.0, 0.0]], np.float32), n, axis=0)


def footprints(cosines: NDArray[np.float64], sines: NDArray[np.float64]) -> NDArray[np.float32]:
    """Longer and shorter box of each angle's footprint.

    The shadow of a square voxel is `box(|cos|) * box(|sin|)`, whose spectrum vanishes wherever the
    grid of voxels repeats its own: sharing linearly instead leaves a moiré of 7 % at 45 degrees.
    Blurred with `box(2 - |cos| - |sin|)` it is two columns wide at every angle, so that it costs
    what linear sharing costs, and is linear sharing where the grid is not turned.

    Parameters
    ----------
    cosines, sines : (k,) float64 of the rotation.

    Returns
    -------
    (k, 2) float32: width of the longer and of the shorter box [column].
    """
    sides = np.abs(np.stack([cosines, sines], axis=1))
    return np.sort(sides, axis=1)[:, ::-1].astype(np.float32)


def footprint_sharpening(
    cosines: NDArray[np.float64], sines: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """What undoes the blur of `footprints`, to fourth order in the frequency.

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


@njit(cache=True, error_model="numpy", inline="always", fastmath={"contract"})
def _area(t: np.float32, flat: np.float32, short: np.float32, steepness: np.float32) -> np.float32:
    """Of the unblurred shadow of unit height between 0 and `t`."""
    far = abs(t)
    slope = min(max(far - flat, np.float32(0.0)), short)
    area = min(far, flat) + slope - slope * slope * steepness
    return area if t > np.float32(0.0) else -area


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _row_shares(
    footprint: NDArray[np.float32],
    scale: np.float32,
    start: float,
    step: float,
    n_columns: int,
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Where the voxels of one row fall, and their shares of the two columns there.

    Parameters
    ----------
    footprint : (2,) float32 of `footprints`.
    scale : float32 factor of all shares.
    start, step : column of the first voxel, and from one voxel to the next.
    n_columns : of the image, spare ones included.
    left : (n,) int64, overwritten with the left one of the two columns, both inside the image.
    shares : (2, n) float32, overwritten with the shares of that column and of the next one;
        what falls outside has none.
    """
    long, short = footprint[0], footprint[1]
    flat = np.float32(0.5) * (long - short)
    steepness = np.float32(0.5) / max(short, np.float32(1e-30))
    half = np.float32(1.0) - np.float32(0.5) * (long + short)
    norm = scale / (long * (np.float32(2.0) * half))
    first, second = shares[0], shares[1]
    for i in range(len(left)):
        u = start + step * i
        column = int(np.floor(u))
        t = np.float32(u - column)
        s = t - np.float32(1.0)
        a = _area(t + half, flat, short, steepness) - _area(t - half, flat, short, steepness)
        b = _area(s + half, flat, short, steepness) - _area(s - half, flat, short, steepness)
        a = norm * a if (column >= 0) & (column < n_columns) else np.float32(0.0)
        b = norm * b if (column >= -1) & (column < n_columns - 1) else np.float32(0.0)
        # At either edge of the image one of the two columns lies outside.
        before, behind = column < 0, column > n_columns - 2
        first[i] = b if before else (np.float32(0.0) if behind else a)
        second[i] = np.float32(0.0) if before else (a if behind else b)
        left[i] = min(max(column, 0), n_columns - 2)


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def project_slices(
    volume: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    footprint: NDArray[np.float32],
    filled: NDArray[np.int64],
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
    footprint : (k, 2) float32 of `footprints` or `linear_footprints`.
    filled : (nx, 2) int64, first row of each column x that can hold anything, and the row behind
        the last one: the corners around a turned box are left out.
    z_low, x_low : int coordinates of the first slice and column.
    images : (k, nu + 2, ny) float32, changed in place; column u of the detector, which lies at
        `u - nu // 2`, is column u + 1 here; `sharpen` leaves the two spare columns out.
    """
    n_fields, nz, nx, _ = volume.shape
    n_images, n_columns, _ = images.shape
    centre = (n_columns - 2) // 2 + 1
    for block in prange((n_images + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        last = min(first + BLOCK, n_images)
        left = np.empty((BLOCK, nx), np.int64)
        shares = np.empty((BLOCK, 2, nx), np.float32)
        for z in range(nz):
            for m in range(first, last):
                start = cosines[m] * x_low + sines[m] * (z + z_low) + centre
                scale = coefficients[m, 0] if n_fields == 1 else np.float32(1.0)
                _row_shares(
                    footprint[m], scale, start, cosines[m], n_columns,
                    left[m - first], shares[m - first],
                )  # fmt: skip
            part = images[first:last]
            if n_fields == 1:
                _share_line(volume[0, z], filled, left, shares, part)
            elif n_fields == 3:
                # What linear dichroism needs.
                _share_lines_of_three(
                    volume[0, z], volume[1, z], volume[2, z], filled,
                    coefficients[first:last], left, shares, part,
                )  # fmt: skip
            else:
                _share_lines(volume[:, z], filled, coefficients[first:last], left, shares, part)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _share_line(
    row: NDArray[np.float32],
    filled: NDArray[np.int64],
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
    images: NDArray[np.float32],
) -> None:
    """Add a row of voxels (nx, ny) to a block of images, of which `shares` is a factor."""
    for x in range(len(row)):
        low, high = np.uint64(filled[x, 0]), np.uint64(filled[x, 1])
        for m in range(len(images)):
            u = np.uint64(left[m, x])
            v = u + np.uint64(1)
            a, b = shares[m, 0, x], shares[m, 1, x]
            if a == np.float32(0.0) and b == np.float32(0.0):
                continue
            for y in range(low, high):
                value = row[x, y]
                images[m, u, y] += a * value
                images[m, v, y] += b * value


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _share_lines_of_three(
    row0: NDArray[np.float32],
    row1: NDArray[np.float32],
    row2: NDArray[np.float32],
    filled: NDArray[np.int64],
    coefficients: NDArray[np.float32],
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
    images: NDArray[np.float32],
) -> None:
    """The same for the rows of three fields at once, each times its coefficient."""
    for x in range(len(row0)):
        low, high = np.uint64(filled[x, 0]), np.uint64(filled[x, 1])
        for m in range(len(images)):
            u = np.uint64(left[m, x])
            v = u + np.uint64(1)
            a, b = shares[m, 0, x], shares[m, 1, x]
            if a == np.float32(0.0) and b == np.float32(0.0):
                continue
            c0, c1, c2 = coefficients[m, 0], coefficients[m, 1], coefficients[m, 2]
            for y in range(low, high):
                value = c0 * row0[x, y] + c1 * row1[x, y] + c2 * row2[x, y]
                images[m, u, y] += a * value
                images[m, v, y] += b * value


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _share_lines(
    rows: NDArray[np.float32],
    filled: NDArray[np.int64],
    coefficients: NDArray[np.float32],
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
    images: NDArray[np.float32],
) -> None:
    """The same for the rows of any number of fields (r, nx, ny)."""
    n_fields, nx, ny = rows.shape
    mixed = np.empty(ny, np.float32)
    for x in range(nx):
        low, high = np.uint64(filled[x, 0]), np.uint64(filled[x, 1])
        for m in range(len(images)):
            u = np.uint64(left[m, x])
            v = u + np.uint64(1)
            a, b = shares[m, 0, x], shares[m, 1, x]
            if a == np.float32(0.0) and b == np.float32(0.0):
                continue
            mixed[:] = np.float32(0.0)
            for r in range(n_fields):
                c = coefficients[m, r]
                for y in range(low, high):
                    mixed[y] += c * rows[r, x, y]
            for y in range(low, high):
                images[m, u, y] += a * mixed[y]
                images[m, v, y] += b * mixed[y]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def back_project_slices(
    images: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    footprint: NDArray[np.float32],
    filled: NDArray[np.int64],
    z_low: int,
    x_low: int,
    volume: NDArray[np.float32],
) -> None:
    """Adjoint of `project_slices`: overwrite `volume`.

    Arguments as there; `images` as `sharpen_adjoint` leaves them. Rows that are not `filled` are
    zero.
    """
    n_fields, nz, nx, _ = volume.shape
    n_images, n_columns, _ = images.shape
    centre = (n_columns - 2) // 2 + 1
    for tile in prange((nz + ROWS - 1) // ROWS):
        left = np.empty((4, nx), np.int64)
        shares = np.empty((4, 2, nx), np.float32)
        four = np.empty(4, np.int64)
        factors = np.empty((n_fields, 4), np.float32)
        z_first, z_last = tile * ROWS, min((tile + 1) * ROWS, nz)
        volume[:, z_first:z_last] = np.float32(0.0)
        for first in range(0, n_images, 4):
            for j in range(4):
                # Where fewer than four are left the last one counts once more, with no weight.
                four[j] = min(first + j, n_images - 1)
                for r in range(n_fields):
                    seen = coefficients[four[j], r]
                    factors[r, j] = seen if first + j < n_images else np.float32(0.0)
            for z in range(z_first, z_last):
                for j in range(4):
                    m = four[j]
                    start = cosines[m] * x_low + sines[m] * (z + z_low) + centre
                    _row_shares(
                        footprint[m], np.float32(1.0), start, cosines[m], n_columns,
                        left[j], shares[j],
                    )  # fmt: skip
                if n_fields == 3:
                    _add_lines_of_three(
                        images, four, left, shares, factors, filled,
                        volume[0, z], volume[1, z], volume[2, z],
                    )  # fmt: skip
                else:
                    for r in range(n_fields):
                        _add_lines(images, four, left, shares, factors[r], filled, volume[r, z])


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _add_lines(
    images: NDArray[np.float32],
    four: NDArray[np.int64],
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
    factors: NDArray[np.float32],
    filled: NDArray[np.int64],
    row: NDArray[np.float32],
) -> None:
    """Add what a row of voxels (nx, ny) receives from four images, (4,) by number."""
    m0, m1, m2, m3 = four[0], four[1], four[2], four[3]
    one = np.uint64(1)
    for x in range(len(row)):
        low, high = np.uint64(filled[x, 0]), np.uint64(filled[x, 1])
        u0, u1 = np.uint64(left[0, x]), np.uint64(left[1, x])
        u2, u3 = np.uint64(left[2, x]), np.uint64(left[3, x])
        v0, v1, v2, v3 = u0 + one, u1 + one, u2 + one, u3 + one
        a0, b0 = factors[0] * shares[0, 0, x], factors[0] * shares[0, 1, x]
        a1, b1 = factors[1] * shares[1, 0, x], factors[1] * shares[1, 1, x]
        a2, b2 = factors[2] * shares[2, 0, x], factors[2] * shares[2, 1, x]
        a3, b3 = factors[3] * shares[3, 0, x], factors[3] * shares[3, 1, x]
        for y in range(low, high):
            row[x, y] += (
                a0 * images[m0, u0, y]
                + b0 * images[m0, v0, y]
                + a1 * images[m1, u1, y]
                + b1 * images[m1, v1, y]
            ) + (
                a2 * images[m2, u2, y]
                + b2 * images[m2, v2, y]
                + a3 * images[m3, u3, y]
                + b3 * images[m3, v3, y]
            )


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _add_lines_of_three(
    images: NDArray[np.float32],
    four: NDArray[np.int64],
    left: NDArray[np.int64],
    shares: NDArray[np.float32],
    factors: NDArray[np.float32],
    filled: NDArray[np.int64],
    row0: NDArray[np.float32],
    row1: NDArray[np.float32],
    row2: NDArray[np.float32],
) -> None:
    """The same for the rows of three fields at once, with factors (3, 4)."""
    m0, m1, m2, m3 = four[0], four[1], four[2], four[3]
    one = np.uint64(1)
    f00, f01, f02, f03 = factors[0, 0], factors[0, 1], factors[0, 2], factors[0, 3]
    f10, f11, f12, f13 = factors[1, 0], factors[1, 1], factors[1, 2], factors[1, 3]
    f20, f21, f22, f23 = factors[2, 0], factors[2, 1], factors[2, 2], factors[2, 3]
    for x in range(len(row0)):
        low, high = np.uint64(filled[x, 0]), np.uint64(filled[x, 1])
        u0, u1 = np.uint64(left[0, x]), np.uint64(left[1, x])
        u2, u3 = np.uint64(left[2, x]), np.uint64(left[3, x])
        v0, v1, v2, v3 = u0 + one, u1 + one, u2 + one, u3 + one
        a0, b0, a1, b1 = shares[0, 0, x], shares[0, 1, x], shares[1, 0, x], shares[1, 1, x]
        a2, b2, a3, b3 = shares[2, 0, x], shares[2, 1, x], shares[3, 0, x], shares[3, 1, x]
        for y in range(low, high):
            l0 = a0 * images[m0, u0, y] + b0 * images[m0, v0, y]
            l1 = a1 * images[m1, u1, y] + b1 * images[m1, v1, y]
            l2 = a2 * images[m2, u2, y] + b2 * images[m2, v2, y]
            l3 = a3 * images[m3, u3, y] + b3 * images[m3, v3, y]
            row0[x, y] += f00 * l0 + f01 * l1 + f02 * l2 + f03 * l3
            row1[x, y] += f10 * l0 + f11 * l1 + f12 * l2 + f13 * l3
            row2[x, y] += f20 * l0 + f21 * l1 + f22 * l2 + f23 * l3


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
