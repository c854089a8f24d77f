"""The air of a complex projection, and the plane through its phase, without unwrapping.

The coarse ramp is the peak of the spectrum of the frame's border; the rest is least squares on the
angle of what lies on one plane, which grows inwards from the border while the phase stays flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from pipeline.errors import InputError
from pipeline.preprocess.phase_derivative import integrate_phase
from schemas.recipe import PhaseSettings

BORDER = 0.08
"""Width of the border on which the ramp is first measured, as a fraction of the frame."""

LEAST_AIR = 0.01
"""Below this fraction of the frame, what was found is not trusted as air."""

CANDIDATES = 8
"""Peaks of the spectrum from which a plane is fitted."""

NARROW = (0.35, 0.25, 0.18, 0.12, 0.08)
WIDE = (2.0, 1.4, 1.0, 0.7, 0.5, *NARROW)
"""Tolerances [rad] of the trimmed fit: from a start within a cycle, from one within the air."""

AGREEMENT = 0.05
"""Distance [rad] at which a pixel counts for a plane when planes are compared."""

MOST_PIXELS = 8_000
"""Pixels that the first fit looks at: enough for a plane at any frame size."""

LIGHTEST = 99.0
"""Percentile of the phase that stands for air where there is none."""

NEAR = 0.3
"""Pixels further from the first plane [rad] are not air, however noisy the frame."""


@dataclass(frozen=True)
class AirFit:
    """Plane through the phase of the air.

    Attributes
    ----------
    ramp : (2,) float64 slope along y and x [rad/pixel].
    offset : float phase of the air at the centre pixel [rad].
    air : (ny, nx) bool, True in air.
    noise : float rms about the plane in air [rad].
    """

    ramp: NDArray[np.float64]
    offset: float
    air: NDArray[np.bool_]
    noise: float

    def plane(self) -> NDArray[np.float64]:
        """Phase of the plane at every pixel [rad], shape (ny, nx)."""
        y, x = _centred(self.air.shape)
        return self.ramp[0] * y + self.ramp[1] * x + self.offset

    def flatten(self, frame: NDArray[Any]) -> NDArray[np.complex64]:
        """`frame` with the plane taken out of its phase."""
        wave = _against(np.array([self.offset, *self.ramp]), self.air.shape, frame.dtype)
        return (frame * wave).astype(np.complex64, copy=False)


def fit_air(
    frame: NDArray[Any],
    settings: PhaseSettings | None = None,
    region: NDArray[np.bool_] | None = None,
) -> AirFit:
    """Find the air of a frame and the plane through its phase, without unwrapping.

    Parameters
    ----------
    frame : (ny, nx) complex transmission. Ramps of any number of cycles that the pixels resolve.
    settings : `air` names a side, or leaves the search to the fit: it starts on the border of the
        frame, trusts what lies on one plane, and grows inwards while the phase stays flat.
    region : (ny, nx) bool, where the air is said to be, instead; what lies off its plane is left
        out.

    Raises
    ------
    InputError
        If the frame is not a complex image, or carries no transmission.
    """
    settings = settings or PhaseSettings()
    if frame.ndim != 2 or not np.iscomplexobj(frame):
        raise InputError(f"expected a complex image, found {frame.dtype} of shape {frame.shape}")
    amplitude = np.abs(frame)
    seen = amplitude > 1e-3 * np.median(amplitude)
    if not seen.any():
        raise InputError("the frame carries no transmission: its amplitude is zero everywhere")
    unit = np.where(seen, frame / np.where(seen, amplitude, 1.0), 0.0)
    if region is None and settings.air == "none":
        return _whole_plane(unit)
    search = region is None and settings.air == "auto"
    region = (first_region(frame.shape, settings) if region is None else region) & seen
    if not region.any():
        raise InputError("the frame carries no transmission where air is expected")
    plane = _first_plane(unit, region, _sides(region) if search else [])
    rest = np.abs(_residual(unit, plane))
    inside = region & (rest < 4.0 * _spread(rest[region & (rest < NEAR)]))
    if not inside.any():
        inside = region
    plane = _refit(unit, inside, plane)
    if search:
        plane, inside = _grow(unit, seen, region, inside, plane)
    rest = _residual(unit, plane)[inside]
    noise = float(np.sqrt(np.mean(rest**2)))
    offset = float(np.angle(np.exp(1j * plane[0])))
    return AirFit(plane[1:].copy(), offset, inside, noise)


def _whole_plane(unit: NDArray[Any]) -> AirFit:
    """Plane through the phase of a frame without air; the level is that of its lightest parts."""
    everywhere = np.ones(unit.shape, np.bool_)
    plane = _coarse_planes(unit, everywhere)[0]
    phase = integrate_phase(unit * np.exp(-1j * _evaluate(plane, unit.shape)))
    plane = plane + _solve_plane(_design(everywhere), phase.ravel())
    rest = _residual(unit, np.array([0.0, *plane[1:]]))
    # The integral knows no constant: it comes back from the wrapped phase.
    phase = phase - _evaluate(_solve_plane(_design(everywhere), phase.ravel()), unit.shape)
    level = float(np.angle(np.mean(np.exp(1j * (rest - phase)))))
    level += float(np.percentile(phase, LIGHTEST))
    noise = float(np.std(phase - ndimage.gaussian_filter(phase, 1.0)))
    return AirFit(plane[1:].copy(), float(np.angle(np.exp(1j * level))), ~everywhere, noise)


def first_region(shape: tuple[int, ...], settings: PhaseSettings) -> NDArray[np.bool_]:
    """Named sides of a frame (ny, nx), or its border where none is named."""
    region = np.zeros(shape, bool)
    wy, wx = (max(2, round(BORDER * n)) for n in shape)
    if settings.air == "auto":
        region[:] = True
        region[wy : shape[0] - wy, wx : shape[1] - wx] = False
        return region
    wy, wx = (max(2, round(settings.air_fraction * n)) for n in shape)
    whole = slice(None)
    sides = {
        "left": (whole, slice(wx)),
        "right": (whole, slice(-wx, None)),
        "bottom": (slice(wy), whole),
        "top": (slice(-wy, None), whole),
    }
    for side in settings.air.split("-"):
        region[sides[side]] = True
    return region


def _sides(border: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Parts of the border at the left, right, bottom and top."""
    wy, wx = (max(2, round(BORDER * n)) for n in border.shape)
    parts = []
    for where in (np.s_[:, :wx], np.s_[:, -wx:], np.s_[:wy], np.s_[-wy:]):
        part = np.zeros_like(border)
        part[where] = border[where]
        if part.any():
            parts.append(part)
    return parts


