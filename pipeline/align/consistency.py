"""Tomographic consistency: frames of one series moved until one volume explains them all.

Coarse-to-fine rounds of reconstruct, reproject and register. Every frame is compared with the
reprojection of the volume that all frames make together, and moved by the least-squares solution
of `frame - model = s · ∇model`; the phase's offset and slope are fitted along with the shift `s`,
so that what the ramp removal left over does not move the frame.

What cannot be seen in one series is the rigid translation of the sample, `a cos θ + b sin θ` along
x and a constant along y. It is fixed by putting the sample's centre of mass on the origin: on the
rotation axis, at the centre row. An offset of the axis from the frame's centre is seen and removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.coarse import coarse_shifts
from pipeline.align.pairs import band_pass
from pipeline.errors import ConvergenceError, InputError
from pipeline.preprocess.resample import fourier_resample, shift_frames
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.fbp import filtered_back_projection
from pipeline.tomography.geometry import rotation_y
from pipeline.tomography.projector import Projector
from schemas.recipe import AlignSettings

FINE_PX, WIDE_PX = 1.6, 5.0
"""Frames and model are compared in the band between these two Gaussian blurs [pixel of the level].
A volume from few angles is complete at low frequencies only, and finer detail follows each frame
wherever it is; what is broader than an edge is left to dichroism, which changes with the angle."""

CORRECTIONS = 2
"""Back-projections of the residual inside the support: filtered back-projection alone leaves the
streaks of few angles, which hold the frames back."""

OUTLINE = 0.15
"""Density of the support's edge as a fraction of the sample's: low, for light second phases."""

LONGEST_LEAP = 6.0
"""An accelerated step may be this many times the plain one."""

LEAST_SIZE = 24
"""A frame must keep this many pixels on a side [pixel]; coarser levels are skipped."""


@dataclass(frozen=True)
class Alignment:
    """Shifts that make one series consistent.

    Attributes
    ----------
    shifts : (n, 2) float64 `(dy, dx)` [pixel], to add: `fourier_shift(frame, dy, dx)`.
    volume : (z, y, x) float32 tomogram of the series [rad/voxel, matter positive] in the frame that
        turns about y; centre of mass at the centre voxel. Its width is that of the sample.
    updates : (iterations, n) float64 by how much each round found each frame off [pixel].
    residual : (iterations,) float64 rms between frames and reprojections [rad].
    levels : (iterations,) int64 binning of each round.
    converged : whether the finest level ended by its tolerance.
    """

    shifts: NDArray[np.float64]
    volume: NDArray[np.float32]
    updates: NDArray[np.float64]
    residual: NDArray[np.float64]
    levels: NDArray[np.int64]
    converged: bool


def align_series(
    stack: NDArray[np.float32],
    angles_rad: NDArray[np.float64],
    settings: AlignSettings | None = None,
    progress: ProgressCallback = silent,
    *,
    stage: str = "align",
) -> Alignment:
    """Find the shift of every frame of a series that turns about y.

    Parameters
    ----------
    stack : (n, ny, nx) float32 phase [rad], matter negative, air at zero.
    angles_rad : (n,) rotation about y [rad], over about half a turn.
    settings : levels, rounds and tolerance; `enabled: false` returns zero shifts and the volume.
    progress : told after every round; its residual is the largest move [pixel].
    stage : name under which progress is told.

    Raises
    ------
    InputError
        If frames and angles differ in number, fewer than three are given, or there is no matter.
    ConvergenceError
        If a frame leaves the field.

    Notes
    -----
    After Odstrčil et al., *Alignment methods for nanotomography with deep subpixel accuracy*,
    doi 10.1364/OE.27.036637: the iterative refinement by gradients of the model. The support and
    the offset and slope per frame are added here.
    """
    settings = settings or AlignSettings()
    angles = np.asarray(angles_rad, np.float64)
    _check(stack, angles)
    shifts = np.zeros((len(stack), 2))
    history = _History(progress, stage, len(settings.levels) * settings.iterations)
    converged, half_width = True, stack.shape[2]
    if settings.enabled:
        shifts = coarse_shifts(-stack)
        for binning in _levels(stack.shape[1:], settings.levels):
            level = _Level(stack, angles, binning)
            shifts, converged = _align_level(level, shifts, settings, history)
            half_width = level.half_width * binning
    aligned = _crop(-shift_frames(stack, shifts), half_width)
    volume = filtered_back_projection(aligned, angles, "hann")
    return Alignment(
        shifts,
        volume,
        np.array(history.updates).reshape(-1, len(stack)),
        np.array(history.residual),
        np.array(history.levels, np.int64),
        converged,
    )


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
    residual = _without_rigid_motion(difference, np.asarray(angles_rad, np.float64))
    return float(np.sqrt(np.mean(residual**2))), residual


class _History:
    """Record of all rounds, told as they pass."""

    def __init__(self, progress: ProgressCallback, stage: str, total: int) -> None:
        self.progress, self.stage, self.total = progress, stage, total
        self.updates: list[NDArray[np.float64]] = []
        self.residual: list[float] = []
        self.levels: list[int] = []

    def add(self, update: NDArray[np.float64], residual: float, level: int) -> None:
        moved = np.hypot(update[:, 0], update[:, 1])
        self.updates.append(moved)
        self.residual.append(residual)
        self.levels.append(level)
        done = len(self.updates)
        self.progress(Progress(self.stage, done, max(done, self.total), float(moved.max())))


class _Mixing:
    """Anderson acceleration of `shifts -> shifts + update`.

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

    def next(self, shifts: NDArray[np.float64], update: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shifts of the next round."""
        self.points = [*self.points[-self.DEPTH :], shifts.ravel()]
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
        result: NDArray[np.float64] = shifts + step.reshape(shifts.shape)
        return result


class _Level:
    """Frames of one binning, in matter-positive phase per binned voxel, and their operators."""

    def __init__(
        self, stack: NDArray[np.float32], angles: NDArray[np.float64], binning: int
    ) -> None:
        ny, nx = stack.shape[1:]
        shape = (-(-ny // binning), -(-nx // binning))
        self.frames: NDArray[np.float32] = -fourier_resample(stack, 1.0, float(binning), shape)
        self.angles, self.binning = angles, binning
        self.half_width = 0
        self._projector: Projector | None = None

    def reproject(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projections (n, ny, nx) of a volume (nx, ny, nx)."""
        if self._projector is None or self._projector.volume_shape != volume.shape:
            self._projector = Projector(
                volume.shape,
                volume.shape[1:],
                np.stack([rotation_y(angle) for angle in self.angles]),
                np.ones((len(self.angles), 1)),
            )
        return self._projector.forward(volume[None])


def _check(stack: NDArray[np.float32], angles: NDArray[np.float64]) -> None:
    if stack.ndim != 3 or angles.shape != stack.shape[:1] or len(stack) < 3:
        raise InputError(
            "alignment: expected a stack (n, ny, nx) of at least three frames and n angles, "
            f"found {stack.shape} and {angles.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(stack).all(axis=(1, 2)))
    if bad.size:
        raise InputError(f"alignment: frame {bad[0]} has values that are not finite")


def _levels(shape: tuple[int, ...], levels: list[int]) -> list[int]:
    """Levels at which frames are still large enough; the finest one always."""
    return [b for b in levels[:-1] if min(shape) // b >= LEAST_SIZE] + levels[-1:]


def _crop(frames: NDArray[np.float32], half_width: int) -> NDArray[np.float32]:
    """Columns about the axis that the sample needs; what lies outside is air."""
    centre = frames.shape[2] // 2
    low = max(0, centre - half_width)
    return np.ascontiguousarray(frames[:, :, low : min(frames.shape[2], 2 * centre - low)])


def _align_level(
    level: _Level, shifts: NDArray[np.float64], settings: AlignSettings, history: _History
) -> tuple[NDArray[np.float64], bool]:
    """Rounds at one binning, and the gauge at its end."""
    binning, converged, mixing = level.binning, False, _Mixing()
    ny, nx = level.frames.shape[1:]
    level.half_width = nx
    for _ in range(settings.iterations):
        moved = _crop(shift_frames(level.frames, shifts / binning), level.half_width)
        volume, model = _explain(level, moved)
        residual = float(np.sqrt(np.mean((moved - model) ** 2)))
        update = _without_rigid_motion(_steps(moved, model, shifts / binning), level.angles)
        update *= binning
        shifts = mixing.next(shifts, update)
        history.add(update, residual, binning)
        if np.abs(shifts[:, 0]).max() > ny * binning or np.abs(shifts[:, 1]).max() > nx * binning:
            frame = int(np.argmax(np.abs(shifts).max(axis=1)))
            raise ConvergenceError(
                f"alignment: frame {frame} moved out of the field at binning {binning}"
            )
        level.half_width = _half_width(volume)
        if np.abs(update).max() < settings.tolerance_px:
            converged = True
            break
    return shifts - _rigid_motion(_centre_of_mass(volume) * binning, level.angles), converged


def _explain(
    level: _Level, moved: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Volume inside its own support that explains the frames, and its reprojections."""
    volume = filtered_back_projection(moved, level.angles, "ram-lak")
    inside = _soft_support(volume)
    volume *= inside
    model = level.reproject(volume)
    for _ in range(CORRECTIONS):
        volume += filtered_back_projection(moved - model, level.angles, "hann") * inside
        model = level.reproject(volume)
    return volume, model


def _soft_support(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """One inside the sample, zero outside, with an edge of about two voxels."""
    smooth = ndimage.gaussian_filter(volume, 2.0)
    peak = float(smooth.max())
    if peak <= 0:
        raise InputError("alignment: no matter found; its phase is expected to be negative")
    typical = float(np.median(smooth[smooth > 0.3 * peak]))
    inside = ndimage.binary_dilation(smooth > OUTLINE * typical, iterations=2)
    return ndimage.gaussian_filter(inside.astype(np.float32), 1.0)


def _half_width(volume: NDArray[np.float32]) -> int:
    """Distance from the axis that the sample reaches, with room for the filter's tails."""
    centre = volume.shape[0] // 2
    filled = np.abs(volume).max(axis=1) > 0
    z, x = np.nonzero(filled)
    return int(max(np.abs(z - centre).max(), np.abs(x - centre).max())) + 8


def _steps(
    moved: NDArray[np.float32], model: NDArray[np.float32], shifts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least-squares shift of every frame towards its model, (n, 2) [pixel of the level]."""
    ny, nx = moved.shape[1:]
    y = np.linspace(-1.0, 1.0, ny, dtype=np.float32)[:, None] * np.ones((1, nx), np.float32)
    x = np.linspace(-1.0, 1.0, nx, dtype=np.float32)[None, :] * np.ones((ny, 1), np.float32)
    steps = np.zeros((len(moved), 2))
    for index, (frame, image) in enumerate(zip(moved, model, strict=True)):
        edges = band_pass(image, FINE_PX, WIDE_PX)
        rest = band_pass(frame, FINE_PX, WIDE_PX) - edges
        # The unit of the data must not decide how much the tiny ridge below weighs.
        unit = float(np.abs(edges).max()) or 1.0
        gy, gx = np.gradient(edges / unit, axis=0), np.gradient(edges / unit, axis=1)
        seen = _seen(ny, shifts[index, 0])
        design = np.stack([gy[seen], gx[seen], np.ones_like(gy[seen]), y[seen], x[seen]])
        design = design.reshape(5, -1).astype(np.float64)
        normal = design @ design.T
        normal[np.diag_indices(5)] *= 1.0 + 1e-6
        normal[np.diag_indices(5)] += 1e-12
        steps[index] = np.linalg.solve(normal, design @ rest[seen].ravel() / unit)[:2]
    return np.clip(steps, -0.1 * ny, 0.1 * ny)


def _seen(ny: int, dy: float) -> slice:
    """Rows that were in the field before the frame was moved, and are clear of the border."""
    margin = 2
    low = margin + max(0, int(np.ceil(dy)))
    high = ny - margin + min(0, int(np.floor(dy)))
    return slice(low, high) if high - low > ny // 4 else slice(None)


def _rigid_motion(centre: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a point `(x, y, z)` of the turning frame appears, (n, 2) `(dy, dx)`."""
    x = np.cos(angles) * centre[0] + np.sin(angles) * centre[2]
    return np.stack([np.full_like(x, centre[1]), x], axis=1)


def _without_rigid_motion(
    shifts: NDArray[np.float64], angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shifts less their best common translation of the sample."""
    design = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sinusoid = design @ np.linalg.lstsq(design, shifts[:, 1], rcond=None)[0]
    return np.stack([shifts[:, 0] - shifts[:, 0].mean(), shifts[:, 1] - sinusoid], axis=1)


def _centre_of_mass(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centre of mass `(x, y, z)` from the centre voxel [voxel]."""
    weight = np.clip(volume, 0.0, None)
    total = float(weight.sum(dtype=np.float64))
    centre = []
    for axis in (2, 1, 0):
        others = tuple(a for a in range(3) if a != axis)
        profile = weight.sum(axis=others, dtype=np.float64)
        centre.append(float(profile @ (np.arange(profile.size) - profile.size // 2)) / total)
    return np.array(centre)
