"""Scalar fields: RESIRE, filtered back-projection, ART or SIRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.explain import Tomograph, explain
from pipeline.errors import ConvergenceError, GeometryError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import DifferencedStack
from pipeline.tomography.algebraic import kaczmarz, sirt
from pipeline.tomography.fbp import filtered_back_projection
from pipeline.tomography.geometry import AxisGroup, group_by_axis
from pipeline.tomography.projector import Projector, fastest_scheme
from pipeline.tomography.solvers import (
    LeastSquares,
    data_term,
    without_unmeasured,
)
from schemas.recipe import ScalarSettings

_STEP_MARGIN = 1.05
"""The row-sum bound holds for weights >= 0; those of the splines dip slightly below zero."""

_STALLED = 5e-3
"""RESIRE ends when two iterations in a row lower the sum of squares by less than this fraction:
what they would still fit is noise, which positivity keeps above the noise level."""


@dataclass(frozen=True)
class ScalarResult:
    """A reconstructed scalar field.

    Attributes
    ----------
    volume : (z, y, x) float32, value per voxel in the unit of the projections.
    residuals : |A x - b| / |b| after each iteration.
    stopped : why the iteration ended.
    extended : (z, y, x) float32, all that was solved for; `volume` is its middle.
    """

    volume: NDArray[np.float32]
    residuals: list[float]
    stopped: str
    extended: NDArray[np.float32]


def solved_shape(settings: ScalarSettings, shape: Sequence[int]) -> tuple[int, int, int]:
    """Shape (z, y, x) that is solved for, around a volume of `shape`: of the same parity."""
    if settings.method in ("fbp", "art"):
        return _shape3(shape)
    wide = [
        n + 2 * round(0.5 * n * (factor - 1.0))
        for n, factor in zip(shape, settings.extend, strict=True)
    ]
    return _shape3(wide)


def _middle(volume: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    cut = tuple(
        slice(n // 2 - m // 2, n // 2 - m // 2 + m)
        for n, m in zip(volume.shape, shape, strict=True)
    )
    return np.ascontiguousarray(volume[cut])


def reconstruct_scalar(
    stack: DifferencedStack,
    support: NDArray[np.bool_] | None,
    settings: ScalarSettings,
    *,
    problem: LeastSquares | None = None,
    volume_shape: Sequence[int] | None = None,
    progress: ProgressCallback = silent,
) -> ScalarResult:
    """Reconstruct a scalar field from its projections.

    Parameters
    ----------
    stack : projections of contrast `scalar`; of either sign, the sign of matter is found.
    support : (z, y, x) bool, or None for everywhere. Ignored by filtered back-projection.
    settings : method, iterations, positivity and window.
    problem : least-squares problem that stands for the stack, e.g. one spread over a cluster.
        It has the shape of `solved_shape`; ART and SIRT, which need single rays, take none.
    volume_shape : (z, y, x); (nx, ny, nx) of the projections when absent.
    progress : told after each iteration.

    Returns
    -------
    ScalarResult.

    Raises
    ------
    GeometryError
        If the stack is not scalar, shapes differ, or filtered back-projection or ART is asked for
        with more than one rotation axis.
    ConvergenceError
        If the iteration meets numbers that are not finite.

    Notes
    -----
    RESIRE: Pham et al., Sci. Rep. 13, 5624 (2023), doi 10.1038/s41598-023-31124-7, least squares
    with positivity, here with Nesterov's acceleration and restarts (O'Donoghue and Candès 2015,
    doi 10.1007/s10208-013-9150-3) instead of plain gradient steps.

    Pixels that were not measured (`stack.valid`) are not fitted. Filtered back-projection, which
    needs whole projections, takes there the reprojection of the volume that explains the measured
    ones (`pipeline.align.explain`): it is linear in the data only where everything was measured.
    """
    if stack.contrast != "scalar":
        raise GeometryError(f"reconstruct_scalar: expected scalar, found {stack.contrast} data")
    _, ny, nx = stack.data.shape
    shape = _shape3(volume_shape if volume_shape is not None else (nx, ny, nx))
    if settings.method == "fbp":
        return _back_project(stack, shape, settings, progress)
    if settings.method == "art":
        return _art(stack, shape, settings, progress)
    whole = solved_shape(settings, shape)
    if support is not None and support.shape != whole:
        raise GeometryError(
            f"reconstruct_scalar: expected a support {whole}, found {support.shape}"
        )
    if settings.method == "sirt" or problem is None:
        projector = Projector(
            whole,
            (ny, nx),
            stack.rotations,
            stack.weights,
            fastest_scheme(stack.rotations),
            point_spread_px=stack.point_spread_px if settings.method == "resire" else 0.0,
        )
        if settings.method == "sirt":
            found, residuals = sirt(
                projector,
                stack.data,
                iterations=settings.iterations,
                relaxation=1.0,
                pixel_weights=stack.valid,
                support=support,
                sign=_sign(stack) if settings.positivity else 0,
                progress=progress,
            )
            return ScalarResult(_middle(found, shape), residuals, "iterations", found)
        problem = data_term(projector, stack.data, stack.valid)
    if (1, *whole) != tuple(problem.field_shape):
        raise GeometryError(
            f"reconstruct_scalar: expected a problem of {whole}, found {problem.field_shape[1:]}"
        )
    target = problem.n_data * stack.noise**2
    return _resire(problem, support, settings, target, shape, progress)


def _sign(stack: DifferencedStack) -> int:
    """Sign of matter in the projections: phase is negative there, optical density positive."""
    known = without_unmeasured(stack.data, stack.valid)
    return -1 if float(known.sum(dtype=np.float64)) < 0.0 else 1


def _art(
    stack: DifferencedStack,
    shape: tuple[int, int, int],
    settings: ScalarSettings,
    progress: ProgressCallback,
) -> ScalarResult:
    group = _one_axis(stack, "ART")
    volume, residuals = kaczmarz(
        (stack.data / stack.weights[:, 0, None, None]).astype(np.float32),
        group.angles_rad,
        sweeps=settings.sweeps,
        relaxation=settings.relaxation,
        measured=stack.valid,
        sign=_sign(stack) if settings.positivity else 0,
        progress=progress,
    )
    volume = _into_sample_frame(volume, group.base, shape)
    return ScalarResult(volume, residuals, "iterations", volume)


def _one_axis(stack: DifferencedStack, method: str) -> AxisGroup:
    groups = group_by_axis(stack.rotations)
    if len(groups) != 1:
        raise GeometryError(
            f"reconstruct_scalar: {method} needs one rotation axis, "
            f"found {len(groups)}; use method resire"
        )
    return groups[0]


def _shape3(shape: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = shape
    return int(z), int(y), int(x)


def _resire(
    problem: LeastSquares,
    support: NDArray[np.bool_] | None,
    settings: ScalarSettings,
    target: float,
    shape: tuple[int, int, int],
    progress: ProgressCallback,
) -> ScalarResult:
    """Accelerated projected gradient; `target` is the sum of squares that is all noise."""
    inside = np.ones(problem.field_shape, np.float32)
    if support is not None:
        inside *= support
    best = np.zeros(problem.field_shape, np.float32)
    gradient, sum_squares = problem.residual_gradient(best)
    constrain = _constraint(gradient, inside, positivity=settings.positivity)
    # The largest eigenvalue of A^T W A is at most its largest row sum.
    step = 1.0 / max(_STEP_MARGIN * float(problem.normal(inside).max()), 1e-30)
    norm = max(problem.data_norm2, 1e-30)
    ahead, momentum, previous = best, 1.0, sum_squares
    residuals: list[float] = []
    stopped, slow = "iterations", 0
    for iteration in range(settings.iterations):
        updated = constrain(ahead - np.float32(step) * gradient)
        move = updated - best
        # Momentum that points uphill is dropped: the restart by gradient.
        if np.vdot(ahead - updated, move) > 0.0:
            momentum = 1.0
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = updated + np.float32((momentum - 1.0) / grown) * move
        best, momentum = updated, grown
        gradient, sum_squares = problem.residual_gradient(ahead)
        if not np.isfinite(sum_squares):
            raise ConvergenceError(f"reconstruct_scalar: not finite in iteration {iteration + 1}")
        residuals.append(float(np.sqrt(max(sum_squares, 0.0) / norm)))
        progress(Progress("scalar: RESIRE", iteration + 1, settings.iterations, residuals[-1]))
        if sum_squares <= target:
            stopped = "noise level"
        slow = slow + 1 if previous - sum_squares < _STALLED * previous else 0
        if slow == 2 and stopped == "iterations":
            stopped = "converged"
        if stopped != "iterations":
            break
        previous = sum_squares
    found = constrain(ahead)[0]
    return ScalarResult(_middle(found, shape), residuals, stopped, found)


def _constraint(
    gradient: NDArray[np.float32], inside: NDArray[np.float32], *, positivity: bool
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Projection onto the support and, if asked for, onto the sign of matter.

    The gradient at zero is minus the back projection of the data, so its sum tells the sign:
    phase is negative where matter is, optical density positive.
    """
    if not positivity:
        return lambda field: field * inside
    negative = float(np.sum(gradient, dtype=np.float64)) > 0.0
    clip = np.minimum if negative else np.maximum
    return lambda field: clip(field, np.float32(0.0)) * inside


