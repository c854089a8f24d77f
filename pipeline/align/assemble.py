"""From phase stacks and what the alignment found to stacks that a reconstruction fits.

The shift of a frame is made of three: consistency within its series, its pair, and the place of the
series' sample in the common frame. They are added first, and the frame is interpolated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.align.canvas import Canvas, open_borders
from pipeline.errors import GeometryError, InputError
from pipeline.preprocess.resample import SAME_SCALE
from pipeline.stacks import AlignedStack, DifferencedStack, PhaseStack
from pipeline.tomography.contrast import circular_weights, linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import rotation_y, rotation_z

SAME_ROTATION_RAD = 1e-6
"""Partners whose rotations differ by more cannot be subtracted."""


def nominal_base(tilt_deg: float, pre_rotation_deg: float) -> NDArray[np.float64]:
    """Rotation from the sample to the turning frame of a mounting, `R_z(tilt) R_y(pre)`.

    Parameters
    ----------
    tilt_deg, pre_rotation_deg : mounting [degree].
    """
    result: NDArray[np.float64] = rotation_z(np.deg2rad(tilt_deg)) @ rotation_y(
        np.deg2rad(pre_rotation_deg)
    )
    return result


def place(
    stack: PhaseStack,
    shifts: NDArray[np.float64],
    base: NDArray[np.float64],
    translation: NDArray[np.float64] | None = None,
    shape: tuple[int, int] | None = None,
    *,
    turns_rad: NDArray[np.float64] | None = None,
    scales: NDArray[np.float64] | None = None,
) -> AlignedStack:
    """Bring every frame of a series into the sample's frame.

    Parameters
    ----------
    stack : phase of the series.
    shifts : (n, 2) `(dy, dx)` [pixel] to add: consistency, plus pair for the second partner.
    base : (3, 3) rotation from the sample to the frame that turns about y in this series.
    translation : (3,) place `(x, y, z)` of the sample's origin in that turning frame [pixel], the
        `shift` of the registration; none for the reference mounting.
    shape : frame shape of the result, cut or filled with zero about the centre pixel; that of the
        stack if None.
    turns_rad, scales : (n,) in-plane rotation [rad] and magnification of each frame before its
        shift; none where they are absent.

    Returns
    -------
    Stack with rotations `R_y(theta) base`, zero where nothing was measured: not `valid` beyond a
    border at which the sample goes on; beyond one that shows air it is known to be air.

    Raises
    ------
    GeometryError
        If there is not one shift for each frame.
    """
    total, turns = _total_shifts(stack, shifts, translation)
    canvas, turning = _canvas(stack, shape, turns_rad, scales)
    data, seen = canvas.place(total, *turning)
    return AlignedStack(
        data,
        turns @ np.asarray(base, np.float64),
        stack.pixel_size_m,
        stack.energy_ev,
        stack.noise,
        _measured(canvas, seen),
    )


def _measured(canvas: Canvas, seen: list[tuple[slice, slice]]) -> NDArray[np.bool_] | None:
    """Pixels (n, ny, nx) that were measured or are air; None where all are."""
    unknown = [canvas.unknown(index, part) for index, part in enumerate(seen)]
    if all(mask is None for mask in unknown):
        return None
    measured = np.ones(canvas.shape, np.bool_)
    for frame, mask in zip(measured, unknown, strict=True):
        if mask is not None:
            frame[mask] = False
    return measured


def _total_shifts(
    stack: PhaseStack, shifts: NDArray[np.float64], translation: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shifts with the place of the sample taken out, and the turn about y of each frame."""
    if shifts.shape != (len(stack.data), 2):
        raise GeometryError(f"place: expected shifts ({len(stack.data)}, 2), found {shifts.shape}")
    turns = np.stack([rotation_y(angle) for angle in np.deg2rad(stack.angles_deg)])
    total = np.array(shifts, np.float64)
    if translation is not None:
        lab = turns @ np.asarray(translation, np.float64)
        total -= lab[:, [1, 0]]
    return total, turns


