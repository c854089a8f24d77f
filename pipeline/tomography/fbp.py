"""Filtered back-projection of one series about the y axis: linear, quantitative, unbiased."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from pipeline.errors import GeometryError
from pipeline.tomography.kernels.slices import back_project_slices, linear_footprints

Window = Literal["ram-lak", "shepp-logan", "hann"]
Content = Literal["values", "differences"]
"""Projections, or their differences from pixel to pixel along x: `next pixel - this pixel`."""

_WEDGE = 5.0
"""A gap this many times the mean of the others is a missing wedge, not coarse sampling."""


def filtered_back_projection(
    stack: NDArray[np.float32],
    angles_rad: ArrayLike,
    window: Window = "ram-lak",
    content: Content = "values",
) -> NDArray[np.float32]:
    """Reconstruct a scalar field from projections along `R_y(theta)`.

    Parameters
    ----------
    stack : (n, ny, nx) float32, line integrals in voxels, or their differences along x.
    angles_rad : (n,) rotation about y [rad], over half a turn or more, any spacing.
    window : apodisation of the ramp; `ram-lak` has none.
    content : what the stack holds. Differences, as of a phase that cannot be unwrapped, go through
        a Hilbert filter in place of the ramp.

    Returns
    -------
    (nx, ny, nx) float32 volume [z, y, x], value per voxel: projecting it gives the stack back.

    Raises
    ------
    GeometryError
        If stack and angles do not belong together, are not finite, or the window is unknown.

    Notes
    -----
    Kak and Slaney, *Principles of Computerized Tomographic Imaging* (1988), section 3.3: the
    ramp is built in real space, eq. 61, so that it has no bias at zero frequency. Each angle
    counts by the gap to its neighbours modulo half a turn; the two sides of a missing wedge
    count as if the series went on.

    Differences of projections that are zero at both ends of every row give the same volume as the
    projections, to rounding (`shepp-logan`, whose window reaches furthest, to 1e-4): the filter is
    the running sum of the ramp, which in the limit of fine pixels is the Hilbert transform of
    Pfeiffer et al., Phys. Rev. Lett. 98, 108105 (2007), doi 10.1103/PhysRevLett.98.108105. What is
    constant in a row they do not see.
    """
    angles = np.asarray(angles_rad, dtype=np.float64)
    if stack.ndim != 3 or angles.shape != stack.shape[:1] or min(stack.shape) < 1:
        raise GeometryError(
            f"filtered_back_projection: expected a stack (n, ny, nx) and n angles, "
            f"found {stack.shape} and {angles.shape}"
        )
    if not (np.isfinite(stack).all() and np.isfinite(angles).all()):
        raise GeometryError("filtered_back_projection: expected finite numbers, found NaN or inf")
    _, ny, nx = stack.shape
    columns = np.zeros((len(stack), nx + 2, ny), np.float32)
    columns[:, 1:-1] = filter_projections(stack, window, content).transpose(0, 2, 1)
    volume = np.empty((1, nx, nx, ny), np.float32)
    share = angle_shares(angles).astype(np.float32)[:, None]
    low = -(nx // 2)
    cosines, sines, footprint = np.cos(angles), np.sin(angles), linear_footprints(len(angles))
    filled = np.repeat(np.array([[0, ny]]), nx, axis=0)
    back_project_slices(columns, share, cosines, sines, footprint, filled, low, low, volume)
    return np.ascontiguousarray(volume[0].transpose(0, 2, 1))


def filter_projections(
    stack: NDArray[np.float32], window: Window, content: Content = "values"
) -> NDArray[np.float32]:
    """Apply the windowed ramp along x, or to differences its running sum: (n, ny, nx) float32.

    Raises
    ------
    GeometryError
        If the window or the content is unknown.
    """
    if content not in ("values", "differences"):
        raise GeometryError(
            f"filtered_back_projection: expected content values or differences, found {content!r}"
        )
    nx = stack.shape[-1]
    # Twice the width: the ramp's kernel reaches from one edge of the detector to the other.
    size = fft.next_fast_len(2 * nx, real=True)
    kernel = _ramp(size) if content == "values" else _running_ramp(size)
    response = fft.rfft(kernel) * _window(fft.rfftfreq(size), window)
    spectrum = fft.rfft(stack, n=size, axis=-1) * response.astype(np.complex64)
    filtered: NDArray[np.float32] = fft.irfft(spectrum, n=size, axis=-1)[..., :nx]
    return filtered.astype(np.float32, copy=False)


def _ramp(size: int) -> NDArray[np.float64]:
    """Ramp in real space, periodic."""
    distance = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.zeros(size)
    kernel[0] = 0.25
    odd = distance % 2 == 1
    kernel[odd] = -1.0 / (np.pi * distance[odd]) ** 2
    return kernel


def _running_ramp(size: int) -> NDArray[np.float64]:
    """Sum of the ramp over all pixels before each: odd about half a pixel, falling as `1 / n`."""
    half = size // 2
    ahead = np.arange(1, half + 1)
    ramp = np.where(ahead % 2 == 1, -1.0 / (np.pi * ahead) ** 2, 0.0)
    # The ramp's infinite sum is zero, its central pixel 1/4: half of the rest lies on either side.
    sums = 0.125 + np.concatenate([[0.0], np.cumsum(ramp[:-1])])
    kernel = np.zeros(size)
    kernel[1 : half + 1] = sums
    kernel[-np.arange(size - half)] = -sums[: size - half]
    return kernel


def _window(frequency: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Window at `frequency` [cycles per pixel]."""
    if window == "ram-lak":
        return np.ones_like(frequency)
    if window == "shepp-logan":
        return np.sinc(frequency)
    if window == "hann":
        return 0.5 + 0.5 * np.cos(2.0 * np.pi * frequency)
    raise GeometryError(
        f"filtered_back_projection: expected window ram-lak, shepp-logan or hann, found {window!r}"
    )


def angle_shares(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part [rad] of the half turn that each angle (n,) stands for: (n,) float64.

    Opposite projections show the same, so gaps are counted modulo half a turn; the shares add up
    to pi unless a wedge is missing.
    """
    folded = np.mod(angles_rad, np.pi)
    # Half a turn away from zero is zero, whatever side rounding puts it on.
    folded[np.pi - folded < 1e-9] = 0.0
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + np.pi)
    widest = int(np.argmax(gaps))
    usual = float(np.delete(gaps, widest).mean()) if gaps.size > 1 else np.pi
    if gaps[widest] > _WEDGE * usual > 0.0:
        gaps[widest] = usual
    shares = np.empty_like(gaps)
    shares[order] = 0.5 * (gaps + np.roll(gaps, 1))
    return shares
