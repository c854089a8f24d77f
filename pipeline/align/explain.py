"""The volume that explains frames which lie where they belong, and its reprojections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.canvas import for_each
from pipeline.errors import InputError
from pipeline.tomography.fbp import filtered_back_projection
from pipeline.tomography.geometry import rotation_y
from pipeline.tomography.projector import Projector

Unknown = Sequence[NDArray[np.bool_] | None]

CORRECTIONS = 2
"""Back-projections of the residual inside the support: filtered back-projection alone leaves the
streaks of few angles, which hold the frames back."""

FIRST_STEPS, NEXT_STEPS = 20, 6
"""Conjugate-gradient steps where the sample leaves the field: from nothing, and from the volume of
the round before."""

AIR = 0.05
"""Matter below this fraction of the sample's is air to the visual hull."""

AGAINST = 0.04
"""Fraction of the frames that must show air where a voxel is for it to be outside the hull."""

FURTHER = 1.4
"""How much further from the axis than anything seen the sample may reach, unseen."""

FAINT, OUTLINE = 0.01, 0.15
"""Density of the support's edge as a fraction of the sample's, between these: low, for light second
phases."""

ENOUGH_FRAMES, BEYOND_PX = 64, 4
"""Frames that tell how far from the axis the sample reaches, and pixels added to it."""

ABOVE_ARTEFACTS, ARTEFACTS_PERCENT = 3.0, 95.0
"""The support begins where density stands this much above the artefacts of the volume. They are
as strong below zero as above it, where no matter hides them: the percentile of what is negative
measures them. A sample without an edge keeps its faint outside; a cut there would push frames."""