def _centred(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Open grids of pixel coordinates about the centre pixel."""
    y = np.arange(shape[0], dtype=np.float64)[:, None] - shape[0] // 2
    x = np.arange(shape[1], dtype=np.float64)[None, :] - shape[1] // 2
    return y, x


def _coarse_planes(unit: NDArray[Any], region: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Offset and slopes at the highest peaks of the spectrum, to a quarter of a cycle per frame.

    Air on two sides makes fringes of nearly equal height: which one is right only a fit can tell.
    """
    shape = [fft.next_fast_len(2 * n) for n in unit.shape]
    height = np.abs(fft.fft2(np.where(region, unit, 0.0), s=shape))
    rows, columns = np.nonzero(height > height.max() / 2)
    around = [
        height[(rows + dy) % shape[0], (columns + dx) % shape[1]]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    peaks = height[rows, columns] >= np.max(around, axis=0)
    rows, columns = rows[peaks], columns[peaks]
    order = np.argsort(-height[rows, columns], kind="stable")[:CANDIDATES]
    planes = []
    for k in order:
        slopes = [
            2 * np.pi * fft.fftfreq(n)[i] for n, i in zip(shape, (rows[k], columns[k]), strict=True)
        ]
        planes.append(np.array([0.0, *slopes]))
    return planes


def _evaluate(plane: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    y, x = _centred(shape)
    return plane[0] + plane[1] * y + plane[2] * x


def _residual(unit: NDArray[Any], plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle that is left after a plane, (-pi, pi]."""
    return _angle(unit * _against(plane, unit.shape, unit.dtype))


def _against(
    plane: NDArray[np.float64], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Wave that takes a plane out of a phase; a product of one along y and one along x."""
    y, x = _centred(shape)
    narrow = np.complex64 if dtype == np.complex64 else np.complex128
    along_y = np.exp(-1j * (plane[0] + plane[1] * y)).astype(narrow)
    along_x = np.exp(-1j * plane[2] * x).astype(narrow)
    wave: NDArray[Any] = along_y * along_x
    return wave


def plane_through(phase: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Least-squares plane (ny, nx) [rad] through the phase of some pixels, whatever its turns."""
    plane = _solve_plane(_design(inside), _angle(np.exp(1j * phase[inside])))
    return _evaluate(plane, phase.shape)


def _angle(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.angle(values).astype(np.float64, copy=False)


def _refit(
    unit: NDArray[Any], inside: NDArray[np.bool_], plane: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least-squares plane through the angle of the pixels inside."""
    return plane + _solve_plane(_design(inside), _residual(unit, plane)[inside])


def _design(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One, y and x of every pixel inside, about the centre pixel."""
    rows, columns = np.nonzero(inside)
    y, x = rows - inside.shape[0] // 2, columns - inside.shape[1] // 2
    return np.stack([np.ones(rows.size), y, x], axis=1).astype(np.float64)


def _solve_plane(design: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    # The smallest ridge keeps the slope across a one-column region at its coarse value.
    normal: NDArray[Any] = design.T @ design + 1e-9 * rest.size * np.eye(3)
    step: NDArray[np.float64] = np.linalg.solve(normal, design.T @ rest)
    return step


def _first_plane(
    unit: NDArray[Any], region: NDArray[np.bool_], parts: list[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Plane on which most of the region lies, of those found on the whole region and on parts.

    The parts matter where the sample covers most of the border and outvotes the air as a whole.
    """
    design, values = _samples(unit, region)
    best, best_score = np.zeros(3), -1.0
    for part in [region, *parts]:
        inner_design, inner_values = _samples(unit, part)
        for start in _coarse_planes(unit, part):
            plane = start.copy()
            mean = np.sum(inner_values * np.exp(-1j * (inner_design @ plane)))
            plane[0] = np.angle(mean)
            plane = _trim(inner_design, inner_values, plane, WIDE)
            if part is not region:
                plane = _trim(design, values, plane, NARROW)
            rest = _angle(values * np.exp(-1j * (design @ plane)))
            score = float(np.exp(-0.5 * (rest / AGREEMENT) ** 2).sum())
            if score > best_score:
                best, best_score = plane, score
            if best_score > 0.5 * values.size:
                # No other plane can hold more of the region.
                return best
    return best


def _samples(
    unit: NDArray[Any], region: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Coordinates and values in a region, thinned to what a plane needs."""
    design, values = _design(region), unit[region]
    thin = max(1, values.size // MOST_PIXELS)
    return design[::thin], values[::thin]


def _trim(
    design: NDArray[np.float64],
    values: NDArray[Any],
    plane: NDArray[np.float64],
    tolerances: tuple[float, ...],
) -> NDArray[np.float64]:
    """Fit what lies on one plane, with a tolerance [rad] that shrinks to the noise.

    The sample may cover part of the region: its pixels fall out as the tolerance shrinks.
    """
    least = max(8, values.size // 10)
    rest = _angle(values * np.exp(-1j * (design @ plane)))
    inside = np.ones(values.size, bool)
    for tolerance in (*tolerances, 0.0, 0.0, 0.0):
        bound = tolerance or 4.0 * _spread(np.abs(rest[inside]))
        found = np.abs(rest) < bound
        if found.sum() < least:
            break
        inside = found
        plane = plane + _solve_plane(design[inside], rest[inside])
        rest = _angle(values * np.exp(-1j * (design @ plane)))
    return plane


def _spread(absolute: NDArray[np.float64]) -> float:
    """Standard deviation from the median of absolute residuals, never quite zero."""
    return max(1.4826 * float(np.median(absolute)), 2.5e-5) if absolute.size else NEAR


def _grow(
    unit: NDArray[Any],
    seen: NDArray[np.bool_],
    region: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    plane: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Extend the air from the border inwards as far as the phase stays flat, and fit again."""
    for _ in range(4):
        smooth = ndimage.uniform_filter(_residual(unit, plane), 5, mode="nearest")
        flat = (np.abs(smooth) < 4.0 * _spread(np.abs(smooth[inside]))) & seen
        # Closing single outliers of the noise before the sample's surroundings are cut away.
        flat = _majority(flat)
        labels, _count = ndimage.label(flat)
        kept = np.unique(labels[inside & region])
        connected = np.isin(labels, kept[kept > 0])
        grown = ndimage.binary_erosion(connected, iterations=3, border_value=1)
        if grown.mean() < LEAST_AIR:
            break
        inside = grown
        plane = _refit(unit, inside, plane)
    return plane, inside


def _majority(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Median of a mask over 3 x 3 pixels, its border mirrored."""
    padded = np.pad(mask, 1, mode="symmetric").astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    found: NDArray[np.bool_] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] > 4
    return found
