"""Faces between labels as one mesh of triangles in which junctions are shared.

A dual mesh: every corner of voxels around which labels differ is a vertex, every voxel face
between two labels a quadrilateral. Where three grains meet, their three faces share the vertices
of the line, so that there is neither gap nor overlap. Then each vertex moves to where the boundary
is: around it, a plane is fitted to the voxels of two labels (linear regression of the label on the
position, with Gaussian weights). Voxels of a third label are left out of the fit, not counted
against it, so that a boundary runs straight into a junction or the surface of the sample. The
gradient of the fit is the normal: it has no stairs. Smoothing a mesh would shrink it; moving along
the normal keeps its area.

Source: Gibson, Proc. MICCAI 1998, 888, doi 10.1007/BFb0056277 (nets of surfaces).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

SIGMA = 1.3
"""Standard deviation of the weights [voxel]: errors of single voxels average out."""

REACH = 4
"""Voxels to either side of a vertex that are looked at."""

CHUNK = 1 << 16
"""Vertices that one thread places at a time."""

FARTHEST = 0.87
"""A vertex stays within the cube of voxels around it [voxel]: half of its diagonal."""


@dataclass(frozen=True)
class LabelMesh:
    """Triangles between labels.

    Attributes
    ----------
    points : (n, 3) float64, x, y, z [voxel] from voxel `n // 2`.
    triangles : (m, 3) int64.
    sides : (m, 2) int32, labels on the two sides, the smaller one first; 0 is outside.
    normals : (m, 3) float64 unit vectors, smooth, from the first label to the second.
    areas : (m,) float64 [voxel²].
    """

    points: NDArray[np.float64]
    triangles: NDArray[np.int64]
    sides: NDArray[np.int32]
    normals: NDArray[np.float64]
    areas: NDArray[np.float64]

    def only(self, chosen: NDArray[np.bool_]) -> LabelMesh:
        """Some of the triangles, with the points that they need."""
        used = np.zeros(len(self.points), bool)
        used[self.triangles[chosen]] = True
        number = np.cumsum(used) - 1
        return LabelMesh(
            points=self.points[used],
            triangles=number[self.triangles[chosen]],
            sides=self.sides[chosen],
            normals=self.normals[chosen],
            areas=self.areas[chosen],
        )


def pairs_of(mesh: LabelMesh) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Pairs of labels that have faces between them, (k, 2) in order, and the pair of each face."""
    n = int(mesh.sides.max(initial=0)) + 1
    code = mesh.sides[:, 0].astype(np.int64) * n + mesh.sides[:, 1]
    if n * n > len(code):
        found, which = np.unique(code, return_inverse=True)
    else:
        found = np.flatnonzero(np.bincount(code, minlength=n * n))
        number = np.zeros(n * n, np.int64)
        number[found] = np.arange(len(found))
        which = number[code]
    return np.stack([found // n, found % n], axis=1).astype(np.int32), which.reshape(-1)


def mesh_labels(label: NDArray[np.int32], *, outside: bool = True) -> LabelMesh:
    """Mesh all faces between different labels, and between labels and the outside.

    Parameters
    ----------
    label : (z, y, x) int32; 0 is outside, and so is everything beyond the volume.
    outside : False leaves out the faces towards the outside.

    Returns
    -------
    The mesh; empty without any label.
    """
    label = np.ascontiguousarray(label, np.int32)
    shape = tuple(n + 1 for n in label.shape)
    corner = np.zeros(shape, np.int32)
    n_quads = int(_count_quads(label, outside, corner))
    n_points = int(_number_corners(corner))
    quads = np.empty((n_quads, 4), np.int32)
    sides = np.empty((n_quads, 2), np.int32)
    _fill_quads(label, outside, corner, quads, sides)
    places = np.argwhere(corner >= 0).astype(np.int32)
    del corner
    moves = np.zeros((n_points, 3))
    normals = np.zeros((n_points, 3))
    weights, everything = _weights()
    # Every vertex is placed by itself, so that the number of threads does not matter.
    parts = [slice(start, start + CHUNK) for start in range(0, n_points, CHUNK)]
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        work = [
            pool.submit(_place, label, places[k], weights, everything, moves[k], normals[k])
            for k in parts
        ]
        for part in work:
            part.result()
    zyx = places - 0.5 + moves - np.array(label.shape) // 2
    return _triangulated(np.ascontiguousarray(zyx[:, ::-1]), normals[:, ::-1], quads, sides)


def _weights() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian weight of a voxel whose centre is `k + ½` away, and the moments of all voxels."""
    away = np.arange(REACH) + 0.5
    weights = np.exp(-0.5 * (away / SIGMA) ** 2)
    everything = np.zeros(10)
    everything[0] = (2.0 * weights.sum()) ** 3
    everything[4:7] = 2.0 * (weights * away**2).sum() * (2.0 * weights.sum()) ** 2
    return weights, everything


def _triangulated(
    points: NDArray[np.float64],
    normals: NDArray[np.float64],
    quads: NDArray[np.int32],
    sides: NDArray[np.int32],
) -> LabelMesh:
    """Cut quadrilaterals along their shorter diagonal."""
    corners = points[quads]
    first = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    second = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    rotated = np.where((first <= second)[:, None], quads, np.roll(quads, -1, axis=1))
    triangles = np.concatenate([rotated[:, [0, 1, 2]], rotated[:, [0, 2, 3]]]).astype(np.int64)
    del corners, rotated
    edges = points[triangles]
    cross = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    length = np.linalg.norm(cross, axis=1)
    flat = cross / np.maximum(length, 1e-12)[:, None]
    # Vertices where two labels meet know the normal, those of junctions do not.
    smooth = normals[triangles].sum(axis=1)
    norm = np.linalg.norm(smooth, axis=1, keepdims=True)
    smooth = np.where(norm > 0.5, smooth / np.maximum(norm, 1e-12), flat)
    return LabelMesh(points, triangles, np.tile(sides, (2, 1)), smooth, 0.5 * length)


@numba.njit(cache=True, nogil=True)
def _at(label, z, y, x):  # type: ignore[no-untyped-def]
    """Label of a voxel; 0 beyond the volume."""
    nz, ny, nx = label.shape
    if z < 0 or y < 0 or x < 0 or z >= nz or y >= ny or x >= nx:
        return 0
    return label[z, y, x]


@numba.njit(cache=True, nogil=True)
def _count_quads(label, outside, corner):  # type: ignore[no-untyped-def]
    """Number of faces, those towards the outside only if asked for; marks their corners with 1."""
    nz, ny, nx = label.shape
    count = 0
    for z in range(nz + 1):
        for y in range(ny + 1):
            for x in range(nx + 1):
                here = _at(label, z, y, x)
                if here == 0 and not outside:
                    continue
                for axis in range(3):
                    before = _at(label, z - (axis == 0), y - (axis == 1), x - (axis == 2))
                    if before == here or (before == 0 and not outside):
                        continue
                    count += 1
                    u, v = axis != 0, axis != 2
                    corner[z, y, x] = 1
                    corner[z + u, y + (axis == 0), x] = 1
                    corner[z, y + (axis == 2), x + v] = 1
                    corner[z + u, y + (axis != 1), x + v] = 1
    return count


@numba.njit(cache=True, nogil=True)
def _number_corners(corner):  # type: ignore[no-untyped-def]
    """Number the marked corners in C order, the others -1."""
    flat = corner.reshape(-1)
    count = 0
    for i in range(flat.shape[0]):
        if flat[i] != 0:
            flat[i] = count
            count += 1
        else:
            flat[i] = -1
    return count


@numba.njit(cache=True, nogil=True)
def _fill_quads(label, outside, corner, quads, sides):  # type: ignore[no-untyped-def]
    """Corners of each face, such that its normal goes from the smaller label to the larger."""
    nz, ny, nx = label.shape
    count = 0
    for z in range(nz + 1):
        for y in range(ny + 1):
            for x in range(nx + 1):
                here = _at(label, z, y, x)
                for axis in range(3):
                    dz, dy, dx = axis == 0, axis == 1, axis == 2
                    before = _at(label, z - dz, y - dy, x - dx)
                    if before == here or (not outside and (before == 0 or here == 0)):
                        continue
                    # The two other axes, in cyclic order of x, y, z: right-handed.
                    if axis == 0:
                        u, v = (0, 0, 1), (0, 1, 0)
                    elif axis == 1:
                        u, v = (1, 0, 0), (0, 0, 1)
                    else:
                        u, v = (0, 1, 0), (1, 0, 0)
                    one = corner[z + u[0], y + u[1], x + u[2]]
                    both = corner[z + u[0] + v[0], y + u[1] + v[1], x + u[2] + v[2]]
                    two = corner[z + v[0], y + v[1], x + v[2]]
                    forward = before < here
                    quads[count, 0] = corner[z, y, x]
                    quads[count, 1] = one if forward else two
                    quads[count, 2] = both
                    quads[count, 3] = two if forward else one
                    sides[count, 0] = min(before, here)
                    sides[count, 1] = max(before, here)
                    count += 1


@numba.njit(cache=True, nogil=True)
def _touching(label, place, names):  # type: ignore[no-untyped-def]
    """Number of labels around a corner, and which ones."""
    n = 0
    for index in range(8):
        z, y, x = place[0] - (index >> 2), place[1] - ((index >> 1) & 1), place[2] - (index & 1)
        found = _at(label, z, y, x)
        new = True
        for i in range(n):
            new = new and names[i] != found
        if new:
            names[n] = found
            n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _moments(label, place, weights, names, n, sums):  # type: ignore[no-untyped-def]
    """Weighted moments of the voxels of each label around a corner.

    Into `sums[i]` go the moments 1, z, y, x, zz, yy, xx, yx, zx, zy of label `names[i]`.
    """
    for i in range(n):
        for c in range(10):
            sums[i, c] = 0.0
    reach = weights.shape[0]
    for k in range(-reach, reach):
        z = k + 0.5
        wz = weights[k if k >= 0 else -k - 1]
        for j in range(-reach, reach):
            y = j + 0.5
            wy = wz * weights[j if j >= 0 else -j - 1]
            for h in range(-reach, reach):
                found = _at(label, place[0] + k, place[1] + j, place[2] + h)
                for i in range(n):
                    if names[i] == found:
                        x = h + 0.5
                        w = wy * weights[h if h >= 0 else -h - 1]
                        sums[i, 0] += w
                        sums[i, 1] += w * z
                        sums[i, 2] += w * y
                        sums[i, 3] += w * x
                        sums[i, 4] += w * z * z
                        sums[i, 5] += w * y * y
                        sums[i, 6] += w * x * x
                        sums[i, 7] += w * y * x
                        sums[i, 8] += w * z * x
                        sums[i, 9] += w * z * y
                        break


@numba.njit(cache=True, nogil=True)
def _solve(m, b, out):  # type: ignore[no-untyped-def]
    """Solve the symmetric system `m x = b`, m as zz, yy, xx, yx, zx, zy; Cramer's rule."""
    a00, a11, a22, a12, a02, a01 = m[0], m[1], m[2], m[3], m[4], m[5]
    c00, c11, c22 = a11 * a22 - a12 * a12, a00 * a22 - a02 * a02, a00 * a11 - a01 * a01
    c01, c02, c12 = a02 * a12 - a01 * a22, a01 * a12 - a02 * a11, a01 * a02 - a00 * a12
    determinant = a00 * c00 + a01 * c01 + a02 * c02
    out[0] = (c00 * b[0] + c01 * b[1] + c02 * b[2]) / determinant
    out[1] = (c01 * b[0] + c11 * b[1] + c12 * b[2]) / determinant
    out[2] = (c02 * b[0] + c12 * b[1] + c22 * b[2]) / determinant


@numba.njit(cache=True, nogil=True)
def _fit_plane(one, two, everything, scratch, normal):  # type: ignore[no-untyped-def]
    """Plane between the voxels of two labels: unit normal (z, y, x) into `normal`.

    Returns the distance of the plane from the corner along the normal, or NaN without a plane.
    """
    total = one[0] + two[0]
    value = (two[0] - one[0]) / total
    mean, slope, matrix = scratch[0:3], scratch[3:6], scratch[6:12]
    for i in range(3):
        mean[i] = (one[1 + i] + two[1 + i]) / total
        slope[i] = (two[1 + i] - one[1 + i]) / total - value * mean[i]
    for c in range(6):
        matrix[c] = (one[4 + c] + two[4 + c]) / total
    for i in range(3):
        # Where all voxels lie in one layer, the fit is flat across it.
        matrix[i] += 0.05 - mean[i] * mean[i]
    matrix[3] -= mean[1] * mean[2]
    matrix[4] -= mean[0] * mean[2]
    matrix[5] -= mean[0] * mean[1]
    _solve(matrix, slope, normal)
    length = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    if length < 1e-9:
        return math.nan
    middle = 0.0
    for i in range(3):
        normal[i] /= length
        middle += 0.5 * normal[i] * (one[1 + i] / one[0] + two[1 + i] / two[0])
    if total <= 0.99 * everything[0]:
        return _offset_of_middle(middle)
    # (1 - sigma²/2 ∇²) of the Gaussian: unlike it, right for a curved boundary too.
    spread, flat = 0.0, 2.5 * everything[0]
    for i in range(4, 7):
        spread += (two[i] - one[i]) / (2.0 * SIGMA**2)
        flat -= everything[i] / (2.0 * SIGMA**2)
    return -_offset_of_value((2.5 * (two[0] - one[0]) - spread) / flat)


@numba.njit(cache=True, nogil=True)
def _offset_of_value(value):  # type: ignore[no-untyped-def]
    """Distance of the corner from a plane at which the filtered label (-1, 1) has this value."""
    t = 0.0
    for _ in range(6):
        density = math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
        error = math.erf(t / math.sqrt(2.0)) + t * density - value
        t = min(max(t - error / (density * (3.0 - t * t)), -0.8), 0.8)
    return t * SIGMA


@numba.njit(cache=True, nogil=True)
def _offset_of_middle(middle):  # type: ignore[no-untyped-def]
    """Place of a plane for which this is the middle of the means of both sides.

    Where other labels take voxels away from one side, its mean along the normal stays, other than
    its weight.
    """
    t = 0.0
    for _ in range(6):
        density = math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
        below = 0.5 * (1.0 + math.erf(t / math.sqrt(2.0)))
        error = 0.5 * density * (2 * below - 1) / (below * (1 - below)) - middle / SIGMA
        # Its slope at the plane itself is 2/π.
        t = min(max(t - error * math.pi / 2, -0.8), 0.8)
    return t * SIGMA


@numba.njit(cache=True, nogil=True)
def _place(label, places, weights, everything, moves, normals):  # type: ignore[no-untyped-def]
    """Where each vertex moves [voxel], and its normal where just two labels meet (z, y, x)."""
    names = np.empty(8, np.int64)
    sums = np.empty((8, 10))
    other = np.empty(10)
    scratch = np.empty(12)
    matrix = np.empty(6)
    target = np.empty(3)
    for index in range(places.shape[0]):
        n = _touching(label, places[index], names)
        _moments(label, places[index], weights, names, n, sums)
        normal = normals[index]
        move = moves[index]
        if n == 2:
            a, b = (0, 1) if names[0] < names[1] else (1, 0)
            distance = _fit_plane(sums[a], sums[b], everything, scratch, normal)
            for c in range(3):
                move[c] = 0.0 if math.isnan(distance) else distance * normal[c]
        else:
            for c in range(3):
                target[c] = 0.0
                matrix[c] = 1e-3
                matrix[3 + c] = 0.0
            for i in range(n):
                # `i` against each other label, and against all the others together.
                for j in range(i + 1, n + 1):
                    for c in range(10):
                        other[c] = sums[j, c] if j < n else everything[c] - sums[i, c]
                    if other[0] > 0.0:
                        _add_plane(sums[i], other, everything, scratch, normal, matrix, target)
            _solve(matrix, target, move)
            for c in range(3):
                normal[c] = 0.0
        length = math.sqrt(move[0] ** 2 + move[1] ** 2 + move[2] ** 2)
        for c in range(3):
            move[c] *= min(1.0, FARTHEST / max(length, 1e-12))


@numba.njit(cache=True, nogil=True)
def _add_plane(one, two, everything, scratch, normal, matrix, target):  # type: ignore[no-untyped-def]
    """Add a plane to the system whose solution is where the planes of a junction meet.

    A plane counts 1 for sides of equal weight and little for a wedge against a half space: voxels
    of a third label are missing in the fit. Missing on both sides alike they do no harm; missing
    on one side only they turn the plane.
    """
    distance = _fit_plane(one, two, everything, scratch, normal)
    if math.isnan(distance):
        return
    weight = (min(one[0], two[0]) / max(one[0], two[0])) ** 4
    for c in range(3):
        target[c] += weight * distance * normal[c]
        matrix[c] += weight * normal[c] * normal[c]
    matrix[3] += weight * normal[1] * normal[2]
    matrix[4] += weight * normal[0] * normal[2]
    matrix[5] += weight * normal[0] * normal[1]
