"""Merging regions by the misorientation of their means: the core of the grain segmentation.

An orientation is a unit vector `v` of `d` components with a group of equivalents `G v`: for a
crystal axis `d = 3` and `G = {1, -1}`, for a crystal's full orientation `d = 4` (quaternion) and
`G` its rotation group. Everything below needs only that: the best equivalent is the one of largest
scalar product, and a mean is the normalised sum of best equivalents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Symmetry:
    """Equivalents of an orientation.

    Attributes
    ----------
    operators : (k, d, d) float64, orthogonal; `operators[i] @ v` is equivalent to `v`.
    angle_factor : float, misorientation per angle between the vectors: axes 1, quaternions 2.
    """

    operators: NDArray[np.float64]
    angle_factor: float


AXIS = Symmetry(np.stack([np.eye(3), -np.eye(3)]), 1.0)
"""A crystal axis without a sign."""


def cubic() -> Symmetry:
    """The 24 rotations of the cube acting on quaternions `(w, x, y, z)` from the left.

    For orientations that map crystal to sample, conjugate the quaternions first, so that the
    equivalents stand on the left.
    """
    units = np.eye(4)
    diagonals = [np.array([1, x, y, z]) / 2 for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    halves = [
        (units[i] + sign * units[j]) / np.sqrt(2)
        for i in range(4)
        for j in range(i + 1, 4)
        for sign in (1, -1)
    ]
    rotations = [*units, *diagonals, *halves]
    matrices = [sign * _left_product(q) for q in rotations for sign in (1, -1)]
    return Symmetry(np.array(matrices), 2.0)


def _left_product(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix of `p -> q p`."""
    w, x, y, z = q
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])


def misorientation_rad(
    a: NDArray[np.float64], b: NDArray[np.float64], symmetry: Symmetry = AXIS
) -> NDArray[np.float64]:
    """Smallest angle between orientations.

    Parameters
    ----------
    a, b : (n, d) unit vectors.
    symmetry : their equivalents.

    Returns
    -------
    (n,) float64 [rad].
    """
    both = np.arange(2 * len(a)).reshape(2, -1).T
    return pair_angles(np.concatenate([a, b]), both, symmetry)


def pair_angles(
    vectors: NDArray[np.float64], pairs: NDArray[np.integer], symmetry: Symmetry = AXIS
) -> NDArray[np.float64]:
    """`misorientation_rad` of pairs of nodes (m, 2), without a copy of their vectors."""
    angle = np.empty(len(pairs))
    _angles_of_pairs(vectors, np.ascontiguousarray(pairs), symmetry.operators, angle)
    angle *= symmetry.angle_factor
    return angle


def angles_to_means(
    vectors: NDArray[np.float64],
    means: NDArray[np.float64],
    labels: NDArray[np.int64],
    symmetry: Symmetry = AXIS,
) -> NDArray[np.float64]:
    """`misorientation_rad` of each node (n, d) and the mean of its region, `means[labels]`."""
    angle = np.empty(len(vectors))
    _angles_to_means(vectors, means, labels, symmetry.operators, angle)
    angle *= symmetry.angle_factor
    return angle


@numba.njit(cache=True, nogil=True)
def _angle(a, b, operators):  # type: ignore[no-untyped-def]
    best = -1.0
    for k in range(operators.shape[0]):
        dot = 0.0
        for i in range(a.shape[0]):
            row = 0.0
            for j in range(a.shape[0]):
                row += operators[k, i, j] * b[j]
            dot += a[i] * row
        best = max(best, dot)
    return np.arccos(min(best, 1.0))


@numba.njit(cache=True, nogil=True, parallel=True)
def _angles_of_pairs(vectors, pairs, operators, out):  # type: ignore[no-untyped-def]
    for n in numba.prange(out.shape[0]):
        out[n] = _angle(vectors[pairs[n, 0]], vectors[pairs[n, 1]], operators)


@numba.njit(cache=True, nogil=True, parallel=True)
def _angles_to_means(vectors, means, labels, operators, out):  # type: ignore[no-untyped-def]
    for n in numba.prange(out.shape[0]):
        out[n] = _angle(means[labels[n]], vectors[n], operators)


