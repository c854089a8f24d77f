"""Tomograms of other energies have another contrast in every component; outlines they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu


def saturated(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clip a tomogram where its faintest matter is full: 0 in air, 1 in any component.

    Registered as they are, particles that are bright at one energy and faint at the other pull two
    tomograms apart and even turn them. Full is Otsu's threshold between air and the faint among
    what lies below Otsu's threshold of the whole.

    Parameters
    ----------
    volume : (z, y, x) float32, matter positive.

    Returns
    -------
    (z, y, x) float32, 0 to 1; the volume itself where nothing stands out from air.
    """
    smooth = ndimage.gaussian_filter(volume, 1.0)
    if not np.ptp(smooth) > 0.0:
        return volume
    below = smooth[smooth < threshold_otsu(smooth)]
    level = float(threshold_otsu(below)) if below.size and np.ptp(below) > 0.0 else 0.0
    if not level > 0.0:
        return volume
    return np.clip(volume / np.float32(level), 0.0, 1.0).astype(np.float32)
