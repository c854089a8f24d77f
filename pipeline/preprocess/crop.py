"""The part of the frames that holds measurements, common to a whole series.

Outside the scanned area reconstructions are empty, along its rim they mean nothing. A series is
cut to one rectangle, for its frames have to stay of one shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.preprocess.quality import missing_area
from pipeline.preprocess.rectangle import largest_rectangle
from pipeline.preprocess.residues import phase_residues

Crop = tuple[slice, slice]

SAMPLES = 16
"""Projections from which the rectangle of a series is found."""

MOST_BAD = 0.25
"""A pixel is left out where more than this part of the projections hold no measurement there: a
few bad ones do not narrow the series, they are proposed for exclusion instead."""

LEAST_LEFT = 1 / 16
"""Less of the frame than this is no usable area."""

LEAST_CENTRED = 0.8
"""A side is cut until the centre pixel stays the centre pixel if this part of it is left then."""

_MOST_RESIDUES = 0.01
"""Local density above which a border area is noise; of pure noise it is one third."""

_TOO_BRIGHT = 3.0
"""No sample transmits more than air: a border area brighter than the middle by this is noise."""

_AIR = 1.2
"""Constant pixels that are brighter than all others, but by no more than this, are the air of a
calculated frame: measured air is noisy, and some of it brighter than any start value."""


def common_crop(frames: Iterable[NDArray[Any]]) -> Crop:
    """Rectangle without empty or noisy border that the projections of a series share.

    Parameters
    ----------
    frames : (ny, nx) complex transmissions of one shape, some of the series or all.

    Returns
    -------
    Slices along y and x; of the whole frame where the borders are good, and where so little would
    be left that cropping is no remedy.

    Raises
    ------
    InputError
        If there are no frames, or they differ in shape.

    Notes
    -----
    The origin of a frame is its pixel `n // 2`. Where it costs less than a fifth of a side, the
    rectangle is made to keep that pixel its own; otherwise the rotation axis lies elsewhere in the
    cropped frames, by a shift that all of them share and that alignment finds.
    """
    bad: NDArray[np.int64] | None = None
    count = 0
    for frame in frames:
        count += 1
        if bad is None:
            bad = np.zeros(frame.shape, np.int64)
        if frame.shape != bad.shape:
            raise InputError(f"expected frames of shape {bad.shape}, found {frame.shape}")
        bad += _unmeasured(frame) | _noisy(frame)
    if bad is None:
        raise InputError("expected frames to crop, found none")
    found = _within(bad > MOST_BAD * count)
    left = [part.stop - part.start for part in found]
    whole = (slice(0, bad.shape[0]), slice(0, bad.shape[1]))
    if left[0] * left[1] < LEAST_LEFT * bad.size:
        return whole
    return _centre(found[0], bad.shape[0]), _centre(found[1], bad.shape[1])


def describe_crop(part: Crop, shape: tuple[int, int]) -> str:
    """What was cut off, as a sentence; empty where nothing was."""
    if all(side.stop - side.start == n for side, n in zip(part, shape, strict=True)):
        return ""
    rows, columns = part
    return (
        f"Cut to rows {rows.start} to {rows.stop - 1} and columns {columns.start} to "
        f"{columns.stop - 1} of {shape[0]} x {shape[1]} pixels: the border is empty or noise."
    )


def _centre(part: slice, n: int) -> slice:
    """Part with the pixel `n // 2` as its own centre pixel, where that costs little."""
    before, after = n // 2 - part.start, part.stop - n // 2
    half = min(before, after)
    # An odd length has as many pixels after its centre pixel as before it, counted without it.
    centred = slice(n // 2 - half, n // 2 + half + (after > half))
    length = centred.stop - centred.start
    return centred if length >= LEAST_CENTRED * (part.stop - part.start) else part


def _unmeasured(frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Missing area, but for constant air: only a calculation has it, and it is as bright as air."""
    missing = missing_area(frame)
    if not missing.any() or missing.all():
        return missing
    amplitude = np.abs(np.where(np.isfinite(frame), frame, 0.0))
    brightest = float(amplitude[~missing].max())
    air = missing & (amplitude >= (1.0 - 1e-6) * brightest) & (amplitude <= _AIR * brightest)
    return missing & ~air


def _within(bad: NDArray[np.bool_]) -> Crop:
    """Largest rectangle without bad pixels that are connected with the border."""
    labels, _ = ndimage.label(bad, np.ones((3, 3), bool))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outer = np.isin(labels, np.unique(edge[edge > 0]))
    return largest_rectangle(~outer)


def _noisy(frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Areas whose phase is full of residues, or that are brighter than any sample."""
    finite = np.where(np.isfinite(frame), frame, 0.0)
    phase = np.angle(finite) if np.iscomplexobj(frame) else finite
    _, charge = phase_residues(phase)
    spots = np.pad(np.abs(charge).astype(np.float64), ((0, 1), (0, 1)))
    width = max(5, min(frame.shape) // 24)
    noisy: NDArray[np.bool_] = ndimage.uniform_filter(spots, width) > _MOST_RESIDUES
    if np.iscomplexobj(frame):
        amplitude = np.abs(finite)
        ny, nx = frame.shape
        middle = np.median(amplitude[ny // 4 : ny - ny // 4, nx // 4 : nx - nx // 4])
        noisy |= ndimage.uniform_filter(amplitude, 3) > _TOO_BRIGHT * middle
    return noisy
