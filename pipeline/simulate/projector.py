"""Ray marching through a label map: the simulation's own projector.

Deliberately another code and another discretisation than the reconstruction's: rays instead of
voxels, nearest label instead of interpolation, a finer grid, several rays per detector pixel.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

STEP = 0.5
"""Longest step along a ray [voxels of the label map]."""

_BITS = 32
_ONE = float(1 << _BITS)
_GOLDEN = 0.6180339887498949


@numba.njit(parallel=True, cache=True)
def _march(
    labels: NDArray[np.uint16],
    table: NDArray[np.float64],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    pixel: float,
    rays: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    nz, ny, nx = labels.shape
    n_values = table.shape[1]
    size = np.array([nx, ny, nz], np.float64)
    along = rotation[2]
    # Neighbouring columns see an edge that lies along the rows at other places, and the other way
    # round: with the same few rays in all of them, the edge would move in steps.
    stagger = 1.0 / rays.shape[0]
    for row in numba.prange(out.shape[1]):
        start = np.empty(3)
        total = np.empty(n_values)
        for col in range(out.shape[2]):
            total[:] = 0.0
            for ray in range(rays.shape[0]):
                lab_y = (
                    row - origin[0] + rays[ray, 0] + stagger * ((col * _GOLDEN) % 1.0 - 0.5)
                ) * pixel
                lab_x = (
                    col - origin[1] + rays[ray, 1] + stagger * ((row * _GOLDEN) % 1.0 - 0.5)
                ) * pixel
                enter, leave = -1e30, 1e30
                for axis in range(3):
                    # Columns of R^T: where the ray runs in the sample; +0.5 makes floor nearest.
                    start[axis] = (
                        rotation[0, axis] * lab_x
                        + rotation[1, axis] * lab_y
                        + size[axis] // 2
                        + 0.5
                    )
                    if abs(along[axis]) < 1e-12:
                        if start[axis] < 0.0 or start[axis] >= size[axis]:
                            leave = -1e30
                        continue
                    a = -start[axis] / along[axis]
                    b = (size[axis] - start[axis]) / along[axis]
                    enter = max(enter, min(a, b))
                    leave = min(leave, max(a, b))
                if leave <= enter:
                    continue
                n_steps = int(np.ceil((leave - enter) / STEP))
                step = (leave - enter) / n_steps
                # Fixed-point positions: adding and shifting is all that a step costs.
                i = int((start[0] + (enter + 0.5 * step) * along[0]) * _ONE)
                j = int((start[1] + (enter + 0.5 * step) * along[1]) * _ONE)
                m = int((start[2] + (enter + 0.5 * step) * along[2]) * _ONE)
                di = int(step * along[0] * _ONE)
                dj = int(step * along[1] * _ONE)
                dm = int(step * along[2] * _ONE)
                run, last = 0, np.uint16(0)
                for _ in range(n_steps):
                    # Rounding may leave the box by a hair at its faces.
                    label = labels[
                        min(max(m >> _BITS, 0), nz - 1),
                        min(max(j >> _BITS, 0), ny - 1),
                        min(max(i >> _BITS, 0), nx - 1),
                    ]
                    i += di
                    j += dj
                    m += dm
                    if label != last:
                        for v in range(n_values):
                            total[v] += run * step * table[last, v]
                        run, last = 0, label
                    run += 1
                for v in range(n_values):
                    total[v] += run * step * table[last, v]
            for v in range(n_values):
                out[v, row, col] = total[v] / rays.shape[0]


def ray_pattern(count: int) -> NDArray[np.float64]:
    """Where the rays pass through a pixel: a Fibonacci lattice.

    No two rays share a row or a column, so that an edge along the grid is seen by each ray at
    another place: with a square pattern, label-map voxels of half a pixel would alias.

    Parameters
    ----------
    count : number of rays, a Fibonacci number from 2 on (5, 8, 13, 21, ...).

    Returns
    -------
    (count, 2) float64 offsets (row, column) from the pixel centre, within half a pixel.
    """
    before, last = 1, 2
    while last < count:
        before, last = last, before + last
    if last != count:
        raise ValueError(f"expected a Fibonacci number of rays, found {count}")
    k = np.arange(count)
    return np.stack([k, k * (last - before) % count], axis=1) / count + 0.5 / count - 0.5


def project(
    labels: NDArray[np.uint16],
    table: NDArray[np.float64],
    rotation: NDArray[np.float64],
    *,
    frame_shape: tuple[int, int],
    origin_px: tuple[float, float],
    pixel: float,
    rays_per_pixel: int = 5,
) -> NDArray[np.float64]:
    """Line integrals of several per-label quantities along lab z, averaged over each pixel.

    Parameters
    ----------
    labels : (z, y, x) uint16, origin at the voxel centre `n // 2`.
    table : (n_labels, k) float64, `k` quantities per label-map voxel length.
    rotation : (3, 3) float64, sample to lab.
    frame_shape : (ny, nx) of the frame.
    origin_px : (row, column) at which the sample's origin is seen.
    pixel : edge of a detector pixel [voxels of the label map].
    rays_per_pixel : see `ray_pattern`.

    Returns
    -------
    (k, ny, nx) float64.
    """
    out = np.empty((table.shape[1], *frame_shape))
    _march(
        labels,
        np.ascontiguousarray(table, np.float64),
        np.ascontiguousarray(rotation, np.float64),
        np.asarray(origin_px, np.float64),
        float(pixel),
        ray_pattern(rays_per_pixel),
        out,
    )
    return out
