"""Normals of label boundaries, and samples of a field along them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

NORMAL_REACH = 3
"""Voxels to each side from which a normal is taken: it averages the steps of the voxels."""

TANGENT = 1
"""Voxels to each side, across the profile, that are averaged: nine profiles side by side."""


@njit(cache=True, nogil=True)
def face_normals(
    labels: NDArray[np.int32], faces: NDArray[np.float64], pairs: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Unit normals from the first label of each pair to the second.

    Parameters
    ----------
    labels : (z, y, x) int32.
    faces : (k, 3) float64 z, y, x [voxel].
    pairs : (k, 2) int32.

    Returns
    -------
    (k, 3) float64, z, y, x; zero where the two labels balance. In a ball about the face, the
    normal is the way from the centre of the one label's voxels to that of the other's.
    """
    nz, ny, nx = labels.shape
    out = np.zeros_like(faces)
    limit = (NORMAL_REACH + 0.5) ** 2
    for k in range(len(faces)):
        z0, y0, x0 = faces[k]
        sums = np.zeros(3)
        for z in range(max(int(z0) - NORMAL_REACH, 0), min(int(z0) + NORMAL_REACH + 2, nz)):
            for y in range(max(int(y0) - NORMAL_REACH, 0), min(int(y0) + NORMAL_REACH + 2, ny)):
                for x in range(max(int(x0) - NORMAL_REACH, 0), min(int(x0) + NORMAL_REACH + 2, nx)):
                    a, b, c = z - z0, y - y0, x - x0
                    if a * a + b * b + c * c > limit:
                        continue
                    sign = 0.0
                    if labels[z, y, x] == pairs[k, 1]:
                        sign = 1.0
                    elif labels[z, y, x] == pairs[k, 0]:
                        sign = -1.0
                    sums[0] += sign * a
                    sums[1] += sign * b
                    sums[2] += sign * c
        norm = np.sqrt((sums**2).sum())
        if norm > 0:
            out[k] = sums / norm
    return out


@njit(cache=True, nogil=True)
def _cubic(t, weights):  # type: ignore[no-untyped-def]
    """Weights of the four samples around a fraction `t`: Keys' cubic, exact for parabolas."""
    weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
    weights[1] = (1.5 * t - 2.5) * t * t + 1.0
    weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
    weights[3] = (0.5 * t - 0.5) * t * t


@njit(cache=True, nogil=True)
def _value(field, weights, z, y, x, wz, wy, wx):  # type: ignore[no-untyped-def]
    """Weighted sum of the components at a point; NaN outside the volume."""
    n_parts, nz, ny, nx = field.shape
    i, j, k = int(np.floor(z)), int(np.floor(y)), int(np.floor(x))
    if i < 1 or j < 1 or k < 1 or i + 2 >= nz or j + 2 >= ny or k + 2 >= nx:
        return np.nan
    _cubic(z - i, wz)
    _cubic(y - j, wy)
    _cubic(x - k, wx)
    total = 0.0
    for part in range(n_parts):
        own = 0.0
        for a in range(4):
            for b in range(4):
                row = 0.0
                for c in range(4):
                    row += wx[c] * field[part, i + a - 1, j + b - 1, k + c - 1]
                own += wz[a] * wy[b] * row
        total += weights[part] * own
    return total


@njit(cache=True, nogil=True)
def sample_profiles(
    field: NDArray[np.float32],
    faces: NDArray[np.float64],
    normals: NDArray[np.float64],
    weights: NDArray[np.float64],
    distance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Field along normals, averaged over nine profiles side by side.

    Parameters
    ----------
    field : (c, z, y, x) float32.
    faces, normals : (k, 3) float64 z, y, x.
    weights : (k, c) float64, what each profile takes of the components.
    distance : (m,) float64 [voxel].

    Returns
    -------
    (k, m) float64; NaN where a profile leaves the volume.

    Notes
    -----
    Keys, IEEE Trans. Acoust. 29, 1153 (1981), doi 10.1109/TASSP.1981.1163711.
    """
    out = np.zeros((len(faces), len(distance)))
    wz, wy, wx = np.zeros(4), np.zeros(4), np.zeros(4)
    first, second = np.zeros(3), np.zeros(3)
    for k in range(len(faces)):
        n = normals[k]
        least = np.argmin(np.abs(n))
        # One vector across, from the axis that is farthest from the normal; then the other.
        for i in range(3):
            first[i] = (1.0 if i == least else 0.0) - n[least] * n[i]
        first /= np.sqrt((first**2).sum())
        second[0] = n[1] * first[2] - n[2] * first[1]
        second[1] = n[2] * first[0] - n[0] * first[2]
        second[2] = n[0] * first[1] - n[1] * first[0]
        for m in range(len(distance)):
            total, count = 0.0, 0
            for a in range(-TANGENT, TANGENT + 1):
                for b in range(-TANGENT, TANGENT + 1):
                    z = faces[k, 0] + distance[m] * n[0] + a * first[0] + b * second[0]
                    y = faces[k, 1] + distance[m] * n[1] + a * first[1] + b * second[1]
                    x = faces[k, 2] + distance[m] * n[2] + a * first[2] + b * second[2]
                    total += _value(field, weights[k], z, y, x, wz, wy, wx)
                    count += 1
            out[k, m] = total / count
    return out
