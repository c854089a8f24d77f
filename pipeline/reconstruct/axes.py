"""Axes and symmetric tensors, packed as (components, voxels of the support).

An axis is known up to its sign; tensors are stored as xx yy zz yz xz xy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.eigen import symmetric_eigen
from pipeline.tomography.contrast import TENSOR_COMPONENTS

Packed = NDArray[np.float32]

CHUNK = 1 << 18
"""Voxels whose tensors are diagonalised at a time, to bound the memory of float64 matrices."""


def outer_tensor(vectors: Packed) -> Packed:
    """`v vᵀ` of vectors (3, ...) as (6, ...) in the order xx yy zz yz xz xy."""
    return np.stack([vectors[i] * vectors[j] for i, j in TENSOR_COMPONENTS])


def outer_gradient(tensor_gradient: Packed, vectors: Packed) -> Packed:
    """Chain rule through `outer_tensor`: gradient with respect to the vectors, (3, ...).

    Parameters
    ----------
    tensor_gradient : (6, ...) derivative with respect to the six stored components.
    vectors : (3, ...) where to take it.
    """
    out = np.zeros_like(vectors)
    for component, (i, j) in enumerate(TENSOR_COMPONENTS):
        out[i] += tensor_gradient[component] * vectors[j]
        out[j] += tensor_gradient[component] * vectors[i]
    return out


def symmetric_matrices(tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """Tensors (6, n) as matrices (n, 3, 3) float64."""
    matrices = np.empty((tensor.shape[1], 3, 3))
    for component, (i, j) in enumerate(TENSOR_COMPONENTS):
        matrices[:, i, j] = matrices[:, j, i] = tensor[component]
    return matrices


def dichroism_sign(tensor: Packed) -> int:
    """Sign of `f` in `T = f a aᵀ` from tensors (6, n) of which the trace need not be known.

    The deviatoric part of `f a aᵀ` has the determinant `2 f³ / 27`, so the summed determinant has
    the sign of `f`, most weight going where the dichroism is strong.
    """
    total = 0.0
    for start in range(0, tensor.shape[1], CHUNK):
        matrices = symmetric_matrices(tensor[:, start : start + CHUNK])
        trace = np.trace(matrices, axis1=1, axis2=2) / 3.0
        total += float(np.linalg.det(matrices - trace[:, None, None] * np.eye(3)).sum())
    return 1 if total >= 0.0 else -1


@dataclass(frozen=True)
class Principal:
    """Principal axes of packed tensors.

    Attributes
    ----------
    axis : (3, n) float32 unit vectors.
    contrast : (n,) float32, `f` of the nearest uniaxial tensor, clipped at zero.
    uniaxiality : (n,) float32 in 0..1.
    """

    axis: Packed
    contrast: Packed
    uniaxiality: Packed


def principal_axes(tensor: Packed, sign: int) -> Principal:
    """Axis of the largest eigenvalue of `sign · T` with how uniaxial the tensor is.

    With the eigenvalues `l1 >= l2 >= l3` of `sign · T`, the contrast is `l1 − (l2 + l3) / 2` and
    the uniaxiality `(l1 − l2) / (l1 − l3)`: one for `f a aᵀ`, zero where two axes mix alike.
    Neither depends on the trace.

    Parameters
    ----------
    tensor : (6, n) float32.
    sign : +1 or −1, see `dichroism_sign`.
    """
    n = tensor.shape[1]
    axis = np.empty((3, n), dtype=np.float32)
    contrast = np.empty(n, dtype=np.float32)
    uniaxiality = np.empty(n, dtype=np.float32)
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        values, axis[:, part] = symmetric_eigen(np.float32(sign) * tensor[:, part])
        l3, l2, l1 = values
        contrast[part] = l1 - 0.5 * (l2 + l3)
        span = l1 - l3
        uniaxiality[part] = np.divide(l1 - l2, span, out=np.zeros_like(span), where=span > 0.0)
    return Principal(axis, contrast, uniaxiality)


def upper_half(axis: Packed) -> Packed:
    """Of `a` and `−a` the one with `z > 0`; on the equator `y > 0`, at its ends `x > 0`."""
    x, y, z = axis
    flip = (z < 0) | ((z == 0) & ((y < 0) | ((y == 0) & (x < 0))))
    return np.where(flip, -axis, axis)
