"""Views: all frames of one rotation of the sample, in whatever linear polarisations it was taken.

The frames of a view share what the sample is without dichroism and differ by the dichroism alone.
An orthogonal transform parts the two: of `k` frames it makes `k - 1` differences, from which the
isotropic part is gone, as it is from LH - LV, and one mean. What is wrong with the isotropic part,
a shift that both partners have say, stays in the mean, which can then be trusted less than the
differences; frames without a partner are a mean of one. Nothing is lost: the transform keeps
white noise white, so that the rows tell what the frames told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.align.pairs import ANGLE_TOLERANCE_DEG
from pipeline.errors import GeometryError, InputError
from pipeline.preprocess.resample import SAME_SCALE
from pipeline.stacks import AlignedStack, DifferencedStack
from pipeline.tomography.contrast import polarised_weights

SAME_VIEW_RAD = 2.0 * np.deg2rad(ANGLE_TOLERANCE_DEG)
"""Elements of the rotation matrices of one view's frames differ by no more."""

Views = NDArray[np.int64]
"""(n_series, n_views): index of each view's frame in each series; -1 where there is none."""


@dataclass(frozen=True)
class PolarisedStack:
    """Aligned projections in one linear polarisation.

    Attributes
    ----------
    stack : phase, matter negative.
    angle_deg : of the electric field from lab x towards lab y [degree].
    degree : degree of polarisation.
    """

    stack: AlignedStack
    angle_deg: float
    degree: float


def match_views(angles_deg: Sequence[NDArray[np.float64]]) -> Views:
    """Sort the frames of several series by rotation.

    Parameters
    ----------
    angles_deg : rotation angles of each series [degree].

    Returns
    -------
    Views in the order of the first series where it holds all of them, else by angle.
    """
    known: list[float] = []
    table: list[list[int]] = []
    for series, angles in enumerate(angles_deg):
        for frame, angle in enumerate(angles):
            for view, seen in enumerate(known):
                if table[view][series] < 0 and abs(seen - angle) <= ANGLE_TOLERANCE_DEG:
                    table[view][series] = frame
                    break
            else:
                known.append(float(angle))
                table.append([-1] * len(angles_deg))
                table[-1][series] = frame
    order = np.arange(len(known))
    if len(known) > len(angles_deg[0]):
        order = np.argsort(known, kind="stable")
    return np.array(table, np.int64).reshape(-1, len(angles_deg))[order].T


def view_angles(angles_deg: Sequence[NDArray[np.float64]], views: Views) -> NDArray[np.float64]:
    """Rotation angle of each view [degree], of its first frame."""
    first = np.argmax(views >= 0, axis=0)
    return np.array([angles_deg[k][views[k, v]] for v, k in enumerate(first)], np.float64)


def joint_rows(members: Sequence[PolarisedStack], views: Views) -> DifferencedStack:
    """Differences and means of every view, with the weights of tensor and isotropic part.

    Parameters
    ----------
    members : series of one mounting in different polarisations.
    views : from `match_views`.

    Returns
    -------
    Stack with weights (n, 7), matter positive; first all differences, then all means. The noise is
    that of one frame, in every row.

    Raises
    ------
    GeometryError
        If the frames of a view do not show the same rotation or differ in shape or pixel size.
    """
    _check(members, views)
    differences: list[_Row] = []
    means: list[_Row] = []
    for view in range(views.shape[1]):
        present = [k for k in range(len(members)) if views[k, view] >= 0]
        frames = [_frame(members[k].stack, int(views[k, view])) for k in present]
        weights = np.concatenate(
            [
                polarised_weights(frame.rotations, members[k].angle_deg, members[k].degree)
                for k, frame in zip(present, frames, strict=True)
            ]
        )
        data = np.concatenate([-frame.data for frame in frames])
        valid = _common(frames)
        for index, mix in enumerate(orthogonal_mix(len(present))):
            row = _Row(
                np.tensordot(mix.astype(np.float32), data, axes=1),
                frames[0].rotations[0],
                mix @ weights,
                valid,
            )
            (differences if index else means).append(row)
    first = members[0].stack
    counts = [len(member.stack.data) for member in members]
    variance = np.average([member.stack.noise**2 for member in members], weights=counts)
    rows = [*differences, *means]
    return DifferencedStack(
        np.stack([row.data for row in rows]),
        np.stack([row.rotation for row in rows]),
        np.stack([row.weights for row in rows]),
        "linear",
        first.pixel_size_m,
        float(np.sqrt(variance)),
        _joined(rows, first.data.shape[1:]),
    )


