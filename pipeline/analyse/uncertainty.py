"""Uncertainty of the orientation from a twin of known truth, and noise from two halves.

The twin (`pipeline.reconstruct.ensemble`) is reconstructed from data that were made of the result
itself, so that the angle between its axis and the result's is an error of known size, and noise,
prior and resolution have all had their part in it.

What all projections have in common has not: images that are blurred by more than the reconstruction
undoes, and structure that is too fine to be in the result, hence in its twin. Simulations show that
such a twin errs less than the result does, at every level by about the same factor, which grains,
noise and a second phase move between 1 and 1.5. One field shows that factor without any truth: the
magnitude. Within one material it is the same, whatever the axis, so that what it scatters from
voxel to voxel is an error of the same fit to the same data as the axis' own. `understatement` is
how much more the result's magnitude scatters than the twin's is wrong, and stated errors grow by
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError

MEDIAN_OF_RMS = float(np.sqrt(np.log(2.0)))
"""Median of a Rayleigh distribution, the angle of two independent errors, over its rms."""

MEDIAN_OF_NORMAL = 0.6745
"""Median of the size of a normal error over its standard deviation."""

REACH = 4
"""Voxels to each side over which a stated error is the median, and within which the magnitude is
taken not to change. An error is the same over several voxels, so that fewer are one sample of it,
and the voxels that state the least would be those that were lucky: with two, the lowest fifth
states a quarter less than the others do; with more, what is next to a boundary is lost."""

MOST_UNDERSTATED = 2.0
"""Most by which stated errors grow. More has not been seen without truth that differs: such a
magnitude varies in the sample itself."""

SAMPLES = 100_000
"""Voxels of which the median scatter of the magnitude is taken, evenly from all."""


def orientation_uncertainty(
    axis: NDArray[np.float32],
    twin: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    factor: float = 1.0,
    reach: int = REACH,
) -> NDArray[np.float32]:
    """Standard deviation (rms angle) of the axis, for every voxel.

    Parameters
    ----------
    axis : (3, z, y, x) float32 reconstructed axes, of which the twin was made.
    twin : (3, z, y, x) float32 axes reconstructed from the twin's data; signs do not matter.
    mask : (z, y, x) bool, voxels that carry an orientation.
    factor : by which the twin states too little (`understatement`).
    reach : voxels to each side over which the median angle is taken: a single voxel is one sample
        of two angles and would say little about its own spread, and a mean of squares would spread
        the large errors at a boundary into the grains beside it.

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
    rms = local_median(angle, mask, reach) * np.float32(factor / MEDIAN_OF_RMS)
    return np.where(mask, np.degrees(rms), 0.0).astype(np.float32)


def magnitude_error(
    made_of: NDArray[np.float32],
    twin: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    factor: float = 1.0,
    reach: int = REACH,
) -> NDArray[np.float32]:
    """Standard deviation of the magnitude, for every voxel.

    Parameters
    ----------
    made_of : (z, y, x) float32 magnitudes of which the twin was made.
    twin : (z, y, x) float32 magnitudes reconstructed from the twin's data.
    mask, factor, reach : as in `orientation_uncertainty`.

    Returns
    -------
    (z, y, x) float32 in the unit of the magnitudes, 0 outside the mask; the median error of such a
    voxel is 0.67 times as large (normal distribution).

    Raises
    ------
    InputError
        If the shapes differ.
    """
    _check_magnitudes(made_of, twin, mask)
    middle = local_median(np.abs(twin - made_of), mask, reach)
    return np.where(mask, middle * np.float32(factor / MEDIAN_OF_NORMAL), 0.0).astype(np.float32)


def understatement(
    magnitude: NDArray[np.float32],
    made_of: NDArray[np.float32],
    twin: NDArray[np.float32],
    mask: NDArray[np.bool_],
) -> float:
    """By what factor errors are larger than those of the twin, judged by the magnitude.

    Parameters
    ----------
    magnitude : (z, y, x) float32, of the result.
    made_of, twin : (z, y, x) float32, of which the twin was made, and what was found of it.
    mask : (z, y, x) bool, voxels of materials in which the magnitude does not change within
        `REACH` voxels.

    Returns
    -------
    Median size of what the magnitude differs by from its median around, over that of the twin's
    error; 1 to `MOST_UNDERSTATED`. One where there is nothing to tell it from.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    _check_magnitudes(magnitude, twin, mask)
    _check_magnitudes(made_of, twin, mask)
    # At a surface the sample fills a part of a voxel, and the magnitude is another in truth.
    inside = ndimage.binary_erosion(mask, np.ones((3, 3, 3), bool))
    every = np.flatnonzero(inside)
    if not len(every):
        return 1.0
    some = every[:: max(1, len(every) // SAMPLES)]
    here = np.isin(np.arange(mask.size), some).reshape(mask.shape)
    found, stated = (
        float(np.median(np.abs(values - local_median(values, inside, REACH, here))[here]))
        for values in (magnitude, twin - made_of)
    )
    return float(np.clip(found / stated, 1.0, MOST_UNDERSTATED)) if stated > 0.0 else 1.0


def _check_magnitudes(
    first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]
) -> None:
    if not first.shape == second.shape == mask.shape:
        raise InputError(
            f"expected magnitudes of the mask's shape {mask.shape}, found {first.shape} and "
            f"{second.shape}"
        )


def local_median(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    reach: int,
    where: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Median over the cube of `reach` voxels to each side, of what lies in the mask.

    Parameters
    ----------
    values : (z, y, x) float32.
    mask : (z, y, x) bool.
    reach : voxels to each side.
    where : (z, y, x) bool, voxels of the mask for which to find it; all of them if absent.

    Returns
    -------
    (z, y, x) float32, NaN where it was not asked for.
    """
    return _local_median(values.astype(np.float32), mask, mask if where is None else where, reach)


@njit(cache=True, parallel=True)
def _local_median(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    where: NDArray[np.bool_],
    reach: int,
) -> NDArray[np.float32]:
    nz, ny, nx = values.shape
    out = np.full(values.shape, np.float32(np.nan))
    for z in prange(nz):
        near = np.empty((2 * reach + 1) ** 3, np.float32)
        for y in range(ny):
            for x in range(nx):
                if not (mask[z, y, x] and where[z, y, x]):
                    continue
                count = 0
                for k in range(max(z - reach, 0), min(z + reach + 1, nz)):
                    for j in range(max(y - reach, 0), min(y + reach + 1, ny)):
                        for i in range(max(x - reach, 0), min(x + reach + 1, nx)):
                            if mask[k, j, i]:
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
