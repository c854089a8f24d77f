"""Lean of the rotation axis along the beam, measured from aligned frames.

An axis that leans by `α` towards the beam shows a point at depth `z` higher or lower by `α z`, so
that parts of the sample rise and sink as they turn. No motion of whole frames does that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.align.canvas import for_each
from pipeline.align.explain import Explained, Tomograph, Unknown, explain
from pipeline.align.match import FINE_PX, WIDE_PX
from pipeline.align.pairs import band_pass

PLANTED_RAD = 0.01
"""Lean that is planted to see how much of it is found."""

LEAST_GAIN = 0.3
"""Part of a planted lean that must be found; below it the angles do not determine it."""

LEAST_OPPOSITE = 0.1
"""Part of the frames that must have one taken from the other side, for a lean to be looked for:
from one side only, a volume that is sheared along the beam shows nearly the same."""

ROUNDS = 2
"""Times that what was found is taken out of the frames, and looked for again."""


def axis_pitch(
    tomograph: Tomograph,
    moved: NDArray[np.float32],
    seen: list[tuple[slice, slice]],
    unknown: Unknown,
) -> tuple[float, float]:
    """Lean of the rotation axis along the beam, and its standard error [rad].

    The volume follows part of a lean, so that part of it is found only: how much is measured with a
    lean planted into the volume's own projections, and the result divided by it.

    Parameters
    ----------
    tomograph : projector at the angles of the frames.
    moved : (n, ny, nx) float32 aligned frames, matter positive.
    seen, unknown : where each frame was measured, and what it did not measure.

    Returns
    -------
    pitch : positive where `R = R_x(pitch) R_y(theta)`; NaN where the frames do not determine it.
    error : its standard error, from the scatter between frames; NaN likewise.
    """
    found = explain(tomograph, moved, unknown)
    effect = _effect(tomograph, found)
    planted = found.model + np.float32(PLANTED_RAD) * effect
    echo = explain(tomograph, planted, unknown)
    gain = _fit(planted, echo, _effect(tomograph, echo), seen, unknown)[0] / PLANTED_RAD
    if not gain > LEAST_GAIN:
        return np.nan, np.nan
    pitch, error = 0.0, np.nan
    for round_ in range(ROUNDS):
        upright = moved - np.float32(pitch) * effect
        if round_:
            found = explain(tomograph, upright, unknown)
            effect = _effect(tomograph, found)
        rest, error = _fit(upright, found, effect, seen, unknown)
        pitch += rest / gain
    return pitch, error / gain


def sees_both_sides(angles: NDArray[np.float64]) -> bool:
    """Whether enough of the angles (n,) [rad] have an opposite one among them."""
    folded = np.sort(np.mod(angles, 2.0 * np.pi))
    near = 1.5 * np.pi / len(angles)
    apart = np.abs(np.mod(folded[:, None] - folded[None, :], 2.0 * np.pi) - np.pi)
    return bool(np.mean(apart.min(axis=1) < near) >= LEAST_OPPOSITE)


def _effect(tomograph: Tomograph, found: Explained) -> NDArray[np.float32]:
    """Change of the projections (n, ny, nx) by a lean of one radian, to first order."""
    nx = found.volume.shape[0]
    at = (np.arange(nx) - nx // 2).astype(np.float32)
    across = tomograph.reproject(found.volume * at)
    deep = tomograph.reproject(found.volume * at[:, None, None])
    cos, sin = (f(tomograph.angles)[:, None, None] for f in (np.cos, np.sin))
    depth = (cos * deep - sin * across).astype(np.float32)
    slope: NDArray[np.float32] = np.gradient(depth, axis=1)
    return slope


def _fit(
    moved: NDArray[np.float32],
    found: Explained,
    effect: NDArray[np.float32],
    seen: list[tuple[slice, slice]],
    unknown: Unknown,
) -> tuple[float, float]:
    """Lean that explains the rest of all frames, beside what their motions explain; its error."""
    sums = np.zeros((len(moved), 2))

    def one(index: int) -> None:
        rest, part = moved[index] - found.model[index], seen[index]
        mask = unknown[index]
        if mask is not None:
            rest[mask] = 0.0
        edges, lean, rest = (
            band_pass(image, FINE_PX, WIDE_PX)
            for image in (found.model[index], effect[index], rest)
        )
        gy, gx = (np.gradient(edges, axis=axis)[part] for axis in (0, 1))
        ny, nx = edges.shape
        y, x = np.mgrid[-1.0 : 1.0 : 1j * ny, -1.0 : 1.0 : 1j * nx][:, part[0], part[1]]
        motions = [gy, gx, gy * x * nx - gx * y * ny, np.ones_like(x), y, x]
        basis = np.linalg.qr(np.stack([m.ravel() for m in motions], axis=1))[0]
        # What motions of the frame explain too counts for them.
        own = lean[part].ravel() - basis @ (basis.T @ lean[part].ravel())
        sums[index] = own @ rest[part].ravel(), own @ own

    for_each(len(moved), one)
    total = float(sums[:, 1].sum())
    if not total > 0.0:
        return 0.0, np.nan
    pitch = float(sums[:, 0].sum() / total)
    return pitch, float(np.linalg.norm(sums[:, 0] - pitch * sums[:, 1]) / total)
