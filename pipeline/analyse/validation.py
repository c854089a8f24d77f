"""Validation of a map of composition against an independent map seen along one direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from pipeline.errors import InputError
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import rotation_y
from pipeline.tomography.projector import Projector

CLOSE = 0.15
"""Difference in composition below which a pixel agrees, as published for battery cathodes."""

LEAST_MATTER = 0.05
"""Fraction of the thickest place below which a pixel's composition says nothing."""

FEWEST_PIXELS = 10
"""Pixels that both maps must know for a comparison."""


@dataclass(frozen=True)
class Comparison:
    """A projected map against an independent one.

    Attributes
    ----------
    r_factor : `Σ |projected - reference| / Σ |reference|`; NaN where nothing can be compared.
    close : share of the pixels whose difference is below `CLOSE`.
    bias : mean difference, projected minus reference.
    pixels : number of pixels compared.
    shift_px : (dy, dx) by which the projection was moved onto the reference [pixel].
    projected, reference : (ny, nx) float32 maps; NaN where unknown.
    notes : sentences that the reader must know.
    """

    r_factor: float
    close: float
    bias: float
    pixels: int
    shift_px: tuple[float, float]
    projected: NDArray[np.float32]
    reference: NDArray[np.float32]
    notes: tuple[str, ...] = ()


def compare_projection(
    amounts: NDArray[np.float32], reference: NDArray[np.floating], angle_deg: float = 0.0
) -> Comparison:
    """Project the amounts of the components, and compare their composition with a map.

    What a microscope sees is the sum of the amounts along the beam, so these are projected, not the
    composition. The projection is first moved onto the reference by the translation that
    correlates best.

    Parameters
    ----------
    amounts : (n_components, z, y, x) float32.
    reference : (ny, nx) composition on the same pixel size, centre at `n // 2`; NaN where unknown.
    angle_deg : rotation about y at which it was taken [degree].

    Raises
    ------
    InputError : the reference is no image.
    """
    if reference.ndim != 2:
        raise InputError(f"expected a map (ny, nx), found shape {reference.shape}")
    ny, nx = reference.shape
    rotation = rotation_y(math.radians(angle_deg))[None]
    geometry = (amounts.shape[1:], (ny, nx), rotation, scalar_weights(1))
    projector = Projector(*geometry, "general")
    first = projector.forward(np.ascontiguousarray(amounts[:1]))[0]
    total = projector.forward(amounts.sum(axis=0, dtype=np.float32)[None])[0]
    known = np.isfinite(reference)
    image = np.where(known, 1.0 + np.nan_to_num(reference), 0.0)
    shift = (0.0, 0.0)
    if known.any() and total.max(initial=0.0) > 0:
        moving = np.where(_thick(total), 1.0 + _share(first, total), 0.0)
        found = phase_cross_correlation(image, moving, upsample_factor=10, normalization=None)[0]
        shift = float(found[0]), float(found[1])
    first, total = (ndimage.shift(values, shift, order=1) for values in (first, total))
    thick = _thick(total)
    both = known & thick
    projected = np.where(thick, _share(first, total), np.nan).astype(np.float32)
    ours, theirs = projected[both].astype(np.float64), np.asarray(reference)[both]
    enough = ours.size >= FEWEST_PIXELS
    norm = float(np.abs(theirs).sum())
    return Comparison(
        r_factor=float(np.abs(ours - theirs).sum()) / norm if enough and norm > 0 else math.nan,
        close=float(np.mean(np.abs(ours - theirs) < CLOSE)) if enough else math.nan,
        bias=float(np.mean(ours - theirs)) if enough else math.nan,
        pixels=int(ours.size),
        shift_px=shift,
        projected=projected,
        reference=np.asarray(reference, np.float32),
        notes=() if enough else ("the independent map and the sample have no pixels in common",),
    )


def _thick(total: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray(total > LEAST_MATTER * max(float(total.max(initial=0.0)), 1e-30))


def _share(first: NDArray[np.floating], total: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.divide(first, total, out=np.zeros(total.shape), where=total > 0)
