"""Tomographic consistency: frames of one series moved until one volume explains them all.

Coarse-to-fine rounds of reconstruct, reproject and register. Every frame is compared with the
reprojection of the volume that all frames make together, and moved by the least-squares solution
of `frame - model = s · ∇model`; the phase's offset and slope are fitted along with the shift `s`,
so that what the ramp removal left over does not move the frame.

What cannot be seen in one series is the rigid translation of the sample, `a cos θ + b sin θ` along
x and a constant along y. It is fixed by putting the sample's centre of mass on the origin: on the
rotation axis, at the centre row. An offset of the axis from the frame's centre, and its tilt
against the detector's columns, are seen and removed.

Where the sample leaves the field, the canvas is as wide as the sample, and what a frame did not
measure is made up by the volume that the measured pixels of all frames explain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.align.canvas import HIGH_X, LOW_X, Canvas, for_each, open_borders
from pipeline.align.coarse import chained_shifts, coarse_shifts
from pipeline.align.explain import Tomograph, Unknown, centre_of_mass, explain, half_width
from pipeline.align.motion import Mixing, alignment_residual, rigid_motion, seen_motion
from pipeline.align.pairs import band_pass
from pipeline.errors import ConvergenceError, InputError
from pipeline.preprocess.resample import fourier_resample
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.fbp import filtered_back_projection
from schemas.recipe import AlignSettings

__all__ = ["Alignment", "align_series", "alignment_residual"]

FINE_PX, WIDE_PX = 1.2, 8.0
"""Frames and model are compared in the band between these two Gaussian blurs [pixel of the level].
A volume from few angles is complete at low frequencies only, and finer detail follows each frame
wherever it is; what is broader than an edge is left to dichroism, which changes with the angle."""

LEAST_SIZE = 24
"""A frame must keep this many pixels on a side [pixel]; coarser levels are skipped."""

AXIS_REACH, AXIS_STEPS = 0.4, 17
"""Where the rotation axis is looked for, as a fraction of the frame, and at how many places, when
no frame shows the whole sample."""

NEAR_PX = 0.5
"""Frames that the coarsest level finds no further off than this [pixel] need no coarse levels."""

WORTH_TURNING_PX = (0.1, 0.3)
"""A tilt of the axis that moves content by no more than this is reported and not corrected, since
turning frames interpolates them [pixel]; the second where the sample leaves the field sideways,
for what is made up beyond it looks a little like a tilt."""


@dataclass(frozen=True)
class Alignment:
    """Motions that make one series consistent.

    Attributes
    ----------
    shifts : (n, 2) float64 `(dy, dx)` [pixel], to add: `fourier_shift(frame, dy, dx)`.
    volume : (z, y, x) float32 tomogram of the series [rad/voxel, matter positive] in the frame that
        turns about y; centre of mass at the centre voxel. Its width is that of the sample.
    updates : (iterations, n) float64 by how much each round found each frame off [pixel].
    residual : (iterations,) float64 rms between frames and reprojections [rad].
    levels : (iterations,) int64 binning of each round.
    converged : whether the finest level ended by its tolerance.
    turns_rad : (n,) float64 in-plane rotation of each frame before its shift, that takes x towards
        y [rad]: `move_frame(frame, dy, dx, turn, scale)`; zero where none is worth correcting.
    scales : (n,) float64 magnification of each frame.
    axis_tilt_deg : measured angle of the rotation axis against the detector's columns, positive
        from y towards -x [degree], corrected or not.
    partial : (n,) bool, frames in which the sample leaves the field.
    """

    shifts: NDArray[np.float64]
    volume: NDArray[np.float32]
    updates: NDArray[np.float64]
    residual: NDArray[np.float64]
    levels: NDArray[np.int64]
    converged: bool
    turns_rad: NDArray[np.float64]
    scales: NDArray[np.float64]
    axis_tilt_deg: float
    partial: NDArray[np.bool_]


def align_series(
    stack: NDArray[np.float32],
    angles_rad: NDArray[np.float64],
    settings: AlignSettings | None = None,
    progress: ProgressCallback = silent,
    *,
    stage: str = "align",
    start: NDArray[np.float64] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Alignment:
    """Find the shift of every frame of a series that turns about y.

    Parameters
    ----------
    stack : (n, ny, nx) float32 phase [rad], matter negative, air at zero.
    angles_rad : (n,) rotation about y [rad], over about half a turn.
    settings : levels, rounds, tolerance and model; `enabled: false` returns zero shifts and the
        volume.
    progress : told after every round; its residual is the largest move [pixel].
    stage : name under which progress is told.
    start : (n, 2) shifts known from another channel or energy [pixel]; only the finest level then
        refines them.
    stop : asked after every round; True keeps what is there, and ends.

    Raises
    ------
    InputError
        If frames and angles differ in number, fewer than three are given, or there is no matter.
    ConvergenceError
        If a frame leaves the field.

    Notes
    -----
    After Odstrčil et al., *Alignment methods for nanotomography with deep subpixel accuracy*,
    doi 10.1364/OE.27.036637: the iterative refinement by gradients of the model. The support, the
    offset and slope per frame, and what stands in beyond the field are added here.
    """
    settings = settings or AlignSettings()
    angles = np.asarray(angles_rad, np.float64)
    _check(stack, angles, start)
    series = _Series(stack, angles, settings, _History(progress, stage, settings), stop)
    if settings.enabled:
        series.run(start)
    return series.result()


class _History:
    """Record of all rounds, told as they pass."""

    def __init__(self, progress: ProgressCallback, stage: str, settings: AlignSettings) -> None:
        self.progress, self.stage = progress, stage
        self.total = len(settings.levels) * settings.iterations
        self.updates: list[NDArray[np.float64]] = []
        self.residual: list[float] = []
        self.levels: list[int] = []

    def add(self, update: NDArray[np.float64], residual: float, level: int) -> None:
        moved = np.linalg.norm(update, axis=1)
        self.updates.append(moved)
        self.residual.append(residual)
        self.levels.append(level)
        done = len(self.updates)
        self.progress(Progress(self.stage, done, max(done, self.total), float(moved.max())))


class _Series:
    """State of the alignment of one series, in pixels of full resolution."""

    def __init__(
        self,
        stack: NDArray[np.float32],
        angles: NDArray[np.float64],
        settings: AlignSettings,
        history: _History,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.stack, self.angles, self.settings = stack, angles, settings
        self.history, self.asked = history, stop
        n, ny, nx = stack.shape
        self.lever = 0.25 * (ny + nx)
        self.motions = np.zeros((n, 4))
        self.borders = open_borders(-stack) if settings.enabled else np.zeros((n, 4), np.bool_)
        self.reach = nx // 2
        if self.borders[:, [LOW_X, HIGH_X]].any():
            self.reach = nx
        self.axis_tilt_rad = 0.0
        self.turning = settings.model == "similarity"
        self.converged, self.stopped = not settings.enabled, False
        self.tomograph = Tomograph(angles)

    def run(self, start: NDArray[np.float64] | None) -> None:
        """All levels, coarse to fine."""
        levels = _levels(self.stack.shape[1:], self.settings.levels)
        if start is not None:
            self.motions[:, :2] = start
            levels = levels[-1:]
        else:
            masses = coarse_shifts(-self.stack)
            if self._is_aligned(levels[0]):
                levels = levels[-1:]
            else:
                self._start(masses, levels[0])
        for binning in levels:
            self._level(binning)
            if self.stopped:
                self.converged &= binning == levels[-1]
                break

    def _is_aligned(self, binning: int) -> bool:
        """Whether the coarsest level finds nothing to move: the fast path."""
        if self.borders.any():
            return False
        update, _ = self._round(self._canvas(binning), binning, None)
        if np.abs(update).max() > NEAR_PX:
            return False
        self.history.add(update, self.rest, binning)
        return True

    def _start(self, masses: NDArray[np.float64], binning: int) -> None:
        """First guess of the shifts, and of the axis where no frame shows the whole sample."""
        self.motions[:, :2] = masses
        leaves = np.asarray(self.borders[:, [LOW_X, HIGH_X]].any(axis=1))
        if not leaves.any():
            return
        self.motions[:, 1] = chained_shifts(-self.stack, self.angles, leaves, self.motions[:, :2])
        if leaves.all():
            self._find_axis(binning)

    def _find_axis(self, binning: int) -> None:
        """Place of the rotation axis at which one volume explains the frames best."""
        canvas = self._canvas(binning)
        reach = AXIS_REACH * self.stack.shape[2]
        chained = self.motions[:, 1].copy()
        middle = 0.0
        for _ in range(2):
            found: list[tuple[float, float]] = []
            for offset in np.linspace(middle - reach, middle + reach, AXIS_STEPS):
                self.motions[:, 1] = chained + offset
                self._round(canvas, binning, None)
                found.append((self.rest, float(offset)))
            middle, reach = min(found)[1], reach / 6.0
        self.motions[:, 1] = chained + middle

    def _canvas(self, binning: int) -> Canvas:
        ny, nx = self.stack.shape[1:]
        shape = (-(-ny // binning), -(-nx // binning))
        frames = self.stack
        if binning > 1:
            frames = fourier_resample(frames, 1.0, float(binning), shape)
        width = 2 * min(-(-self.reach // binning), shape[1])
        if not self.borders[:, [LOW_X, HIGH_X]].any():
            width = min(width, shape[1])
        return Canvas(frames, self.borders, width)

    def _level(self, binning: int) -> None:
        """Rounds at one binning, and the gauge at its end."""
        canvas, mixing = self._canvas(binning), Mixing()
        before: NDArray[np.float32] | None = None
        self.converged = False
        for _ in range(self.settings.iterations):
            update, before = self._round(canvas, binning, before)
            self._note_axis(update, binning)
            if not self.turning:
                update[:, 2:] = 0.0
            self.motions = mixing.next(self.motions, update)
            self.history.add(update, self.rest, binning)
            self._check_field(binning)
            before = canvas.narrow(before, 2 * half_width(before))
            self.converged = bool(np.abs(update).max() < self.settings.tolerance_px)
            self.stopped = self.asked is not None and self.asked()
            if self.converged or self.stopped:
                break
        assert before is not None  # the schema asks for a round at least
        self.reach = half_width(before) * binning
        centre = centre_of_mass(before) * binning
        if self.borders[:, :2].any(axis=1).mean() > 0.5:
            # Where the sample goes on below or above, its centre is not known.
            centre[1] = 0.0
        self.motions[:, :2] -= rigid_motion(centre, self.angles)

    def _round(
        self, canvas: Canvas, binning: int, before: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """What one volume says about every frame, update (n, 4), and that volume."""
        moved, seen = canvas.place(
            self.motions[:, :2] / binning,
            self.motions[:, 2] / self.lever,
            np.exp(self.motions[:, 3] / self.lever),
        )
        np.negative(moved, out=moved)
        unknown = [canvas.unknown(index, part) for index, part in enumerate(seen)]
        volume, model = explain(self.tomograph, moved, unknown, before)
        self.rest = _misfit(moved, model, seen)
        update = _steps(moved, model, seen, unknown, self.lever / binning)
        similarity = self.settings.model == "similarity"
        return seen_motion(update * binning, self.angles, similarity), volume

    def _note_axis(self, update: NDArray[np.float64], binning: int) -> None:
        """Keep the axis tilt that was measured; decide whether it is worth turning frames."""
        tilt = float((self.motions[:, 2] + update[:, 2]).mean())
        self.axis_tilt_rad = tilt / self.lever
        worth = WORTH_TURNING_PX[int(self.borders[:, [LOW_X, HIGH_X]].any())]
        if self.settings.refine_axis and binning == self.settings.levels[-1] and abs(tilt) > worth:
            self.turning = True

    def _check_field(self, binning: int) -> None:
        ny, nx = self.stack.shape[1:]
        gone = np.abs(self.motions[:, :2]) > (ny, nx)
        if gone.any():
            frame = int(np.argmax(gone.any(axis=1)))
            raise ConvergenceError(
                f"alignment: frame {frame} moved out of the field at binning {binning}"
            )

    def result(self) -> Alignment:
        """What was found, with the tomogram of the frames where they are now."""
        canvas = self._canvas(1)
        turns, scales = self.motions[:, 2] / self.lever, np.exp(self.motions[:, 3] / self.lever)
        moved, seen = canvas.place(self.motions[:, :2], turns, scales)
        np.negative(moved, out=moved)
        unknown: Unknown = [canvas.unknown(index, part) for index, part in enumerate(seen)]
        if any(mask is not None for mask in unknown):
            volume, _ = explain(self.tomograph, moved, unknown)
        else:
            volume = filtered_back_projection(moved, self.angles, "hann")
        return Alignment(
            self.motions[:, :2].copy(),
            volume,
            np.array(self.history.updates).reshape(-1, len(self.stack)),
            np.array(self.history.residual),
            np.array(self.history.levels, np.int64),
            self.converged,
            turns,
            scales,
            float(np.rad2deg(self.axis_tilt_rad)),
            np.asarray(self.borders.any(axis=1)),
        )


def _check(
    stack: NDArray[np.float32], angles: NDArray[np.float64], start: NDArray[np.float64] | None
) -> None:
    if stack.ndim != 3 or angles.shape != stack.shape[:1] or len(stack) < 3:
        raise InputError(
            "alignment: expected a stack (n, ny, nx) of at least three frames and n angles, "
            f"found {stack.shape} and {angles.shape}"
        )
    if start is not None and start.shape != (len(stack), 2):
        raise InputError(f"alignment: expected known shifts ({len(stack)}, 2), found {start.shape}")
    for index, frame in enumerate(stack):
        if not np.isfinite(frame).all():
            raise InputError(f"alignment: frame {index} has values that are not finite")


def _levels(shape: tuple[int, ...], levels: list[int]) -> list[int]:
    """Levels at which frames are still large enough; the finest one always."""
    return [b for b in levels[:-1] if min(shape) // b >= LEAST_SIZE] + levels[-1:]


def _misfit(
    moved: NDArray[np.float32], model: NDArray[np.float32], seen: list[tuple[slice, slice]]
) -> float:
    """Rms between frames and reprojections where frames were measured."""
    total, count = 0.0, 0
    for frame, image, part in zip(moved, model, seen, strict=True):
        rest = frame[part] - image[part]
        total += float(np.sum(rest * rest, dtype=np.float64))
        count += rest.size
    return float(np.sqrt(total / max(count, 1)))


def _steps(
    moved: NDArray[np.float32],
    model: NDArray[np.float32],
    seen: list[tuple[slice, slice]],
    unknown: Unknown,
    lever: float,
) -> NDArray[np.float64]:
    """Least-squares motion of every frame towards its model, (n, 4) [pixel of the level]."""
    steps = np.zeros((len(moved), 4))

    def one(index: int) -> None:
        rest = moved[index] - model[index]
        mask = unknown[index]
        if mask is not None:
            rest[mask] = 0.0
        steps[index] = match_frame(rest, model[index], seen[index], lever)

    for_each(len(moved), one)
    return steps


def match_frame(
    rest: NDArray[np.float32],
    image: NDArray[np.float32],
    part: tuple[slice, slice],
    lever: float,
) -> NDArray[np.float64]:
    """Least-squares motion of a frame towards its image, with offset and slope of its phase.

    Parameters
    ----------
    rest : (ny, nx) float32 frame less image.
    image : (ny, nx) float32 what the frame should show.
    part : rows and columns that are compared.
    lever : pixels by which a unit of rotation or of the logarithm of the scale counts.

    Returns
    -------
    (4,) float64 `(dy, dx, turn, growth)` [pixel] to add to the frame's motion.
    """
    ny, nx = image.shape
    edges = band_pass(image, FINE_PX, WIDE_PX)
    # The unit of the data must not decide how much the tiny ridge below weighs.
    unit = float(np.abs(edges).max()) or 1.0
    edges /= unit
    rest = band_pass(rest, FINE_PX, WIDE_PX)[part] / unit
    gy, gx = np.gradient(edges, axis=0)[part], np.gradient(edges, axis=1)[part]
    y = (np.arange(ny, dtype=np.float32) - ny // 2)[part[0], None] / np.float32(lever)
    x = (np.arange(nx, dtype=np.float32) - nx // 2)[None, part[1]] / np.float32(lever)
    one = np.ones_like(gy)
    design = np.stack([gy, gx, gy * x - gx * y, gy * y + gx * x, one, one * y, one * x])
    design = design.reshape(7, -1)
    normal = (design @ design.T).astype(np.float64)
    normal[np.diag_indices(7)] *= 1.0 + 1e-6
    normal[np.diag_indices(7)] += 1e-12
    solution = np.linalg.solve(normal, (design @ rest.ravel()).astype(np.float64))
    motion: NDArray[np.float64] = np.clip(solution[:4], -0.1 * ny, 0.1 * ny)
    return motion
