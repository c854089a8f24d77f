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

from pipeline.align.canvas import HIGH_X, LOW_X, Canvas, open_borders
from pipeline.align.coarse import chained_shifts, coarse_shifts, shows_matter
from pipeline.align.explain import (
    Explained,
    Tomograph,
    Unknown,
    centre_of_mass,
    explain,
    half_width,
)
from pipeline.align.match import match_frame, misfit, steps, strangers
from pipeline.align.motion import (
    Mixing,
    alignment_residual,
    common_turn,
    rigid_motion,
    seen_motion,
    turn_is_seen,
)
from pipeline.align.pairs import register_frame
from pipeline.align.pitch import axis_pitch, sees_both_sides
from pipeline.errors import ConvergenceError, InputError
from pipeline.preprocess.resample import fourier_resample
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.fbp import filtered_back_projection
from schemas.recipe import AlignSettings

__all__ = ["Alignment", "align_series", "alignment_residual", "match_frame"]

LEAST_SIZE = 24
"""A frame must keep this many pixels on a side [pixel]; coarser levels are skipped."""

AXIS_REACH, AXIS_STEPS = 0.4, 17
"""Where the rotation axis is looked for, as a fraction of the frame, and at how many places, when
no frame shows the whole sample."""

FOLLOWS_PX = 0.3
"""After a round that moved no frame further [pixel of the level], the next one improves its volume
instead of making a new one, at a third of the time."""

PITCH_SIZE = 48
"""Frames of about this many pixels tell the lean of the axis along the beam [pixel]."""

COARSE_TOLERANCE = 0.3
"""Coarse levels go on below the tolerance by this factor: what frames do slowly with their angle is
found slowly, and a round costs least there."""

NEAR_PX = 0.5
"""Frames that the coarsest level finds no further off than this [pixel] need no coarse levels."""

WORTH_TURNING_PX = (0.1, 0.3)
"""A tilt of the axis that moves content by no more than this is reported and not corrected, since
turning frames interpolates them [pixel]; the second where the sample leaves the field sideways,
for what is made up beyond it looks a little like a tilt."""


SURE = 4.0
"""Standard errors by which a tilt must differ from none to be corrected."""


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
        from y towards -x [degree], corrected or not; NaN where the angles cannot tell it from a
        turn of the sample.
    axis_pitch_deg, axis_pitch_error_deg : lean of the axis along the beam, `R = R_x(pitch)
        R_y(theta)`, and its standard error [degree]; reported, not corrected, for no motion of
        frames undoes it. NaN where it is not determined: over half a turn it never is.
    partial : (n,) bool, frames in which the sample leaves the field.
    left_out : (n,) bool, frames that show nothing, or nothing that the volume of all others could
        explain: they did not enter it, and their motions are those between their neighbours.
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
    axis_pitch_deg: float
    axis_pitch_error_deg: float
    partial: NDArray[np.bool_]
    left_out: NDArray[np.bool_]


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
        If frames and angles differ in number, fewer than three are given, or most show no matter.
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
    series = _Series(stack, angles, settings, _History(progress, stage, settings, len(stack)), stop)
    if settings.enabled:
        series.run(start)
    return series.result()


