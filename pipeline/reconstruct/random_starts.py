"""The published XL-DOT scheme: nonlinear descent on the axis from random starts.

Kept beside the convex reconstruction so that a published analysis can be repeated, and compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.reconstruct.axes import Packed, outer_gradient, outer_tensor
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Mask
from pipeline.tomography.solvers import LeastSquares


def descend_axis(
    problem: LeastSquares,
    start: Packed,
    support: Mask,
    *,
    sign: int,
    iterations: int,
    stage: str = "orientation: random start",
    progress: ProgressCallback = silent,
) -> tuple[Packed, list[float]]:
    """Minimise `1/2 ‖A(s v vᵀ) − b‖²` over `v` by nonlinear conjugate gradients.

    Along a direction the objective is a quartic polynomial, whose coefficients take two products
    with `AᵀA`; its minimum is found exactly, so that no step length has to be searched for.

    Parameters
    ----------
    problem : the data term.
    start : (3, n) float32, `v` in the voxels of the support.
    support : (z, y, x) bool.
    sign : `s`, +1 or −1.
    iterations : number of iterations.
    stage, progress : where and under which name to report.

    Returns
    -------
    vectors : (3, n) float32.
    residuals : relative residual after each iteration.

    Raises
    ------
    ConvergenceError
        If a step becomes non-finite.

    Notes
    -----
    Directions after Polak and Ribière, restarted where they point uphill. Apseros et al.,
    New J. Phys. 27, 103902 (2025), doi 10.1088/1367-2630/ae0eaa.
    """
    v = start.astype(np.float32)
    right = -problem.residual_gradient(np.zeros(problem.field_shape, np.float32))[0][:, support]
    image = _normal(problem, sign * outer_tensor(v), support)
    residuals: list[float] = []
    direction = previous = np.zeros_like(v)
    for iteration in range(iterations):
        excess = image - right
        gradient = sign * outer_gradient(excess, v)
        direction = _conjugate(gradient, previous, direction)
        previous = gradient
        first = sign * (outer_tensor(v + direction) - outer_tensor(v) - outer_tensor(direction))
        second = sign * outer_tensor(direction)
        first_image = _normal(problem, first, support)
        second_image = _normal(problem, second, support)
        step = _quartic_minimum(
            inner(first, excess),
            0.5 * inner(first, first_image) + inner(second, excess),
            inner(first, second_image),
            0.5 * inner(second, second_image),
        )
        if not np.isfinite(step):
            raise ConvergenceError(f"{stage}: non-finite step in iteration {iteration + 1}")
        v += np.float32(step) * direction
        image += np.float32(step) * first_image + np.float32(step * step) * second_image
        tensor = sign * outer_tensor(v)
        residual2 = inner(tensor, image) - 2.0 * inner(tensor, right) + problem.data_norm2
        residuals.append(float(np.sqrt(max(residual2, 0.0) / problem.data_norm2)))
        progress(Progress(stage, iteration + 1, iterations, residuals[-1]))
    return v, residuals


def _normal(problem: LeastSquares, tensor: Packed, support: Mask) -> Packed:
    field = np.zeros(problem.field_shape, dtype=np.float32)
    field[:, support] = tensor
    return problem.normal(field)[:, support]


def _conjugate(gradient: Packed, previous: Packed, direction: Packed) -> Packed:
    before = inner(previous, previous)
    if before == 0.0:
        return -gradient
    factor = max(inner(gradient, gradient - previous) / before, 0.0)
    conjugate = np.float32(factor) * direction - gradient
    return conjugate if inner(conjugate, gradient) < 0.0 else -gradient


def _quartic_minimum(c1: float, c2: float, c3: float, c4: float) -> float:
    """Where `c1 a + c2 a² + c3 a³ + c4 a⁴` is least; 0 where it has no minimum."""
    coefficients: NDArray[np.float64] = np.array([4.0 * c4, 3.0 * c3, 2.0 * c2, c1])
    scale = np.abs(coefficients).max()
    if not np.isfinite(scale):
        return float("nan")
    if c4 <= 0.0:
        return 0.0
    # In units of the step at which the quartic term equals the linear one, no coefficient is
    # lost to the others' size.
    unit = (abs(c1) / c4) ** (1.0 / 3.0) or 1.0
    roots = np.roots(coefficients * unit ** np.array([3.0, 2.0, 1.0, 0.0]))
    steps = roots[np.abs(roots.imag) <= 1e-6 * (1.0 + np.abs(roots.real))].real * unit
    values = c1 * steps + c2 * steps**2 + c3 * steps**3 + c4 * steps**4
    return float(steps[np.argmin(values)]) if len(steps) else 0.0
