"""Phase of a complex projection, with the air at zero.

Constant and linear part are measured and removed on the complex image (`air`). Only then is the
phase taken: unwrapped only where it needs to be, and where residues leave unwrapping without a
right path, integrated from its derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.preprocess.air import LIGHTEST, AirFit, fit_air, plane_through
from pipeline.preprocess.phase_derivative import integrate_phase
from pipeline.preprocess.residues import phase_residues, unwrap
from schemas.recipe import PhaseSettings

BENT = 1.2
"""Air this many times rougher than it was is bent: by far more than chance, and less than any step
that went wrong bends it."""


@dataclass(frozen=True)
class PhaseFrame:
    """Phase of one projection.

    Attributes
    ----------
    phase : (ny, nx) float32 [rad], air at zero, matter negative.
    ramp : (2,) float64 removed slope along y and x [rad/pixel].
    offset : float removed phase at the centre pixel [rad].
    air : (ny, nx) bool, True in air.
    noise : float rms in air [rad].
    wrapped : whether neighbouring pixels differed by more than pi before unwrapping.
    residues : int points about which the phase winds, where it is wrapped.
    filled : int pixels around them that were filled from their neighbours, where it was unwrapped.
    integrated : whether the phase is the integral of its derivative, not unwrapped.
    matter : float mean phase outside the air [rad]; negative, unless the frame is conjugated.
    """

    phase: NDArray[np.float32]
    ramp: NDArray[np.float64]
    offset: float
    air: NDArray[np.bool_]
    noise: float
    wrapped: bool
    residues: int = 0
    filled: int = 0
    matter: float = 0.0
    integrated: bool = False


def extract_phase(
    frame: NDArray[Any],
    settings: PhaseSettings | None = None,
    fit: AirFit | None = None,
    flat: NDArray[np.complex64] | None = None,
) -> PhaseFrame:
    """Phase with offset and ramp removed.

    Parameters
    ----------
    frame : (ny, nx) complex transmission, matter with negative phase.
    settings : where the air is and when to unwrap.
    fit : air and plane of this frame where they are known.
    flat : `fit.flatten(frame)` where it is known.

    Raises
    ------
    InputError
        If the frame is not a complex image, or carries no transmission.
    """
    settings = settings or PhaseSettings()
    fit = fit or fit_air(frame, settings)
    flat = fit.flatten(frame) if flat is None else flat
    phase: NDArray[Any] = np.angle(flat)
    wrapped = is_wrapped(phase)
    residues = phase_residues(phase)[0] if wrapped else 0
    filled = 0
    integral = _integral(flat, fit, residues, settings)
    if integral is not None:
        phase = integral
    elif settings.unwrap == "always" or (settings.unwrap == "auto" and wrapped):
        phase, residues, filled = unwrap(phase)
        phase = phase - 2 * np.pi * np.round(_air_level(phase, fit.air) / (2 * np.pi))
    return PhaseFrame(
        phase.astype(np.float32),
        fit.ramp,
        fit.offset,
        fit.air,
        fit.noise,
        wrapped,
        residues,
        filled,
        float(np.mean(phase[~fit.air])) if not fit.air.all() else 0.0,
        integral is not None,
    )


def _integral(
    flat: NDArray[Any], fit: AirFit, residues: int, settings: PhaseSettings
) -> NDArray[np.float64] | None:
    """Integral of the phase's derivative, where it is to be used.

    Left to itself it is used about residues, if the air that it leads to is as flat as the air is:
    vortices leave no trace there, steps of more than pi that nothing tells apart bend it.
    """
    if settings.entry == "derivative":
        return _level(integrate_phase(flat), fit.air)
    if not fit.air.any():
        return None
    if settings.entry == "phase" or settings.unwrap != "auto" or residues == 0:
        return None
    phase = _level(integrate_phase(flat), fit.air)
    rough = float(np.sqrt(np.mean(np.angle(np.exp(1j * phase[fit.air])) ** 2)))
    return phase if rough < BENT * fit.noise else None


def _level(phase: NDArray[np.float64], air: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Phase less the plane of its air: vortices bend it before they are gone, not after.

    An area that was taken for air may lie whole turns above or below it.
    """
    phase = phase - _air_level(phase, air)
    if air.any():
        for _ in range(2):
            phase -= plane_through(phase, air)
    return phase


def _air_level(phase: NDArray[Any], air: NDArray[np.bool_]) -> float:
    return float(np.median(phase[air]) if air.any() else np.percentile(phase, LIGHTEST))


def is_wrapped(phase: NDArray[Any]) -> bool:
    """Whether the phase jumps by more than pi between neighbours."""
    return bool(
        np.abs(np.diff(phase, axis=0)).max(initial=0.0) > np.pi
        or np.abs(np.diff(phase, axis=1)).max(initial=0.0) > np.pi
    )
