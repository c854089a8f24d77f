"""Registration of partners: LV onto LH, C- onto C+, projection by projection.

The difference of partners is the signal, so a shift between them must not be invented by it. The
fit therefore carries, beside the shift, an offset, a slope and a common factor for the partner's
phase: what is left is the dichroism of single grains, which no gradient of the whole resembles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from pipeline.align.canvas import for_each, open_borders
from pipeline.errors import InputError
from pipeline.preprocess.resample import fourier_shift
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import PhaseStack

BANDS_PX = ((3.0, 12.0), (1.0, 3.0))
"""Gaussian blurs between which both frames are compared, coarse and fine [pixel]: the first widens
the reach of the linearised fit; the second keeps edges, where a shift shows most, and leaves out
the noise of single pixels and the broad differences of dichroic grains."""

MOST_STEPS = 10
"""Gauss-Newton steps in each band; three suffice from within a pixel."""

CLOSE_PX = 1e-3
"""A step below this ends the fit [pixel]."""

BORDER_PX, FADE_PX = 2.0, 8.0
"""Pixels of a moved frame that its border disturbs, and over which its share fades."""

ANGLE_TOLERANCE_DEG = 0.01
"""Partners further apart in angle do not show the same projection."""


def register_pair(
    a: PhaseStack,
    b: PhaseStack,
    progress: ProgressCallback = silent,
    *,
    stage: str = "pair",
) -> NDArray[np.float64]:
    """Shifts that put each frame of `b` onto its partner in `a`.

    Parameters
    ----------
    a, b : stacks of one shape, pixel size and list of angles.
    progress : told after every projection.
    stage : name under which progress is told.

    Returns
    -------
    (n, 2) float64 `(dy, dx)` [pixel] to add to the frames of `b`.

    Raises
    ------
    InputError
        If the stacks are not partners.
    """
    if a.data.shape != b.data.shape:
        raise InputError(
            f"pair: expected stacks of one shape, found {a.data.shape} and {b.data.shape}"
        )
    apart = np.abs(a.angles_deg - b.angles_deg)
    if apart.max(initial=0.0) > ANGLE_TOLERANCE_DEG:
        k = int(np.argmax(apart))
        raise InputError(
            f"pair: projection {k} was taken at {a.angles_deg[k]:g} degree in one series and at "
            f"{b.angles_deg[k]:g} degree in the other"
        )
    n = len(a.data)
    shifts = np.zeros((n, 2))
    for index in range(n):
        shifts[index] = register_frame(a.data[index], b.data[index])
        progress(Progress(stage, index + 1, n))
    return shifts


def average_pair(a: PhaseStack, b: PhaseStack, shifts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean of partners, `b` moved onto `a`: nearly free of dichroism, so one tomogram fits it.

    Where the sample leaves the field of `b`, `a` alone stands for both.

    Parameters
    ----------
    a, b : partners.
    shifts : (n, 2) from `register_pair`.

    Returns
    -------
    (n, ny, nx) float32 phase [rad].
    """
    mean = np.empty_like(a.data)
    borders = open_borders(-b.data)

    def one(index: int) -> None:
        dy, dx = (float(d) for d in shifts[index])
        share = 0.5 * _share(b.data.shape[1:], (dy, dx), borders[index])
        moved = fourier_shift(b.data[index], dy, dx)
        mean[index] = a.data[index] + share * (moved - a.data[index])

    for_each(len(mean), one)
    return mean


def _share(
    shape: tuple[int, ...], shift: tuple[float, float], borders: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """One where a moved frame was measured, falling to zero beyond the borders it is open at."""
    lines = []
    for axis, (n, moved) in enumerate(zip(shape, shift, strict=True)):
        at = np.arange(n, dtype=np.float32)
        line = np.ones(n, np.float32)
        if borders[2 * axis]:
            line = np.minimum(line, (at - moved - BORDER_PX) / FADE_PX)
        if borders[2 * axis + 1]:
            line = np.minimum(line, (n - 1 + moved - at - BORDER_PX) / FADE_PX)
        lines.append(np.clip(line, 0.0, 1.0).astype(np.float32))
    share: NDArray[np.float32] = lines[0][:, None] * lines[1][None, :]
    return share


def register_frame(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shift `(dy, dx)` [pixel] to add to frame `b` so that it lies on frame `a`.

    Parameters
    ----------
    a, b : (ny, nx) float32 phase, equal up to shift, offset, slope, factor and dichroism.
    """
    shift = _correlation_peak(a, b)
    for fine, wide in BANDS_PX:
        target, source = band_pass(a, fine, wide), band_pass(b, fine, wide)
        unit = float(np.abs(target).max()) or 1.0
        target, source = target / unit, source / unit
        for _ in range(MOST_STEPS):
            step = _step(target, fourier_shift(source, shift[0], shift[1]), shift)
            shift = shift + step
            if np.abs(step).max() < CLOSE_PX:
                break
    return shift


def band_pass(frame: NDArray[np.float32], fine: float, wide: float) -> NDArray[np.float32]:
    """Difference of two Gaussian blurs.

    Parameters
    ----------
    frame : image or volume, float32.
    fine, wide : standard deviations [pixel]; detail below the first and above the second is left
        out, nothing above where the second is infinite.
    """
    # Blurs add in squares: the second is made from the first.
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(frame, fine)
    if np.isinf(wide):
        return smooth
    broad: NDArray[np.float32] = ndimage.gaussian_filter(smooth, np.sqrt(wide**2 - fine**2))
    return smooth - broad


def _step(
    target: NDArray[np.float32], moved: NDArray[np.float32], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One least-squares step of `target - moved = -s · ∇mean + offset + slope + factor`."""
    ny, nx = target.shape
    mean = 0.5 * (target + moved)
    gy, gx = np.gradient(mean, axis=0), np.gradient(mean, axis=1)
    seen = (_seen(ny, shift[0]), _seen(nx, shift[1]))
    y, x = np.mgrid[-1.0 : 1.0 : 1j * ny, -1.0 : 1.0 : 1j * nx]
    columns = [-gy[seen], -gx[seen], mean[seen], np.ones_like(mean[seen]), y[seen], x[seen]]
    design = np.stack(columns).reshape(6, -1).astype(np.float64)
    normal = design @ design.T
    normal[np.diag_indices(6)] *= 1.0 + 1e-9
    normal[np.diag_indices(6)] += 1e-12
    step = np.linalg.solve(normal, design @ (target - moved)[seen].ravel())[:2]
    return np.clip(step, -4.0, 4.0)


def _seen(n: int, shift: float) -> slice:
    """Pixels of a moved line that were in the field, clear of the border."""
    margin = 2
    low = margin + max(0, int(np.ceil(shift)))
    high = n - margin + min(0, int(np.floor(shift)))
    return slice(low, high) if high - low > n // 4 else slice(None)


def _correlation_peak(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Whole-pixel shift of `b` onto `a` by cross-correlation of blurred slopes."""
    shape = [fft.next_fast_len(2 * n, real=True) for n in a.shape]
    total = np.zeros(shape)
    for order in ((1, 0), (0, 1)):
        one, two = (
            fft.rfft2(ndimage.gaussian_filter(f, 2.0, order=order), s=shape) for f in (a, b)
        )
        total += fft.irfft2(one * np.conj(two), s=shape)
    peak = np.unravel_index(np.argmax(total), total.shape)
    return np.array([float(k - n if k > n // 2 else k) for k, n in zip(peak, shape, strict=True)])
