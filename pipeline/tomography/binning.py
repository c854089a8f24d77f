"""Data and supports on wider pixels, fields back on narrower ones, the origin `n // 2` kept.

A voxel of a grid that is binned by `b` lies where every `b`-th voxel of the fine grid lies, counted
from the origin, so that nothing moves by half a voxel. Fields are in data per voxel: the same field
has `b` times the value on voxels `b` times as wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.preprocess.resample import fourier_resample
from pipeline.stacks import DifferencedStack
from pipeline.tomography.priors import Field, Mask

Shape3 = tuple[int, int, int]


def binned_stack(stack: DifferencedStack, binning: int) -> DifferencedStack:
    """Stack on pixels `binning` times as wide; valid where all was that their blur reaches.

    Noise is taken to be white: of so many pixels that are averaged, it falls by the root.

    Parameters
    ----------
    stack : projections of any contrast.
    binning : >= 1.
    """
    shape = fewer(stack.data.shape[1:], binning)
    data = stack.data if stack.valid is None else np.where(stack.valid, stack.data, np.float32(0.0))
    small = fourier_resample(data, 1.0, float(binning), (shape[0], shape[1]))
    valid = None
    if stack.valid is not None:
        size = (1, 2 * binning + 1, 2 * binning + 1)
        reached = ndimage.minimum_filter(stack.valid, size)
        valid = reached[:, *every(reached.shape[1:], shape, binning)]
    return replace(
        stack,
        data=small,
        valid=valid,
        noise=stack.noise / binning,
        pixel_size_m=stack.pixel_size_m * binning,
    )


def binned_support(support: Mask, binning: int) -> Mask:
    """Voxels `binning` times as wide that hold any of the support, (z, y, x) bool.

    The shape is as wide as it takes to cover all of the fine grid.
    """
    reach = binning // 2
    shape = tuple(
        (n // 2 + reach) // binning + (n - 1 - n // 2 + reach) // binning + 1 for n in support.shape
    )
    near = ndimage.maximum_filter(support, 2 * reach + 1)
    index = [
        np.clip((np.arange(m) - m // 2) * binning + n // 2, 0, n - 1)
        for n, m in zip(support.shape, shape, strict=True)
    ]
    return np.ascontiguousarray(near[np.ix_(*index)])


def finer_field(field: Field, support: Mask, fine_support: Mask, binning: float) -> Field:
    """Field on voxels `binning` times as narrow, by linear interpolation inside the support.

    Parameters
    ----------
    field : (c, z, y, x) float32, zero outside its support.
    support : (z, y, x) bool, that of the field, from `binned_support`.
    fine_support : (z, y, x) bool of the finer grid; the result is zero outside.
    binning : >= 1.

    Returns
    -------
    (c, z, y, x) float32 in data per narrow voxel.
    """
    share = np.maximum(_interpolated(support.astype(np.float32), fine_support, binning), 1e-6)
    out = np.empty((len(field), *fine_support.shape), np.float32)
    for component, values in zip(out, field, strict=True):
        component[...] = _interpolated(values, fine_support, binning) / (binning * share)
    out *= fine_support
    return out


def _interpolated(volume: NDArray[np.float32], like: Mask, binning: float) -> NDArray[np.float32]:
    offset = [m // 2 - (n // 2) / binning for n, m in zip(like.shape, volume.shape, strict=True)]
    found = ndimage.affine_transform(
        volume, [1.0 / binning] * 3, offset, like.shape, order=1, mode="nearest"
    )
    return np.asarray(found, dtype=np.float32)


def fewer(shape: Sequence[int], step: int) -> tuple[int, ...]:
    """Numbers of every `step`-th element counted from the centre `n // 2`, which stays."""
    return tuple(n // 2 // step + (n - 1 - n // 2) // step + 1 for n in shape)


def every(old: Sequence[int], new: Sequence[int], step: int) -> tuple[slice, ...]:
    """Every `step`-th element such that the centre `n // 2` of the old is that of the new."""
    starts = [n // 2 - step * (m // 2) for n, m in zip(old, new, strict=True)]
    return tuple(
        slice(start, start + step * (m - 1) + 1, step) for start, m in zip(starts, new, strict=True)
    )