def _back_project(
    stack: DifferencedStack,
    shape: tuple[int, int, int],
    settings: ScalarSettings,
    progress: ProgressCallback,
) -> ScalarResult:
    group = _one_axis(stack, "filtered back-projection")
    progress(Progress("scalar: filtered back-projection", 0, 1))
    # Dividing by the weight makes a projection the plain integral of the field.
    data = (stack.data / stack.weights[:, 0, None, None]).astype(np.float32)
    if stack.valid is not None:
        data = _completed(data, stack.valid, group.angles_rad)
    volume = filtered_back_projection(data, group.angles_rad, settings.fbp_filter)
    volume = _into_sample_frame(volume, group.base, shape)
    progress(Progress("scalar: filtered back-projection", 1, 1))
    return ScalarResult(volume, [], "direct", volume)


_MARGIN_ROWS = 8
"""Rows beside incomplete ones that help to tell sample from air there."""


def _completed(
    data: NDArray[np.float32], valid: NDArray[np.bool_], angles: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Projections of either sign, with what was not measured filled in by what was."""
    known = without_unmeasured(data, valid)
    sign = np.float32(-1.0 if known.sum(dtype=np.float64) < 0.0 else 1.0)
    if valid.all():
        return known
    # Slices across the axis are independent: only those that miss something are worked on.
    incomplete = np.flatnonzero(~valid.all(axis=(0, 2)))
    rows = slice(max(0, incomplete[0] - _MARGIN_ROWS), incomplete[-1] + 1 + _MARGIN_ROWS)
    seen = valid[:, rows]
    unknown = [None if frame.all() else ~frame for frame in seen]
    model = explain(Tomograph(angles), sign * known[:, rows], unknown).model
    known[:, rows] = np.where(seen, known[:, rows], sign * model)
    return known


def _into_sample_frame(
    volume: NDArray[np.float32], base: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Value at sample position r of a volume known at `base @ r`, both centred at n // 2."""
    if volume.shape == shape and np.allclose(base, np.eye(3), atol=1e-9):
        return volume
    reverse = base[::-1, ::-1]  # from x, y, z to the order of array axes
    centre_in = np.array([n // 2 for n in volume.shape])
    centre_out = np.array([n // 2 for n in shape])
    offset = centre_in - reverse @ centre_out
    turned = ndimage.affine_transform(volume, reverse, offset, output_shape=shape, order=3)
    return turned.astype(np.float32, copy=False)