@numba.njit(cache=True)
def _best(a, b, operators, out):  # type: ignore[no-untyped-def]
    """Equivalent of `b` closest to `a` into `out`; returns the scalar product."""
    d = a.shape[0]
    best, which = -1e300, 0
    for k in range(operators.shape[0]):
        dot = 0.0
        for i in range(d):
            row = 0.0
            for j in range(d):
                row += operators[k, i, j] * b[j]
            dot += a[i] * row
        if dot > best:
            best, which = dot, k
    for i in range(d):
        out[i] = 0.0
        for j in range(d):
            out[i] += operators[which, i, j] * b[j]
    return best


@numba.njit(cache=True)
def _root(parent, i):  # type: ignore[no-untyped-def]
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def merge_edges(edges, order, sums, parent, operators, cosine):  # type: ignore[no-untyped-def]
    """Go through the edges once, merging two regions whose means are closer than a threshold.

    Parameters
    ----------
    edges : (m, 2) int, indices of nodes.
    order : (m,) int, the sequence of the edges, most similar ones first.
    sums : (n, d) float64, sum of best equivalents of each region; changed in place at the roots.
    parent : (n,) int, union-find forest; changed in place.
    operators : (k, d, d) float64.
    cosine : of the largest angle between vectors (half of the misorientation for quaternions).
    """
    d = sums.shape[1]
    moved = np.empty(d)
    for index in order:
        i, j = _root(parent, edges[index, 0]), _root(parent, edges[index, 1])
        if i == j:
            continue
        length_i, length_j = 0.0, 0.0
        for c in range(d):
            length_i += sums[i, c] ** 2
            length_j += sums[j, c] ** 2
        length_i, length_j = np.sqrt(length_i), np.sqrt(length_j)
        dot = _best(sums[i], sums[j], operators, moved)
        if dot <= cosine * length_i * length_j:
            continue
        # The longer sum leads, so that its equivalent stays.
        if length_i < length_j:
            _best(sums[j], sums[i], operators, moved)
            i, j = j, i
        for c in range(d):
            sums[i, c] += moved[c]
        parent[j] = i


@numba.njit(cache=True)
def find_roots(parent):  # type: ignore[no-untyped-def]
    """Root of every node of a union-find forest."""
    roots = np.empty_like(parent)
    for i in range(parent.shape[0]):
        roots[i] = _root(parent, i)
    return roots


@numba.njit(cache=True)
def join_edges(edges, n):  # type: ignore[no-untyped-def]
    """Union-find forest in which both ends of every edge hang together."""
    parent = np.arange(n)
    for index in range(edges.shape[0]):
        i, j = _root(parent, edges[index, 0]), _root(parent, edges[index, 1])
        if i != j:
            parent[max(i, j)] = min(i, j)
    return parent


@numba.njit(cache=True)
def region_sums(vectors, labels, n, operators):  # type: ignore[no-untyped-def]
    """Sum of best equivalents of each region, in the order of the nodes.

    Returns
    -------
    (n, d) float64 and the number of nodes (n,) int64.
    """
    sums = np.zeros((n, vectors.shape[1]))
    counts = np.zeros(n, np.int64)
    moved = np.empty(vectors.shape[1])
    for i in range(vectors.shape[0]):
        label = labels[i]
        if counts[label] == 0:
            sums[label] = vectors[i]
        else:
            _best(sums[label], vectors[i], operators, moved)
            for c in range(moved.shape[0]):
                sums[label, c] += moved[c]
        counts[label] += 1
    return sums, counts


@numba.njit(cache=True)
def count_others(labels, grid, places, offsets):  # type: ignore[no-untyped-def]
    """Number of neighbours of another label for each node, (n,) uint8; outside is no label."""
    others = np.zeros(labels.shape[0], np.uint8)
    for i in range(labels.shape[0]):
        for a in range(offsets.shape[0]):
            j = grid[places[i] + offsets[a]]
            if j >= 0 and labels[j] != labels[i]:
                others[i] += 1
    return others