def _canvas(
    stack: PhaseStack,
    shape: tuple[int, int] | None,
    turns_rad: NDArray[np.float64] | None,
    scales: NDArray[np.float64] | None,
) -> tuple[Canvas, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    n, ny, nx = stack.data.shape
    height, width = shape or (ny, nx)
    turning = (
        np.zeros(n) if turns_rad is None else turns_rad,
        np.ones(n) if scales is None else scales,
    )
    return Canvas(stack.data, open_borders(-stack.data), width, height), turning


def fit_shape(data: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Cut frames, or fill them with zero, about the centre pixel.

    Parameters
    ----------
    data : (n, ny, nx) float32.
    shape : (ny, nx) of the result.
    """
    result = np.zeros((len(data), *shape), np.float32)
    source, target = [slice(None)], [slice(None)]
    for old, new in zip(data.shape[1:], shape, strict=True):
        before, after = min(old // 2, new // 2), min(old - old // 2, new - new // 2)
        source.append(slice(old // 2 - before, old // 2 + after))
        target.append(slice(new // 2 - before, new // 2 + after))
    result[tuple(target)] = data[tuple(source)]
    return result


def difference(
    a: AlignedStack,
    b: AlignedStack,
    degree: float = 1.0,
    kind: Literal["linear", "circular"] = "linear",
) -> DifferencedStack:
    """Difference of partners with the weights of its field.

    Parameters
    ----------
    a, b : LH and LV, or C+ and C-, on the same rotations.
    degree : degree of polarisation, which enters the weights.
    kind : `linear` gives `-(P_LH - P_LV)`, the difference of *negative* phase, so that the tensor
        adds to the matter-positive phase per voxel; `circular` gives `½ (P₊ - P₋)`.

    Raises
    ------
    GeometryError
        If the stacks are not partners.
    """
    _check_partners(a, b)
    noise = float(np.hypot(a.noise, b.noise))
    if kind == "linear":
        data = b.data - a.data
        weights = linear_difference_weights(a.rotations, degree)
    else:
        data = np.float32(0.5) * (a.data - b.data)
        weights = circular_weights(a.rotations, helicity=1, degree=degree)
        noise *= 0.5
    valid = _both(a, b)
    return DifferencedStack(data, a.rotations, weights, kind, a.pixel_size_m, noise, valid)


def mean(a: AlignedStack, b: AlignedStack) -> AlignedStack:
    """Half the sum of partners, `½ (P₊ + P₋)`: their scalar channel.

    Parameters
    ----------
    a, b : partners on the same rotations.

    Raises
    ------
    GeometryError
        If the stacks are not partners.
    """
    _check_partners(a, b)
    noise = 0.5 * float(np.hypot(a.noise, b.noise))
    data = np.float32(0.5) * (a.data + b.data)
    return replace(a, data=data, noise=noise, valid=_both(a, b))


def scalar_channel(aligned: AlignedStack) -> DifferencedStack:
    """Negative phase as a stack of scalar contrast, matter positive.

    Parameters
    ----------
    aligned : phase with matter negative.
    """
    return DifferencedStack(
        -aligned.data,
        aligned.rotations,
        scalar_weights(len(aligned.data)),
        "scalar",
        aligned.pixel_size_m,
        aligned.noise,
        aligned.valid,
    )


def concatenate(stacks: Sequence[DifferencedStack]) -> DifferencedStack:
    """Join stacks of one contrast into the one that is reconstructed.

    Parameters
    ----------
    stacks : one or more, of one contrast, frame shape and pixel size.

    Returns
    -------
    Stack whose noise is the rms of the parts', each counted by its projections.

    Raises
    ------
    InputError
        If there are none, or they do not fit together.
    """
    if not stacks:
        raise InputError("concatenate: expected at least one stack, found none")
    first = stacks[0]
    for index, stack in enumerate(stacks):
        if stack.contrast != first.contrast:
            raise InputError(
                f"concatenate: stack {index} is {stack.contrast}, the first is {first.contrast}"
            )
        if stack.data.shape[1:] != first.data.shape[1:]:
            raise InputError(
                f"concatenate: stack {index} has frames {stack.data.shape[1:]}, the first "
                f"{first.data.shape[1:]}"
            )
        _check_pixel(first.pixel_size_m, stack.pixel_size_m)
    counts = [len(stack.data) for stack in stacks]
    variance = np.average([stack.noise**2 for stack in stacks], weights=counts)
    return DifferencedStack(
        np.concatenate([stack.data for stack in stacks]),
        np.concatenate([stack.rotations for stack in stacks]),
        np.concatenate([stack.weights for stack in stacks]),
        first.contrast,
        first.pixel_size_m,
        float(np.sqrt(variance)),
        _joined_valid(stacks),
        first.point_spread_px,
    )


def _joined_valid(stacks: Sequence[DifferencedStack]) -> NDArray[np.bool_] | None:
    """Measured pixels of all stacks; None where every stack was measured everywhere."""
    if all(stack.valid is None for stack in stacks):
        return None
    return np.concatenate(
        [
            np.ones(stack.data.shape, np.bool_) if stack.valid is None else stack.valid
            for stack in stacks
        ]
    )


def _both(a: AlignedStack, b: AlignedStack) -> NDArray[np.bool_] | None:
    """Pixels that both partners measured: one alone would pass its dichroism off as the sample."""
    if a.valid is None or b.valid is None:
        return b.valid if a.valid is None else a.valid
    return a.valid & b.valid


def _check_partners(a: AlignedStack, b: AlignedStack) -> None:
    if a.data.shape != b.data.shape:
        raise GeometryError(
            f"difference: expected stacks of one shape, found {a.data.shape} and {b.data.shape}"
        )
    _check_pixel(a.pixel_size_m, b.pixel_size_m)
    apart = np.abs(a.rotations - b.rotations).max(axis=(1, 2))
    if apart.max(initial=0.0) > SAME_ROTATION_RAD:
        raise GeometryError(
            f"difference: the rotations of projection {int(np.argmax(apart))} are not the same"
        )


def _check_pixel(a: float, b: float) -> None:
    if abs(b / a - 1.0) > SAME_SCALE:
        raise GeometryError(f"expected one pixel size, found {a:g} m and {b:g} m")
