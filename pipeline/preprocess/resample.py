"""Fourier interpolation of images: to another pixel size, and by a sub-pixel shift.

Both keep the centre pixel `n // 2` where it is (the table in `pipeline/__init__.py`) and both
continue the image by its mirror image. The shift is a Fourier transform, which is periodic: there
the mirror image fades into the mean of the border, for the jump between opposite borders would
otherwise ring into the sample. The change of pixel size is the same interpolation (a sinc) under a
Kaiser window, so that the border is felt nowhere but within `KERNEL` pixels of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from pipeline.errors import InputError

SAME_SCALE = 1e-6
"""Relative difference below which two pixel sizes are one: a thousandth of a pixel over any
detector in use."""

NEARLY = 0.05
"""Relative difference of pixel sizes below which an image keeps its shape."""

PAD = 24
"""Least mirrored border of a shift [pixel]; what the closure of the period disturbs stays there."""

KERNEL = 24
"""Half width of the interpolation kernel [pixel of the coarser grid]."""

KAISER = 12.0
"""Shape of its window: errors near 1e-6 for all that lies below 87 % of the Nyquist frequency."""


def fourier_resample(
    image: NDArray[Any],
    pixel_in_m: float,
    pixel_out_m: float,
    out_shape: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """Resample images from one pixel size to another about the centre pixel.

    Exact to 1e-6 for images without content above 87 % of the lower of the two Nyquist
    frequencies, apart from `KERNEL` pixels along the border where the mirrored continuation is
    felt. Equal pixel sizes and shapes return a copy to the bit.

    Parameters
    ----------
    image : (..., ny, nx) real or complex.
    pixel_in_m, pixel_out_m : pixel sizes [m].
    out_shape : shape of the result; `resampled_shape` when absent. Where the result reaches beyond
        the image it shows the mirrored border.

    Returns
    -------
    (..., *out_shape), dtype of `image`.

    Raises
    ------
    InputError
        If a pixel size is not positive, or the image is smaller than 2 x 2.
    """
    rows, columns = _scale_matrices(image.shape[-2:], out_shape, pixel_in_m, pixel_out_m)
    if rows is None or columns is None:
        return image.copy()
    return _apply(rows, columns, image)


def resampled_shape(shape: Sequence[int], ratio: float) -> tuple[int, int]:
    """Pixels `ratio` times as wide that show an image, counted from the centre pixel outwards.

    None of them lies beyond the image, where its mirror image would be taken for the sample. Pixels
    that are nearly as wide, as between two energies of one beamtime, keep the shape: what is left
    out, or mirrored, is a rim.

    Parameters
    ----------
    shape : (ny, nx) of the image.
    ratio : new pixel size over the old one.
    """
    ny, nx = (_covering(n, ratio) for n in shape)
    return ny, nx


def _covering(n: int, ratio: float) -> int:
    before, after = int((n // 2 + 0.5) / ratio), int((n - 1 - n // 2 + 0.5) / ratio)
    # The centre of `m` pixels is the one at `m // 2`: as many before it as behind, or one more.
    count = min(2 * before, 2 * after + 1) + 1 if before > after else 2 * before + 1
    return n if abs(ratio - 1.0) < NEARLY else count


def fourier_shift(image: NDArray[Any], dy: float, dx: float) -> NDArray[Any]:
    """Move the content of an image by `(dy, dx)` pixels: `result(y, x) = image(y - dy, x - dx)`.

    Parameters
    ----------
    image : (ny, nx) real or complex. Pixels that come in from outside show the mirrored border.
    dy, dx : shift [pixel]; zero for both returns a copy.

    Returns
    -------
    (ny, nx), dtype of `image`.
    """
    if dy == 0.0 and dx == 0.0:
        return image.copy()
    ny, nx = image.shape
    pads = tuple(int(np.ceil(abs(d))) + max(PAD, n // 8) for d, n in ((dy, ny), (dx, nx)))
    padded = _mirror(image, pads)
    shape = padded.shape
    phase_y = _shift_phase(shape[0], dy)
    phase_x = _shift_phase(shape[1], dx)
    if np.iscomplexobj(image):
        spectrum = fft.fft2(padded) * phase_y[:, None] * phase_x[None, :]
        moved = fft.ifft2(spectrum)
    else:
        half = phase_x[: shape[1] // 2 + 1]
        moved = fft.irfft2(fft.rfft2(padded) * phase_y[:, None] * half[None, :], s=shape)
    inside = moved[pads[0] : pads[0] + ny, pads[1] : pads[1] + nx]
    return np.ascontiguousarray(inside.astype(image.dtype))


def shift_frames(stack: NDArray[Any], shifts: NDArray[np.float64]) -> NDArray[Any]:
    """Move every frame of a stack by its own shift.

    Parameters
    ----------
    stack : (n, ny, nx) real or complex.
    shifts : (n, 2) `(dy, dx)` [pixel].
    """
    moved = np.empty_like(stack)
    for index, (frame, (dy, dx)) in enumerate(zip(stack, shifts, strict=True)):
        moved[index] = fourier_shift(frame, float(dy), float(dx))
    return moved


def _apply(rows: NDArray[Any], columns: NDArray[Any], image: NDArray[Any]) -> NDArray[Any]:
    """`rows @ image @ columns.T`, in the dtype of the image; real matrices stay real."""
    precision = np.result_type(image.real.dtype, np.float32)
    rows, columns = rows.astype(precision), np.ascontiguousarray(columns.T, precision)
    if np.iscomplexobj(image):
        result = np.empty((*image.shape[:-2], rows.shape[0], columns.shape[1]), image.dtype)
        # Contiguous parts: strided ones would miss the fast matrix product.
        result.real = rows @ np.ascontiguousarray(image.real) @ columns
        result.imag = rows @ np.ascontiguousarray(image.imag) @ columns
        return result
    return (rows @ image @ columns).astype(image.dtype, copy=False)


def _scale_matrices(
    in_shape: tuple[int, ...],
    out_shape: tuple[int, int] | None,
    pixel_in_m: float,
    pixel_out_m: float,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Interpolation matrices along y and x; None for both where nothing is to be done."""
    if pixel_in_m <= 0 or pixel_out_m <= 0:
        raise InputError(
            f"expected positive pixel sizes, found {pixel_in_m:g} m and {pixel_out_m:g} m"
        )
    if min(in_shape) < 2:
        raise InputError(f"expected an image of at least 2 x 2 pixels, found {in_shape}")
    ratio = pixel_out_m / pixel_in_m
    shape = resampled_shape(in_shape, ratio) if out_shape is None else out_shape
    if abs(ratio - 1.0) < SAME_SCALE:
        ratio = 1.0
        if tuple(shape) == tuple(in_shape):
            return None, None
    return (
        _interpolation_matrix(in_shape[0], shape[0], ratio),
        _interpolation_matrix(in_shape[1], shape[1], ratio),
    )