class Tomograph:
    """Projector of one width of canvas at the angles of a series, made when it is needed."""

    def __init__(self, angles: NDArray[np.float64]) -> None:
        self.angles = angles
        self._projector: Projector | None = None

    def reproject(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projections (n, ny, nx) of a volume (nx, ny, nx)."""
        nz, ny, nx = volume.shape
        return self._made((nz, ny, nx)).forward(volume[None])

    def back_project(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unfiltered back-projection (nx, ny, nx) of a stack (n, ny, nx)."""
        _, ny, nx = stack.shape
        return self._made((nx, ny, nx)).adjoint(stack)[0]

    def _made(self, shape: tuple[int, int, int]) -> Projector:
        if self._projector is None or self._projector.volume_shape != shape:
            self._projector = Projector(
                shape,
                shape[1:],
                np.stack([rotation_y(angle) for angle in self.angles]),
                np.ones((len(self.angles), 1)),
            )
        return self._projector


@dataclass(frozen=True)
class Explained:
    """Volume (nx, ny, nx), what it shows from all angles (n, ny, nx), and where it may be.

    `inside` is None where unmeasured pixels ask for a hull, which follows the frames.
    """

    volume: NDArray[np.float32]
    model: NDArray[np.float32]
    inside: NDArray[np.float32] | None

    def cut(self, columns: slice | None) -> Explained:
        """What is left on a canvas of fewer columns."""
        if columns is None:
            return self
        parts = [
            None if part is None else np.ascontiguousarray(part[columns, :, columns])
            for part in (self.volume, self.inside)
        ]
        assert parts[0] is not None
        return Explained(parts[0], np.ascontiguousarray(self.model[..., columns]), parts[1])


def explain(
    tomograph: Tomograph,
    moved: NDArray[np.float32],
    unknown: Unknown,
    before: Explained | None = None,
) -> Explained:
    """Volume inside its own support that explains the frames, and its reprojections.

    Parameters
    ----------
    tomograph : projector at the angles of the frames.
    moved : (n, ny, nx) float32 placed frames, matter positive.
    unknown : for each frame the pixels that were not measured and are not air, or None.
    before : of the round before, from which the fit goes on: frames have hardly moved since.
    """
    if any(mask is not None for mask in unknown):
        return _explain_partial(tomograph, moved, unknown, before)
    corrections = 1
    if before is None or before.inside is None:
        volume = filtered_back_projection(moved, tomograph.angles, "ram-lak")
        inside = soft_support(volume)
        inside *= _reached(moved)[:, None, :]
        volume *= inside
        model, corrections = tomograph.reproject(volume), CORRECTIONS
    else:
        volume, model, inside = before.volume, before.model, before.inside
    for _ in range(corrections):
        # In place: at full size each of these takes half a gigabyte or more.
        np.subtract(moved, model, out=model)
        correction = filtered_back_projection(model, tomograph.angles, "hann")
        del model
        correction *= inside
        correction += volume
        volume = correction
        model = tomograph.reproject(volume)
    return Explained(volume, model, inside)


def _explain_partial(
    tomograph: Tomograph,
    moved: NDArray[np.float32],
    unknown: Unknown,
    before: Explained | None,
) -> Explained:
    """Least squares on the known pixels, in the norm of the ramp filter, inside the visual hull.

    Conjugate gradients on `S B K A x = S B K b`: `A` projects, `K` keeps the known pixels, `B` is
    filtered back-projection and `S` the hull. The filter makes `B A` nearly one, so that few
    steps suffice.
    """
    inside = visual_hull(tomograph, moved, unknown)
    weight = np.maximum(inside, 1e-3)
    volume = np.zeros_like(inside) if before is None else before.volume * (inside > 0)
    rest = moved - (tomograph.reproject(volume) if before is not None else np.float32(0.0))
    step, last = np.zeros_like(volume), 0.0
    for _ in range(FIRST_STEPS if before is None else NEXT_STEPS):
        _forget(rest, unknown)
        slope = filtered_back_projection(rest, tomograph.angles, "hann") * inside
        size = float(np.sum(slope * slope / weight, dtype=np.float64))
        step = slope + np.float32(size / last) * step if last > 0.0 else slope
        seen = tomograph.reproject(step)
        _forget(seen, unknown)
        back = filtered_back_projection(seen, tomograph.angles, "hann")
        curvature = float(np.sum(step * back, dtype=np.float64))
        if not (size > 0.0 and curvature > 0.0):
            break
        volume += np.float32(size / curvature) * step
        rest -= np.float32(size / curvature) * seen
        last = size
    return Explained(volume, tomograph.reproject(volume), None)


def _forget(stack: NDArray[np.float32], unknown: Unknown) -> None:
    """Set unknown pixels to zero, in place."""
    for frame, mask in zip(stack, unknown, strict=True):
        if mask is not None:
            frame[mask] = 0.0


def visual_hull(
    tomograph: Tomograph, moved: NDArray[np.float32], unknown: Unknown
) -> NDArray[np.float32]:
    """One where the sample may be, zero where frames show air, with a soft edge.

    It needs no reconstruction, so that what few frames see is not lost to a first, poor one.

    Parameters
    ----------
    tomograph, moved, unknown : as for `explain`.

    Returns
    -------
    (nx, ny, nx) float32.

    Raises
    ------
    InputError
        If nothing is left: there is no matter.
    """
    n, _, nx = moved.shape
    strong = float(np.percentile(moved[:: max(1, n // 32)], 99.5))
    air = np.zeros_like(moved)
    furthest = 0.0

    def one(index: int) -> None:
        clear = ndimage.gaussian_filter(moved[index], 1.5) < AIR * strong
        mask = unknown[index]
        if mask is not None:
            clear &= ~mask
        air[index] = ndimage.binary_erosion(clear, border_value=1)

    for_each(n, one)
    for frame, mask in zip(air, unknown, strict=True):
        columns = ((frame == 0.0) if mask is None else (frame == 0.0) & ~mask).any(axis=0)
        if columns.any():
            furthest = max(furthest, float(np.abs(np.flatnonzero(columns) - nx // 2).max()))
    hull = tomograph.back_project(air) < max(2.5, AGAINST * n)
    across = (np.arange(nx) - nx // 2) ** 2
    radius = min(nx // 2 - 1.0, FURTHER * furthest)
    hull &= (across[:, None] + across[None, :] < radius**2)[:, None, :]
    if not hull.any():
        raise InputError("alignment: no matter found; its phase is expected to be negative")
    soft: NDArray[np.float32] = ndimage.gaussian_filter(hull.astype(np.float32), 1.0)
    soft[~ndimage.binary_dilation(hull)] = 0.0
    return soft


def soft_support(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """One inside the sample, zero outside, with an edge of about two voxels.

    Raises
    ------
    InputError
        If there is no matter.
    """
    smooth = ndimage.gaussian_filter(volume, 2.0)
    peak = float(smooth.max())
    if peak <= 0:
        raise InputError("alignment: no matter found; its phase is expected to be negative")
    typical = float(np.median(smooth[smooth > 0.3 * peak]))
    # Every fourth slice tells as much as all.
    edge = ABOVE_ARTEFACTS * _artefacts(smooth[:, ::4] if smooth.shape[1] > 64 else smooth)
    inside = smooth > min(OUTLINE * typical, max(FAINT * typical, edge))
    del smooth  # of the size of the volume, as is what follows
    inside = ndimage.binary_dilation(inside, iterations=2)
    return ndimage.gaussian_filter(inside.astype(np.float32), 1.0)


def _reached(moved: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Columns (nx, nx) of the volume as far from the axis as any frame shows matter."""
    n, _, nx = moved.shape
    some = np.stack([ndimage.gaussian_filter(f, 1.5) for f in moved[:: -(-n // ENOUGH_FRAMES)]])
    edge = max(FAINT * float(np.percentile(some, 99.5)), ABOVE_ARTEFACTS * _artefacts(some))
    columns = np.flatnonzero((some > edge).any(axis=(0, 1)))
    furthest = int(np.abs(columns - nx // 2).max(initial=0)) + BEYOND_PX
    across = (np.arange(nx) - nx // 2) ** 2
    inside: NDArray[np.bool_] = across[:, None] + across[None, :] < furthest**2
    return inside


def _artefacts(values: NDArray[np.float32]) -> float:
    """Size of what is not matter, by what is negative; zero where nothing is."""
    below = values[values < 0]
    return -float(np.percentile(below, 100.0 - ARTEFACTS_PERCENT)) if below.size else 0.0


def half_width(volume: NDArray[np.float32]) -> int:
    """Distance from the axis that the sample reaches, with room for the filter's tails [voxel]."""
    centre = volume.shape[0] // 2
    z, x = np.nonzero(np.abs(volume).max(axis=1) > 0)
    return int(max(np.abs(z - centre).max(), np.abs(x - centre).max())) + 8


def centre_of_mass(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centre of mass `(x, y, z)` from the centre voxel [voxel]."""
    weight = np.clip(volume, 0.0, None)
    total = float(weight.sum(dtype=np.float64))
    centre = []
    for axis in (2, 1, 0):
        others = tuple(a for a in range(3) if a != axis)
        profile = weight.sum(axis=others, dtype=np.float64)
        centre.append(float(profile @ (np.arange(profile.size) - profile.size // 2)) / total)
    return np.array(centre)
