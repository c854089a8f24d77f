"""A twin of the measurement, whose truth is known: what noise and prior do to a result.

A sample of the reconstructed axes is projected, the residuals of the real data are put back with a
sign thrown for each projection, and the twin data are reconstructed with the same settings. How far
the twin's axes are from those that it was made of is how far the real ones are from the truth, as
far as noise, prior, voxels, missing directions and what is inconsistent between projections go (the
wild bootstrap: Wu, Ann. Stat. 14, 1261 (1986), doi 10.1214/aos/1176350142). Keeping the signs of a
whole projection together keeps the correlation of neighbouring pixels, as of a shift that is left
over. What all projections have in common, a wrong degree of polarisation say, does not show.

The sample must not be the result as it is. That has edges as wide as voxels, noise and prior have
left them, in places that suit the voxels, and to find these again is easier than to find real ones:
a twin of it states a quarter to a third too little. Real edges are sharp and lie anywhere. So the
sample is drawn on points half a voxel apart, and each takes one of the axes that the steadiest
voxels around it have (as Kuwahara's filter, Comput. Graph. Image Process. 5, 1 (1976)): the one
that is nearest to what the result, interpolated, has at that point, or none where the result
has hardly any contrast. What structure
there is below the result's resolution cannot be known, nor by how much images are blurred beyond
what is undone; how much too little the twin states for that, the magnitude tells
(`pipeline.analyse.uncertainty.understatement`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.errors import GeometryError
from pipeline.preprocess.resample import fourier_shift
from pipeline.reconstruct.axes import outer_tensor
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Projector, fastest_scheme

Place = tuple[int, int, int]


@dataclass(frozen=True)
class Twin:
    """A twin of a measurement.

    Attributes
    ----------
    stack : its data, with the geometry of the real ones.
    axis : (3, z, y, x) float32 axes that it was made of.
    magnitude : (z, y, x) float32, their `|f|`.
    """

    stack: DifferencedStack
    axis: NDArray[np.float32]
    magnitude: NDArray[np.float32]


def twin_of_orientation(
    stack: DifferencedStack,
    axis: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    sign: int,
    rng: np.random.Generator,
    isotropic: NDArray[np.float32] | None = None,
) -> Twin:
    """Data of a sample that has the reconstructed axes, with the residuals of the real data.

    Parameters
    ----------
    stack : the real data, contrast linear.
    axis : (3, z, y, x) float32 reconstructed axes, unit vectors.
    magnitude : (z, y, x) float32 reconstructed `|f|`, zero outside the support.
    sign : sign of `f`.
    rng : throws the signs of the residuals.
    isotropic : (z, y, x) float32, of polarisations that were fitted jointly.

    Raises
    ------
    GeometryError
        If axis and magnitude differ in shape.
    """
    if axis.shape != (3, *magnitude.shape):
        raise GeometryError(
            f"twin: expected axes (3, z, y, x) of the magnitude's shape {magnitude.shape}, "
            f"found {axis.shape}"
        )
    vectors = (axis * np.sqrt(magnitude)).astype(np.float32)
    support = magnitude > 0
    steady = _steadiest(_roughness(vectors, support), support)
    sharp = vectors.reshape(3, -1)[:, steady].reshape(vectors.shape) * support
    projector = _projector(stack, magnitude.shape)
    fitted = projector.forward(_field(vectors, sign, isotropic))
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), size=len(stack.data))
    data = signs[:, None, None] * (stack.data - fitted)
    made, strength = axis, magnitude
    for parity in product((0, 1), (0, 1), (0, 1)):
        drawn = np.zeros_like(vectors)
        _draw(vectors, sharp, support, parity, drawn)
        between = None if isotropic is None else _between(isotropic, parity)
        images = projector.forward(_field(drawn, sign, between))
        if any(parity):
            # Points half a voxel further show half a voxel further, as that is turned.
            offsets = 0.5 * stack.rotations[:, :2] @ np.array(parity[::-1], np.float64)
            for image, (dx, dy) in zip(images, offsets, strict=True):
                image[...] = fourier_shift(image, dy, dx)
        else:
            length = np.linalg.norm(drawn, axis=0)
            made = np.where(length > 0.0, drawn / np.maximum(length, 1e-30), axis) * support
            strength = length**2
        data += np.float32(0.125) * images
    return Twin(replace(stack, data=data), made.astype(np.float32), strength.astype(np.float32))


def _field(
    vectors: NDArray[np.float32], sign: int, isotropic: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Tensors `s v vᵀ`, and the isotropic part if there is one."""
    tensor = np.float32(sign) * outer_tensor(vectors)
    # The weights of the tensor are traceless beside an isotropic part: its trace is not seen.
    return tensor if isotropic is None else np.concatenate([tensor, isotropic[None]])


def _between(values: NDArray[np.float32], parity: tuple[int, ...]) -> NDArray[np.float32]:
    """Values (z, y, x) half a voxel further along the axes whose parity is one."""
    for axis, odd in enumerate(parity):
        if odd:
            behind = np.concatenate(
                [
                    np.take(values, range(1, values.shape[axis]), axis),
                    np.zeros_like(np.take(values, [0], axis)),
                ],
                axis,
            )
            values = np.float32(0.5) * (values + behind)
    return values


