"""Where the sample is: the support of the reconstructions, found in a scalar tomogram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from pipeline.errors import GeometryError
from schemas.recipe import SupportSettings

Mask = NDArray[np.bool_]

_KEEP = 0.1
"""Parts of the sample smaller than this fraction of the largest are noise or dust."""

_ABOVE_AIR = 6.0
"""Standard deviations of the air that light matter must be above, so that noise is not matter."""

_SHEET = 2
"""Half of the thickness [voxel] of what may be nothing but the blurred surface of dense matter."""


def find_support(volume: NDArray[np.float32], settings: SupportSettings) -> Mask:
    """Find where the sample is.

    The slightly smoothed volume is thresholded, by Otsu's threshold if `settings` has none. That
    lies halfway between air and the densest material, so that matter of less than half of its
    density would be lost: what is clearly above the air, and thicker than the blurred surface of
    the dense matter that passes through the same densities, is taken too where it touches the
    sample. Of the connected parts those of at least a tenth of the largest stay; enclosed pores are
    filled, because what is in them is unknown, not absent.

    Parameters
    ----------
    volume : (z, y, x) float32, matter of either sign.
    settings : threshold and dilation.

    Returns
    -------
    (z, y, x) bool.

    Raises
    ------
    GeometryError
        If the volume is not three-dimensional, not finite, or constant.

    Notes
    -----
    Otsu 1979, doi 10.1109/TSMC.1979.4310076.
    """
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise GeometryError(f"find_support: expected a finite volume, found {volume.shape}")
    if np.ptp(volume) == 0.0:
        raise GeometryError("find_support: expected a sample, found a constant volume")
    density = ndimage.gaussian_filter(volume, 1.0)
    if abs(density.min()) > abs(density.max()):
        density = -density
    level = float(threshold_otsu(density))
    if settings.threshold is not None:
        level = settings.threshold * float(np.median(density[density > level]))
    sample = density > level
    if settings.threshold is None:
        sample |= _light_matter(density, sample)
    labels, n_parts = ndimage.label(sample)
    sizes = np.bincount(labels.ravel(), minlength=n_parts + 1)
    sizes[0] = 0
    support = ndimage.binary_fill_holes((sizes >= max(1.0, _KEEP * sizes.max()))[labels])
    if settings.dilate:
        support = ndimage.binary_dilation(support, iterations=settings.dilate)
    return np.asarray(support, dtype=np.bool_)


def _light_matter(density: NDArray[np.float32], dense: Mask) -> Mask:
    """Matter below the threshold of the dense one that touches it, thick enough to be no surface.

    The rest is split once more by Otsu's threshold. Twice eroded, surfaces vanish: they are no
    thicker than the blur of the tomogram and of the smoothing. What is left grows back within
    the light matter, as far as it was taken away.
    """
    rest = density[~dense]
    if np.ptp(rest) == 0.0:
        return np.zeros_like(dense)
    level = float(threshold_otsu(rest))
    air = rest[rest <= level]
    middle = float(np.median(air))
    noise = 1.4826 * float(np.median(np.abs(air - middle)))
    if level < middle + _ABOVE_AIR * noise:
        return np.zeros_like(dense)
    light = (density > level) & ~dense
    core = ndimage.binary_erosion(light, iterations=_SHEET)
    # One more than was taken away closes the gap to the dense matter's blurred surface.
    grown = ndimage.binary_dilation(core, iterations=_SHEET + 1, mask=light)
    labels, _ = ndimage.label(dense | grown)
    touching = np.unique(labels[dense])
    return np.asarray(grown & np.isin(labels, touching))
