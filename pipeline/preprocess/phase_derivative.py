"""Derivative of the phase of a complex image, without unwrapping, and the phase that it adds up to.

About a residue the phase winds by a turn: no unwrapped phase exists there, and a path that passes
on the wrong side of it is off by a turn from there on. The difference between neighbouring pixels
needs no path, and the phase whose differences come closest to all of them leaves out the winding
part alone, which no phase has.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from pipeline.errors import InputError

AMBIGUOUS = 0.7 * np.pi
"""A step [rad] from pixel to pixel that is steeper than this may be a steeper one on the way back:
that of the noise must fit between it and pi."""

LITTLE = 1e-4
"""Weight of such a step: not zero, so that pixels among such steps have a value."""

MOST_ITERATIONS = 60
SETTLED = 1e-3
"""The weighted fit ends when it moves no pixel by more than this [rad], well below any noise."""


def phase_differences(frame: NDArray[Any], along: Literal["x", "y"] = "x") -> NDArray[np.float32]:
    """Phase of the next pixel less that of this one, from the product of their complex values.

    Parameters
    ----------
    frame : (ny, nx) complex transmission.
    along : columns, which is what filtered back-projection and alignment take, or rows.

    Returns
    -------
    (ny, nx) float32 [rad/pixel] in (-pi, pi]; zero in the last column or row, and where a pixel
    transmits nothing. Wherever the phase rises or falls by less than pi from pixel to pixel this
    is its difference exactly, whatever it is wrapped to; as a derivative it belongs to the border
    of the two pixels and is good to second order in the pixel size.

    Raises
    ------
    InputError
        If the frame is not a complex image.
    """
    if frame.ndim != 2 or not np.iscomplexobj(frame):
        raise InputError(f"expected a complex image, found {frame.dtype} of shape {frame.shape}")
    found = np.zeros(frame.shape, np.float32)
    if along == "x":
        found[:, :-1] = np.angle(frame[:, 1:] * np.conj(frame[:, :-1]))
    else:
        found[:-1] = np.angle(frame[1:] * np.conj(frame[:-1]))
    return found


def integrate_differences(across: NDArray[Any], down: NDArray[Any]) -> NDArray[np.float64]:
    """Image whose differences come closest to the given ones, by least squares.

    Parameters
    ----------
    across, down : (ny, nx) differences along x and y as from `phase_differences`; the last column
        of the first and the last row of the second do not count.

    Returns
    -------
    (ny, nx) float64 of mean zero. Exact where the differences are those of an image. Those of a
    vortex have no sources and drop out, but for what a partner outside the frame leaves. A
    difference near pi may be one beyond pi on the way back: such ones hardly count, so that they
    may disagree with all others.

    Raises
    ------
    InputError
        If the two differ in shape.

    Notes
    -----
    Ghiglia and Romero, J. Opt. Soc. Am. A 11, 107 (1994), doi 10.1364/JOSAA.11.000107: Poisson's
    equation with free borders by cosine transforms, and with weights by conjugate gradients that
    these precondition.
    """
    if across.shape != down.shape or across.ndim != 2:
        raise InputError(
            f"expected differences of one image along x and y, found {across.shape} and "
            f"{down.shape}"
        )
    steps = across[:, :-1].astype(np.float64), down[:-1].astype(np.float64)
    found = _poisson(_sources(*steps))
    weights = [np.where(np.abs(step) > AMBIGUOUS, LITTLE, 1.0) for step in steps]
    if all(weight.all() and weight.min(initial=1.0) == 1.0 for weight in weights):
        return found
    rest = _sources(
        *(w * (step - own) for w, step, own in zip(weights, steps, _steps(found), strict=True))
    )
    way, last = np.zeros_like(found), 0.0
    for _ in range(MOST_ITERATIONS):
        # A field that agrees with itself has nothing left here but rounding.
        slope = _poisson(rest)
        if np.abs(slope).max() < SETTLED:
            break
        size = float(np.sum(rest * slope))
        way = slope + (size / last if last > 0.0 else 0.0) * way
        pushed = _sources(*(w * own for w, own in zip(weights, _steps(way), strict=True)))
        length = size / float(np.sum(way * pushed))
        found += length * way
        rest -= length * pushed
        last = size
    return found


def integrate_phase(frame: NDArray[Any]) -> NDArray[np.float64]:
    """Phase of a complex image, from its derivatives along x and y and without unwrapping.

    Parameters
    ----------
    frame : (ny, nx) complex transmission.

    Returns
    -------
    (ny, nx) float64 [rad] of mean zero. Without residues it is the unwrapped phase to rounding, up
    to a constant; with them the phase that is left when they are taken out.

    Raises
    ------
    InputError
        If the frame is not a complex image.
    """
    found = np.zeros(frame.shape)
    # What is left after the first time is flat, so that no step of it is ambiguous.
    for _ in range(2):
        rest = frame * np.exp(-1j * found)
        step = integrate_differences(phase_differences(rest, "x"), phase_differences(rest, "y"))
        found += step
        if np.abs(step).max() < SETTLED:
            break
    return found


def _steps(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.diff(image, axis=1), np.diff(image, axis=0)


def _sources(across: NDArray[np.float64], down: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjoint of `_steps`."""
    found = np.zeros((across.shape[0], down.shape[1]))
    found[:, 1:] += across
    found[:, :-1] -= across
    found[1:] += down
    found[:-1] -= down
    return found


def _poisson(sources: NDArray[np.float64]) -> NDArray[np.float64]:
    """Image of mean zero with `_sources(*_steps(image))` as given."""
    y, x = (4.0 * np.sin(0.5 * np.pi * np.arange(n) / n) ** 2 for n in sources.shape)
    stiffness = y[:, None] + x[None, :]
    stiffness[0, 0] = np.inf
    waves = fft.dctn(sources, type=2, norm="ortho") / stiffness
    found: NDArray[np.float64] = fft.idctn(waves, type=2, norm="ortho")
    return found