def _projector(stack: DifferencedStack, shape: tuple[int, ...]) -> Projector:
    return Projector(
        shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        fastest_scheme(stack.rotations),
        point_spread_px=stack.point_spread_px,
    )


@njit(parallel=True, cache=True)
def _roughness(vectors: NDArray[np.float32], support: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean square difference of `v vᵀ` between a voxel and those beside it in the support."""
    _, nz, ny, nx = vectors.shape
    out = np.zeros((nz, ny, nx), np.float32)
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if not support[z, y, x]:
                    continue
                here = vectors[:, z, y, x]
                own = here[0] ** 2 + here[1] ** 2 + here[2] ** 2
                total, count = 0.0, 0
                for n in range(6):
                    d = 2 * (n % 2) - 1
                    k = z + (d if n // 2 == 0 else 0)
                    j = y + (d if n // 2 == 1 else 0)
                    i = x + (d if n // 2 == 2 else 0)
                    if 0 <= k < nz and 0 <= j < ny and 0 <= i < nx and support[k, j, i]:
                        there = vectors[:, k, j, i]
                        other = there[0] ** 2 + there[1] ** 2 + there[2] ** 2
                        both = here[0] * there[0] + here[1] * there[1] + here[2] * there[2]
                        total += own * own + other * other - 2.0 * both * both
                        count += 1
                out[z, y, x] = total / max(count, 1)
    return out


@njit(parallel=True, cache=True)
def _steadiest(rough: NDArray[np.float32], support: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flat index of the least rough voxel of the support among a voxel and the 26 around it."""
    nz, ny, nx = rough.shape
    out = np.zeros(rough.size, np.int64)
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                own = (z * ny + y) * nx + x
                # The voxel itself first: it stays where others are no steadier.
                best, out[own] = rough[z, y, x], own
                for k in range(max(z - 1, 0), min(z + 2, nz)):
                    for j in range(max(y - 1, 0), min(y + 2, ny)):
                        for i in range(max(x - 1, 0), min(x + 2, nx)):
                            if support[k, j, i] and rough[k, j, i] < best:
                                best = rough[k, j, i]
                                out[own] = (k * ny + j) * nx + i
    return out


@njit(cache=True)
def _mean_tensor(
    vectors: NDArray[np.float32], low: Place, high: Place, mean: NDArray[np.float64]
) -> None:
    """Mean of `v vᵀ` over the voxels from `low` to `high`; what lies outside counts as zero."""
    _, nz, ny, nx = vectors.shape
    mean[:] = 0.0
    share = 1.0 / ((high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]))
    for k in range(low[0], min(high[0], nz)):
        for j in range(low[1], min(high[1], ny)):
            for i in range(low[2], min(high[2], nx)):
                for a in range(3):
                    for b in range(3):
                        mean[a, b] += share * vectors[a, k, j, i] * vectors[b, k, j, i]


@njit(cache=True)
def _distance(vectors: NDArray[np.float32], place: Place, mean: NDArray[np.float64]) -> float:
    """`|m - v vᵀ|²` less `|m|²`."""
    k, j, i = place
    square, along = 0.0, 0.0
    for a in range(3):
        square += vectors[a, k, j, i] ** 2
        for b in range(3):
            along += vectors[a, k, j, i] * mean[a, b] * vectors[b, k, j, i]
    return square * square - 2.0 * along


@njit(parallel=True, cache=True)
def _draw(
    vectors: NDArray[np.float32],
    sharp: NDArray[np.float32],
    support: NDArray[np.bool_],
    parity: Place,
    out: NDArray[np.float32],
) -> None:
    """Of the sharp vectors near a point the one whose `v vᵀ` is nearest to the mean around it.

    The point lies half a voxel further along the axes whose parity is one. It stays empty where the
    mean has less than half of that vector's contrast.
    """
    _, nz, ny, nx = vectors.shape
    pz, py, px = parity
    for z in prange(nz):
        mean = np.empty((3, 3))
        for y in range(ny):
            for x in range(nx):
                _mean_tensor(vectors, (z, y, x), (z + pz + 1, y + py + 1, x + px + 1), mean)
                best, place = np.inf, (-1, -1, -1)
                for k in range(max(z - 1, 0), min(z + pz + 2, nz)):
                    for j in range(max(y - 1, 0), min(y + py + 2, ny)):
                        for i in range(max(x - 1, 0), min(x + px + 2, nx)):
                            if support[k, j, i]:
                                apart = _distance(sharp, (k, j, i), mean)
                                if apart < best:
                                    best, place = apart, (k, j, i)
                if place[0] < 0:
                    continue
                k, j, i = place
                contrast = sharp[0, k, j, i] ** 2 + sharp[1, k, j, i] ** 2 + sharp[2, k, j, i] ** 2
                if mean[0, 0] + mean[1, 1] + mean[2, 2] >= 0.5 * contrast:
                    for a in range(3):
                        out[a, z, y, x] = sharp[a, k, j, i]
