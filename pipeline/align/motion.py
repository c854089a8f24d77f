"""How frames are moved in their plane, and which of their motions a series cannot see.

A motion is a row `(dy, dx, turn, growth)` in pixels: `turn` and `growth` are the in-plane angle
[rad] and the logarithm of the scale times a lever, so that all four say how far content moves.
Content at `p` from the centre pixel goes to `scale * rotation p + (dy, dx)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.preprocess.resample import fourier_shift

LONGEST_LEAP = 6.0
"""An accelerated step may be this many times the plain one."""

LEAST_SEEN = 0.1
"""Part of a common turn, in square, that turns of the sample must not explain for it to be known:
0.19 is left over half a turn of angles, 0.03 over 120 degrees."""

SPLINE_ORDER = 5
"""Of frames that are turned: off by a thousandth where cubic splines are off by a hundredth."""


def alignment_residual(
    shifts_found: NDArray[np.float64],
    shifts_true: NDArray[np.float64],
    angles_rad: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Error of shifts, apart from the rigid motion that a series cannot see.

    Parameters
    ----------
    shifts_found, shifts_true : (n, 2) `(dy, dx)` [pixel], both to be added to the frames.
    angles_rad : (n,) rotation about y [rad].

    Returns
    -------
    rms_px : root mean square over projections and both directions [pixel].
    residual : (n, 2) float64 what is left of each shift [pixel].
    """
    difference = np.asarray(shifts_found, np.float64) - shifts_true
    residual = without_rigid_motion(difference, np.asarray(angles_rad, np.float64))
    return float(np.sqrt(np.mean(residual**2))), residual


def without_rigid_motion(
    shifts: NDArray[np.float64], angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shifts (n, 2) less their best common translation of the sample."""
    sinusoid = _sinusoid(angles)
    along = sinusoid @ np.linalg.lstsq(sinusoid, shifts[:, 1], rcond=None)[0]
    return np.stack([shifts[:, 0] - shifts[:, 0].mean(), shifts[:, 1] - along], axis=1)


def rigid_motion(centre: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a point `(x, y, z)` of the turning frame appears, (n, 2) `(dy, dx)`."""
    x = np.cos(angles) * centre[0] + np.sin(angles) * centre[2]
    return np.stack([np.full_like(x, centre[1]), x], axis=1)


def seen_motion(
    motions: NDArray[np.float64], angles: NDArray[np.float64], similarity: bool
) -> NDArray[np.float64]:
    """Motions (n, 4) without those of the whole sample, which a series cannot see.

    A turn of the sample about a lab axis is seen as `a cos θ + b sin θ` in the plane, like its
    translation along x. A common turn is that of the rotation axis against the detector's columns;
    without `similarity` it is all that is kept of turns and growths.
    """
    found = np.zeros_like(motions)
    found[:, :2] = without_rigid_motion(motions[:, :2], angles)
    if not similarity:
        found[:, 2] = common_turn(motions[:, 2], angles)[0]
        return found
    design = np.column_stack([np.ones(len(angles)), _sinusoid(angles)])
    coefficients = np.linalg.lstsq(design, motions[:, 2], rcond=None)[0]
    found[:, 2] = motions[:, 2] - design[:, 1:] @ coefficients[1:]
    found[:, 3] = motions[:, 3] - motions[:, 3].mean()
    return found


def common_turn(
    turns: NDArray[np.float64], angles: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64]]:
    """Turn that all of `turns` (n,) share beside turns of the sample, its standard error, the rest.

    Parameters
    ----------
    turns : (n,) in-plane rotations of frames.
    angles : (n,) rotation about y [rad].
    """
    design = np.column_stack([np.ones(len(angles)), _sinusoid(angles)])
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ turns
    rest = turns - design @ coefficients
    spread = np.sqrt(np.sum(rest**2) / max(len(turns) - 3, 1))
    return float(coefficients[0]), float(spread * np.linalg.norm(inverse[0])), rest


def turn_is_seen(angles: NDArray[np.float64]) -> bool:
    """Whether a common turn of all frames differs from what turns of the sample look like."""
    common = np.ones(len(angles))
    sinusoid = _sinusoid(angles)
    rest = common - sinusoid @ np.linalg.lstsq(sinusoid, common, rcond=None)[0]
    return bool(np.mean(rest**2) > LEAST_SEEN)


def _sinusoid(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def move_frame(
    frame: NDArray[Any], dy: float, dx: float, turn_rad: float = 0.0, scale: float = 1.0
) -> NDArray[Any]:
    """Turn and scale a frame about its centre pixel, then shift it; interpolated once.

    Parameters
    ----------
    frame : (ny, nx) real.
    dy, dx : shift [pixel].
    turn_rad : in-plane rotation that takes x towards y [rad].
    scale : magnification.

    Returns
    -------
    (ny, nx), dtype of `frame`; mirrored border comes in from outside.
    """
    if turn_rad == 0.0 and scale == 1.0:
        return fourier_shift(frame, dy, dx)
    cos, sin = np.cos(turn_rad) / scale, np.sin(turn_rad) / scale
    back = np.array([[cos, -sin], [sin, cos]])
    centre = np.array(frame.shape) // 2
    offset = centre - back @ (centre + np.array([dy, dx]))
    moved: NDArray[Any] = ndimage.affine_transform(
        frame, back, offset, order=SPLINE_ORDER, mode="reflect"
    )
    return moved.astype(frame.dtype, copy=False)


class Mixing:
    """Anderson acceleration of `motions -> motions + update`.

    Frames that err together follow each other slowly, because the volume errs with them; from the
    last few rounds their common way is known, and taken at once.

    Notes
    -----
    Walker and Ni, SIAM J. Numer. Anal. 49, 1715 (2011), doi 10.1137/10078356X.
    """

    DEPTH = 4

    def __init__(self) -> None:
        self.points: list[NDArray[np.float64]] = []
        self.updates: list[NDArray[np.float64]] = []

    def next(
        self, motions: NDArray[np.float64], update: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Motions of the next round."""
        self.points = [*self.points[-self.DEPTH :], motions.ravel()]
        self.updates = [*self.updates[-self.DEPTH :], update.ravel()]
        step = update.ravel()
        if len(self.points) > 2:
            d_points = np.diff(np.array(self.points), axis=0).T
            d_updates = np.diff(np.array(self.updates), axis=0).T
            gamma = np.linalg.lstsq(d_updates, step, rcond=1e-3)[0]
            mixed = step - (d_points + d_updates) @ gamma
            # A mixture that leaps is a misfit of a curved way by a straight one.
            if np.abs(mixed).max() < LONGEST_LEAP * np.abs(step).max():
                step = mixed
        result: NDArray[np.float64] = motions + step.reshape(motions.shape)
        return result