@numba.njit(cache=True)
def shift_means(vectors, grid, places, offsets, operators, cosine):  # type: ignore[no-untyped-def]
    """One step of mean shift: each node moves to the mean of what around it is near to it.

    Parameters
    ----------
    vectors : (n, d) float64.
    grid, places, offsets, operators : as in `relax`.
    cosine : of the largest angle between vectors that are near.

    Returns
    -------
    (n, d) float64 unit vectors, and the smallest cosine of a step.
    """
    n, d = vectors.shape
    moved = np.empty((n, d))
    scratch = np.empty(d)
    least = 1.0
    for i in range(n):
        for c in range(d):
            moved[i, c] = vectors[i, c]
        for a in range(offsets.shape[0]):
            j = grid[places[i] + offsets[a]]
            if j >= 0 and _best(vectors[i], vectors[j], operators, scratch) > cosine:
                for c in range(d):
                    moved[i, c] += scratch[c]
        length, along = 0.0, 0.0
        for c in range(d):
            length += moved[i, c] ** 2
            along += moved[i, c] * vectors[i, c]
        length = np.sqrt(length)
        least = min(least, along / length)
        for c in range(d):
            moved[i, c] /= length
    return moved, least


@numba.njit(cache=True)
def grow(labels, vectors, means, grid, places, offsets, operators):  # type: ignore[no-untyped-def]
    """Give unlabelled nodes (-1) the label of a neighbour, layer by layer.

    Of the labels around it, each node takes the one whose mean is nearest to its orientation.

    Parameters
    ----------
    labels : (n,) int, changed in place; nodes that no label reaches stay -1.
    vectors, means, grid, places, offsets, operators : as in `relax`.
    """
    n = labels.shape[0]
    chosen = np.empty(n, np.int64)
    scratch = np.empty(vectors.shape[1])
    front = np.flatnonzero(labels < 0)
    while front.shape[0] > 0:
        n_chosen = 0
        for index in range(front.shape[0]):
            i = front[index]
            best, which = -2.0, -1
            for a in range(offsets.shape[0]):
                j = grid[places[i] + offsets[a]]
                if j < 0 or labels[j] < 0:
                    continue
                dot = _best(means[labels[j]], vectors[i], operators, scratch)
                if dot > best:
                    best, which = dot, labels[j]
            chosen[index] = which
            n_chosen += which >= 0
        if n_chosen == 0:
            return
        for index in range(front.shape[0]):
            labels[front[index]] = chosen[index]
        front = front[chosen[: front.shape[0]] < 0]


@numba.njit(cache=True)
def _uniform(labels, i, grid, places, offsets):  # type: ignore[no-untyped-def]
    """Whether node `i` and all nodes around it have one label."""
    for a in range(offsets.shape[0]):
        j = grid[places[i] + offsets[a]]
        if j >= 0 and labels[j] != labels[i]:
            return False
    return True


@numba.njit(cache=True)
def relax(labels, awake, vectors, means, grid, places, offsets, operators, energy_per_rad2, pull):  # type: ignore[no-untyped-def]
    """One sweep of iterated conditional modes: each node takes the best label of its neighbours.

    The energy is `energy_per_rad2` times the squared angle to the region's mean, less `pull` for
    every neighbour of the same label.

    Parameters
    ----------
    labels : (n,) int, changed in place.
    awake : (n,) uint8, nodes that may have a neighbour of another label; changed in place. All
        ones for the first sweep; the next ones then pass over the inside of the regions.
    vectors : (n, d) float64.
    means : (n_regions, d) float64 unit vectors.
    grid : flat volume of node indices, -1 where there is none, padded by one voxel.
    places : (n,) int, where each node is in it.
    offsets : (q,) int, from a place to its neighbours.
    operators : (k, d, d) float64.

    Returns
    -------
    Number of nodes that changed.
    """
    changed = 0
    scratch = np.empty(vectors.shape[1])
    for i in range(labels.shape[0]):
        if not awake[i]:
            continue
        own = labels[i]
        best_label, best_energy = own, 1e300
        if _uniform(labels, i, grid, places, offsets):
            awake[i] = 0
            continue
        for a in range(-1, offsets.shape[0]):
            j = i if a < 0 else grid[places[i] + offsets[a]]
            if j < 0 or (a >= 0 and labels[j] == best_label):
                continue
            label = labels[j]
            same = 0
            for b in range(offsets.shape[0]):
                k = grid[places[i] + offsets[b]]
                if k >= 0 and labels[k] == label:
                    same += 1
            dot = min(_best(means[label], vectors[i], operators, scratch), 1.0)
            energy = energy_per_rad2 * np.arccos(dot) ** 2 - pull * same
            if energy < best_energy:
                best_energy, best_label = energy, label
        if best_label != own:
            labels[i] = best_label
            changed += 1
            for a in range(offsets.shape[0]):
                j = grid[places[i] + offsets[a]]
                if j >= 0:
                    awake[j] = 1
    return changed