class _History:
    """Record of all rounds, told as they pass."""

    def __init__(
        self, progress: ProgressCallback, stage: str, settings: AlignSettings, count: int
    ) -> None:
        self.progress, self.stage, self.count = progress, stage, count
        self.total = len(settings.levels) * settings.iterations
        self.updates: list[NDArray[np.float64]] = []
        self.residual: list[float] = []
        self.levels: list[int] = []

    def add(
        self, update: NDArray[np.float64], residual: float, level: int, kept: NDArray[np.intp]
    ) -> None:
        moved = np.zeros(self.count)
        moved[kept] = np.linalg.norm(update, axis=1)
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
        self.settings, self.history, self.asked = settings, history, stop
        n, ny, nx = stack.shape
        self.stack, self.angles, self.kept = stack, angles, np.arange(n)
        self.lever = 0.25 * (ny + nx)
        self.motions = np.zeros((n, 4))
        self.borders = np.zeros((n, 4), np.bool_)
        self.tomograph = Tomograph(angles)
        if settings.enabled:
            self._keep(shows_matter(stack))
            self.borders = open_borders(-self.stack)
        self.reach = nx // 2
        if self.borders[:, [LOW_X, HIGH_X]].any():
            self.reach = nx
        self.axis_tilt_rad = 0.0
        self.turning = settings.model == "similarity"
        self.converged, self.stopped = not settings.enabled, False

    def _keep(self, good: NDArray[np.bool_]) -> None:
        """Leave frames out of the series from here on."""
        if good.all():
            return
        self.stack, self.angles, self.kept = self.stack[good], self.angles[good], self.kept[good]
        self.motions, self.borders = self.motions[good], self.borders[good]
        self.tomograph = Tomograph(self.angles)

    def run(self, start: NDArray[np.float64] | None) -> None:
        """All levels, coarse to fine."""
        levels = _levels(self.stack.shape[1:], self.settings.levels)
        if start is not None:
            self.motions[:, :2] = start[self.kept]
            levels = levels[-1:]
        else:
            masses = coarse_shifts(-self.stack)
            if self._is_aligned(levels[0]):
                levels = levels[-1:]
            else:
                self._start(masses, levels[0])
        for index, binning in enumerate(levels):
            self._level(binning, binning == levels[-1])
            if index == 0 and not self.stopped and self._drop_strangers(binning):
                self._level(binning, binning == levels[-1])
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
        self.history.add(update, self.rest, binning, self.kept)
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

    def _level(self, binning: int, last: bool) -> None:
        """Rounds at one binning, and the gauge at its end."""
        canvas, mixing = self._canvas(binning), Mixing()
        before: Explained | None = None
        self.converged = False
        tolerance = self.settings.tolerance_px * (1.0 if last else COARSE_TOLERANCE)
        for _ in range(self.settings.iterations):
            update, found = self._round(canvas, binning, before)
            self._note_axis(update, binning)
            if not self.turning:
                update[:, 2:] = 0.0
            self.motions = mixing.next(self.motions, update)
            self.history.add(update, self.rest, binning, self.kept)
            self._check_field(binning)
            found = found.cut(canvas.narrow(2 * half_width(found.volume)))
            largest = float(np.abs(update).max())
            self.converged = largest < tolerance
            self.stopped = self.asked is not None and self.asked()
            if self.converged or self.stopped:
                break
            # A volume that goes on while frames are turned holds them where they are.
            follows = largest < FOLLOWS_PX * binning and not self.turning
            before = found if follows else None
        self.reach = half_width(found.volume) * binning
        centre = centre_of_mass(found.volume) * binning
        if self.borders[:, :2].any(axis=1).mean() > 0.5:
            # Where the sample goes on below or above, its centre is not known.
            centre[1] = 0.0
        self.motions[:, :2] -= rigid_motion(centre, self.angles)

    def _round(
        self, canvas: Canvas, binning: int, before: Explained | None
    ) -> tuple[NDArray[np.float64], Explained]:
        """What one volume says about every frame, update (n, 4), and that volume."""
        moved, seen, unknown = self._placed(canvas, binning)
        found = explain(self.tomograph, moved, unknown, before)
        self.rest = misfit(moved, found.model, seen)
        update = steps(moved, found.model, seen, unknown, self.lever / binning)
        self.turn_error = common_turn(update[:, 2] * binning, self.angles)[1]
        similarity = self.settings.model == "similarity"
        return seen_motion(update * binning, self.angles, similarity), found

    def _placed(
        self, canvas: Canvas, binning: int
    ) -> tuple[NDArray[np.float32], list[tuple[slice, slice]], Unknown]:
        """Frames where their motions take them, matter positive, and what they did not measure."""
        moved, seen = canvas.place(
            self.motions[:, :2] / binning,
            self.motions[:, 2] / self.lever,
            np.exp(self.motions[:, 3] / self.lever),
        )
        np.negative(moved, out=moved)
        return moved, seen, [canvas.unknown(index, part) for index, part in enumerate(seen)]

    def _drop_strangers(self, binning: int) -> bool:
        """Leave out frames unlike what all others say they should show; look elsewhere first."""
        if self.borders[:, [LOW_X, HIGH_X]].any():
            # The volume that few frames see whole shows the others badly.
            return False
        canvas = self._canvas(binning)
        moved, seen, unknown = self._placed(canvas, binning)
        model = explain(self.tomograph, moved, unknown).model
        strange = strangers(moved, model, seen)
        for index in np.flatnonzero(strange):
            step = register_frame(model[index], moved[index]) * binning
            self.motions[index, :2] += step
        if not strange.any():
            return False
        moved, seen, _ = self._placed(canvas, binning)
        still = strange & strangers(moved, model, seen)
        self._keep(~still)
        return True

    def _note_axis(self, update: NDArray[np.float64], binning: int) -> None:
        """Keep the axis tilt that was measured; decide whether it is worth turning frames."""
        tilt = float((self.motions[:, 2] + update[:, 2]).mean())
        if not turn_is_seen(self.angles):
            self.axis_tilt_rad = np.nan
            return
        self.axis_tilt_rad = tilt / self.lever
        worth = WORTH_TURNING_PX[int(self.borders[:, [LOW_X, HIGH_X]].any())]
        worth = max(worth, SURE * self.turn_error)
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
        moved, _, unknown = self._placed(self._canvas(1), 1)
        if any(mask is not None for mask in unknown):
            volume = explain(self.tomograph, moved, unknown).volume
        else:
            volume = filtered_back_projection(moved, self.angles, "hann")
        every = np.arange(self.history.count)
        motions = np.stack([np.interp(every, self.kept, m) for m in self.motions.T], axis=1)
        partial, left_out = np.zeros(every.size, np.bool_), np.ones(every.size, np.bool_)
        partial[self.kept], left_out[self.kept] = self.borders.any(axis=1), False
        return Alignment(
            motions[:, :2].copy(),
            volume,
            np.array(self.history.updates).reshape(-1, every.size),
            np.array(self.history.residual),
            np.array(self.history.levels, np.int64),
            self.converged,
            motions[:, 2] / self.lever,
            np.exp(motions[:, 3] / self.lever),
            float(np.rad2deg(self.axis_tilt_rad)),
            *self._pitch_deg(),
            partial,
            left_out,
        )

    def _pitch_deg(self) -> tuple[float, float]:
        """Lean of the axis along the beam and its error, from coarse frames."""
        asked = self.settings.enabled and self.settings.refine_axis
        sideways = self.borders[:, [LOW_X, HIGH_X]].any()
        if not asked or sideways or not sees_both_sides(self.angles):
            return np.nan, np.nan
        binning = max(1, round(min(self.stack.shape[1:]) / PITCH_SIZE))
        moved, seen, unknown = self._placed(self._canvas(binning), binning)
        pitch, error = axis_pitch(self.tomograph, moved, seen, unknown)
        return float(np.rad2deg(pitch)), float(np.rad2deg(error))


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