@lru_cache(maxsize=32)
def _interpolation_matrix(n_in: int, n_out: int, ratio: float) -> NDArray[np.float64]:
    """Windowed-sinc interpolation of a mirrored line at `ratio`-spaced points, as a matrix.

    The cut-off lies at the Nyquist frequency of the coarser grid.
    """
    at = (np.arange(n_out) - n_out // 2) * ratio + n_in // 2
    stretch = max(1.0, ratio)
    reach = int(np.ceil(KERNEL * stretch))
    beyond = int(np.ceil(max(0.0, -at.min(), at.max() - (n_in - 1))))
    index = np.pad(np.arange(n_in), beyond + reach, mode="symmetric")
    distance = (at[:, None] + beyond + reach - np.arange(index.size)) / stretch
    inside = np.clip(1.0 - (distance / KERNEL) ** 2, 0.0, None)
    kernel = np.sinc(distance) * np.where(inside > 0.0, np.i0(KAISER * np.sqrt(inside)), 0.0)
    # The window disturbs the sum by 1e-7 or so; air has to stay at zero and a constant one.
    kernel /= kernel.sum(axis=1, keepdims=True)
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix.T, index, kernel.T)
    matrix.flags.writeable = False
    return matrix


def _fade(n: int, before: int, after: int) -> NDArray[np.float64]:
    """One over the image, falling to zero as cos² over the borders."""
    outside = np.concatenate(
        [
            np.arange(before, 0, -1) / (before + 1),
            np.zeros(n),
            np.arange(1, after + 1) / (after + 1),
        ]
    )
    return np.cos(0.5 * np.pi * outside) ** 2


def _mirror(image: NDArray[Any], pads: tuple[int, ...]) -> NDArray[Any]:
    """Image with mirrored borders that fade into the mean of its edge, of a fast length."""
    ny, nx = image.shape
    after = [
        fft.next_fast_len(n + 2 * pad) - n - pad for n, pad in zip((ny, nx), pads, strict=True)
    ]
    widths = ((pads[0], after[0]), (pads[1], after[1]))
    continued = np.pad(image, widths, mode="symmetric")
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    level = edge.mean()
    weight = _fade(ny, *widths[0])[:, None] * _fade(nx, *widths[1])[None, :]
    return level + weight.astype(continued.real.dtype) * (continued - level)


def _shift_phase(n: int, shift: float) -> NDArray[np.complex128]:
    """Fourier phases of a shift; the Nyquist term is real, so that real images stay real."""
    phase = np.exp(-2j * np.pi * fft.fftfreq(n) * shift)
    if n % 2 == 0:
        phase[n // 2] = np.cos(np.pi * shift)
    return phase
