"""Averages of axes, which have no sign: never their components, always `a aᵀ`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.density import block_mean
from pipeline.eigen import symmetric_eigen
from pipeline.errors import InputError
from pipeline.tomography.contrast import TENSOR_COMPONENTS


def axis_tensor(axis: NDArray[np.floating]) -> NDArray[np.float32]:
    """`a aᵀ` of an axis field.

    Parameters
    ----------
    axis : (3, ...) components x, y, z.

    Returns
    -------
    (6, ...) float32, xx yy zz yz xz xy: the form in which axes, which have no sign, are averaged.
    """
    return np.stack([axis[i] * axis[j] for i, j in TENSOR_COMPONENTS]).astype(np.float32)


def principal_axis(tensor: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unit eigenvector of the largest eigenvalue.

    Parameters
    ----------
    tensor : (6, ...), xx yy zz yz xz xy, as from `axis_tensor`.

    Returns
    -------
    (3, ...) float64; its component of largest magnitude is positive.
    """
    axis = symmetric_eigen(tensor.reshape(6, -1))[1]
    return axis.reshape(3, *tensor.shape[1:])


def downsample_axis(
    axis: NDArray[np.float32], mask: NDArray[np.bool_], edge: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Average an axis field over cubes, by `a aᵀ`.

    Parameters
    ----------
    axis : (3, z, y, x) float32.
    mask : (z, y, x) bool, voxels that count.
    edge : of the cubes [voxel].

    Returns
    -------
    axis (3, z', y', x') float32 and mask: cubes of which at least half counts.
    """
    if edge == 1:
        return axis, mask
    weight = block_mean(mask.astype(np.float32), edge)
    if weight.size == 0:
        raise InputError(f"grains.downsample: {edge} is more than the volume {mask.shape} has")
    tensor = block_mean(axis_tensor(axis) * mask, edge)
    coarse = weight >= 0.5
    mean = np.zeros((3, *coarse.shape), np.float32)
    mean[:, coarse] = principal_axis(tensor[:, coarse])
    return mean, coarse