@dataclass(frozen=True)
class _Row:
    data: NDArray[np.float32]
    rotation: NDArray[np.float64]
    weights: NDArray[np.float64]
    valid: NDArray[np.bool_] | None


def orthogonal_mix(k: int) -> NDArray[np.float64]:
    """Orthogonal (k, k) whose first row is the mean times √k: Helmert's matrix.

    Row `j` is the mean of the first `j` less the next one, of length one; for two it is
    `(1, -1) / √2`.
    """
    mix = np.zeros((k, k))
    mix[0] = 1.0 / np.sqrt(k)
    for j in range(1, k):
        mix[j, :j] = 1.0 / np.sqrt(j * (j + 1))
        mix[j, j] = -j / np.sqrt(j * (j + 1))
    return mix


def view_means(members: Sequence[PolarisedStack], views: Views) -> AlignedStack:
    """Mean of the frames of each view: the scalar channel.

    Parameters
    ----------
    members, views : as in `joint_rows`.
    """
    _check(members, views)
    data, rotations, valid = [], [], []
    for view in range(views.shape[1]):
        present = [k for k in range(len(members)) if views[k, view] >= 0]
        frames = [_frame(members[k].stack, int(views[k, view])) for k in present]
        data.append(np.mean([frame.data[0] for frame in frames], axis=0, dtype=np.float32))
        rotations.append(frames[0].rotations[0])
        valid.append(_common(frames))
    first = members[0].stack
    per_view = float(np.mean(1.0 / (views >= 0).sum(axis=0)))
    noise = float(np.sqrt(np.mean([member.stack.noise**2 for member in members]) * per_view))
    masks = None
    if any(mask is not None for mask in valid):
        whole = np.ones(first.data.shape[1:], np.bool_)
        masks = np.stack([whole if mask is None else mask for mask in valid])
    return AlignedStack(
        np.stack(data),
        np.stack(rotations),
        first.pixel_size_m,
        first.energy_ev,
        noise,
        masks,
    )


def partners(
    members: Sequence[PolarisedStack], views: Views
) -> tuple[AlignedStack, AlignedStack] | None:
    """Frames of LH and LV whose partner was taken; None where there are no such pairs."""
    found = {member.angle_deg % 180.0: k for k, member in enumerate(members)}
    if 0.0 not in found or 90.0 not in found:
        return None
    both = views[[found[0.0], found[90.0]]]
    both = both[:, (both >= 0).all(axis=0)]
    if both.shape[1] == 0:
        return None
    one, two = (
        _frames(members[found[angle]].stack, index)
        for angle, index in zip((0.0, 90.0), both, strict=True)
    )
    return one, two


def _frame(stack: AlignedStack, index: int) -> AlignedStack:
    return _frames(stack, np.array([index]))


def _frames(stack: AlignedStack, indices: NDArray[np.int64]) -> AlignedStack:
    return replace(
        stack,
        data=stack.data[indices],
        rotations=stack.rotations[indices],
        valid=None if stack.valid is None else stack.valid[indices],
    )


def _common(frames: Sequence[AlignedStack]) -> NDArray[np.bool_] | None:
    """Pixels that all frames of a view measured: a difference needs every one of them."""
    masks = [frame.valid[0] for frame in frames if frame.valid is not None]
    return np.logical_and.reduce(masks) if masks else None


def _joined(rows: Sequence[_Row], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if all(row.valid is None for row in rows):
        return None
    whole = np.ones(shape, np.bool_)
    return np.stack([whole if row.valid is None else row.valid for row in rows])


def _check(members: Sequence[PolarisedStack], views: Views) -> None:
    if not members or views.shape[1] == 0:
        raise InputError("views: expected at least one projection, found none")
    first = members[0].stack
    for member in members[1:]:
        stack = member.stack
        if stack.data.shape[1:] != first.data.shape[1:]:
            raise GeometryError(
                f"views: expected frames of one shape, found {first.data.shape[1:]} and "
                f"{stack.data.shape[1:]}"
            )
        if abs(stack.pixel_size_m / first.pixel_size_m - 1.0) > SAME_SCALE:
            raise GeometryError(
                f"views: expected one pixel size, found {first.pixel_size_m:g} m and "
                f"{stack.pixel_size_m:g} m"
            )
    for view, column in enumerate(views.T):
        seen = [m.stack.rotations[i] for m, i in zip(members, column, strict=True) if i >= 0]
        apart = max(float(np.abs(rotation - seen[0]).max()) for rotation in seen)
        if apart > SAME_VIEW_RAD:
            raise GeometryError(f"views: the rotations of view {view} are not the same")
