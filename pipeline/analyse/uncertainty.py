"""Uncertainty of the orientation from a twin of known truth, and noise from two halves.

The twin (`pipeline.reconstruct.ensemble`) is reconstructed from data that were made of the result
itself, so that the angle between its axis and the result's is an error of known size, and noise,
prior and resolution have all had their part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.errors import InputError

MEDIAN_OF_RMS = float(np.sqrt(np.log(2.0)))
"""Median of a Rayleigh distribution, the angle of two independent errors, over its rms."""


def orientation_uncertainty(
    axis: NDArray[np.float32],
    twin: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    neighbourhood: int = 5,
) -> NDArray[np.float32]:
    """Standard deviation (rms angle) of the axis, for every voxel.

    Parameters
    ----------
    axis : (3, z, y, x) float32 reconstructed axes, of which the twin was made.
    twin : (3, z, y, x) float32 axes reconstructed from the twin's data; signs do not matter.
    mask : (z, y, x) bool, voxels that carry an orientation.
    neighbourhood : edge of the cube [voxel] over which the median angle is taken: a single voxel
        is one sample of two angles and would say little about its own spread, and a mean of squares
        would spread the large errors at a boundary into the grains beside it.

    Returns
    -------
    (z, y, x) float32 [degree], 0 outside the mask. It is an rms over both directions; the median
    error of such a voxel is 0.83 times as large (Rayleigh distribution).

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if axis.shape != twin.shape or axis.shape != (3, *mask.shape):
        raise InputError(
            f"expected axes (3, z, y, x) on the mask {mask.shape}, found {axis.shape} "
            f"and {twin.shape}"
        )
    # |a x b| and |a . b| together are exact at small and at large angles, for any length.
    cross = np.sqrt(np.sum(np.cross(axis, twin, axis=0) ** 2, axis=0))
    angle = np.arctan2(cross, np.abs(np.sum(axis * twin, axis=0)))
    angles = np.where(mask, angle, np.nan).astype(np.float32)
    rms = _local_median(angles, neighbourhood // 2) / np.float32(MEDIAN_OF_RMS)
    return np.where(mask, np.degrees(rms), 0.0).astype(np.float32)


@njit(cache=True, parallel=True)
def _local_median(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Median over the cube of `reach` voxels to each side, of what is not NaN."""
    nz, ny, nx = values.shape
    out = np.full(values.shape, np.float32(np.nan))
    for z in prange(nz):
        near = np.empty((2 * reach + 1) ** 3, np.float32)
        for y in range(ny):
            for x in range(nx):
                if np.isnan(values[z, y, x]):
                    continue
                count = 0
                for k in range(max(z - reach, 0), min(z + reach + 1, nz)):
                    for j in range(max(y - reach, 0), min(y + reach + 1, ny)):
                        for i in range(max(x - reach, 0), min(x + reach + 1, nx)):
                            if not np.isnan(values[k, j, i]):
                                near[count] = values[k, j, i]
                                count += 1
                out[z, y, x] = np.median(near[:count])
    return out


@dataclass(frozen=True)
class Reliability:
    """How stated uncertainties compare with errors, from the smallest to the largest.

    Attributes
    ----------
    stated_deg : (bins,) median error that the stated uncertainties predict [degree].
    found_deg : (bins,) median error that there is [degree].
    voxels : (bins,) how many voxels each bin has.
    """

    stated_deg: NDArray[np.float64]
    found_deg: NDArray[np.float64]
    voxels: NDArray[np.int64]

    @property
    def ratio(self) -> NDArray[np.float64]:
        """(bins,) found over stated; 1 is honest."""
        return self.found_deg / self.stated_deg


def reliability(
    error_deg: NDArray[np.float64], stated_deg: NDArray[np.float32], bins: int = 5
) -> Reliability:
    """Reliability curve: median errors of voxels, sorted by what they state, in equal parts.

    Parameters
    ----------
    error_deg : (n,) angle to the truth [degree].
    stated_deg : (n,) stated rms uncertainty [degree]; voxels that state none are left out.
    bins : number of parts.

    Raises
    ------
    InputError
        If fewer voxels than bins state an uncertainty.
    """
    stated = np.flatnonzero(stated_deg > 0.0)
    if len(stated) < bins:
        raise InputError(f"expected at least {bins} stated uncertainties, found {len(stated)}")
    parts = np.array_split(stated[np.argsort(stated_deg[stated], kind="stable")], bins)
    return Reliability(
        np.array([MEDIAN_OF_RMS * np.median(stated_deg[part]) for part in parts]),
        np.array([np.median(error_deg[part]) for part in parts]),
        np.array([len(part) for part in parts]),
    )


def half_set_noise(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Rms noise of a field reconstructed from the full data, from its two halves.

    The full data are the mean of the halves as long as the reconstruction is linear in them, and
    sum and difference of independent errors of equal spread have the same distribution.

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
