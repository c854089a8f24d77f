"""Uncertainty of the orientation from two halves of the data.

Each half gives an axis with an error of its own, `e1` and `e2`: two small angles in the plane
perpendicular to the axis, independent and of equal spread. The full data is their mean as long as
the reconstruction is close to linear in the data, so its error is `(e1 + e2) / 2`. The halves
differ by `e1 - e2`. Sum and difference of independent errors of equal spread have the same
distribution: the error of the full data is distributed as *half of the difference of the halves*.
What the halves share (a wrong alignment, a prior, resolution) does not show in their difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError


def orientation_uncertainty(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    neighbourhood: int = 3,
    calibration: float = 1.0,
) -> NDArray[np.float32]:
    """Standard deviation (rms angle) of the axis of the full data, for every voxel.

    Parameters
    ----------
    first, second : (3, z, y, x) float32 axes from the two halves; their signs do not matter.
    mask : (z, y, x) bool, voxels that carry an orientation.
    neighbourhood : edge of the cube [voxel] over which the squared difference is averaged: a single
        voxel is one sample of two angles and would say little about its own spread.
    calibration : factor on the result, where a comparison with known truth asks for one.

    Returns
    -------
    (z, y, x) float32 [degree], 0 outside the mask. It is an rms over both directions; the median
    error of such a voxel is 0.83 times as large (Rayleigh distribution).

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if first.shape != second.shape or first.shape != (3, *mask.shape):
        raise InputError(
            f"expected axes (3, z, y, x) on the mask {mask.shape}, found {first.shape} "
            f"and {second.shape}"
        )
    # |a x b| and |a . b| together are exact at small and at large angles, for any length.
    cross = np.sqrt(np.sum(np.cross(first, second, axis=0) ** 2, axis=0))
    angle = np.arctan2(cross, np.abs(np.sum(first * second, axis=0)))
    squared = np.where(mask, angle**2, 0.0)
    weight = ndimage.uniform_filter(mask.astype(np.float64), neighbourhood, mode="constant")
    mean = ndimage.uniform_filter(squared, neighbourhood, mode="constant")
    half = 0.5 * calibration * np.sqrt(np.maximum(mean, 0.0) / np.maximum(weight, 1e-6))
    return np.where(mask, np.degrees(half), 0.0).astype(np.float32)


def half_set_noise(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Rms noise of a field reconstructed from the full data, from its two halves.

    Parameters
    ----------
    first, second : (..., n) float32, e.g. the dichroic tensor (6, n) at the voxels of the sample.

    Returns
    -------
    rms of half of the difference, per voxel and component, in the unit of the field; 0 for none.
    """
    if first.size == 0:
        return 0.0
    return float(0.5 * np.sqrt(np.mean((first.astype(np.float64) - second) ** 2)))
