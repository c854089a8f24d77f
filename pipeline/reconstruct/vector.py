"""Vector fields (RESIRE-V): magnetisation from circular dichroism.

Three components are fitted to the differenced projections inside the support that the scalar
channel gives. The problem is linear and convex; a gradient prior, whose strength the data choose,
keeps it from fitting noise. A second stage, still convex, exchanges it for an edge-preserving
prior, which leaves walls between domains sharp; vectors known to have one length may be told so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.smooth import (
    EDGE_SCALE,
    EDGE_STRENGTH,
    MakeTerm,
    check_inputs,
    smooth_solution,
)
from pipeline.stacks import DifferencedStack
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.minimise import Objective, ResidualCurve, quasi_newton
from pipeline.tomography.priors import Field, Mask, Prior, SumOfPriors
from pipeline.tomography.projector import Projector, Scheme, fastest_scheme
from pipeline.tomography.solvers import (
    LeastSquares,
    Solution,
    data_term,
    gradient_descent,
)
from schemas.recipe import VectorSettings

MAGNITUDE_STRENGTH = 2.0 * EDGE_STRENGTH
"""Default strength of the edge-preserving prior where all vectors have one magnitude: the fields
it is asked for turn smoothly inside a domain, and no change of length remains to be spared."""

MAGNITUDE_SCALE = 0.3
"""Turn of the direction between neighbours [radian] at which that prior becomes linear."""


@dataclass(frozen=True)
class VectorResult:
    """Reconstructed vector field.

    Attributes
    ----------
    vector : (3, z, y, x) float32, components x, y, z in the sample frame, zero outside the
        support [data per voxel].
    residuals : relative residual after each iteration.
    stopped : why the iterations ended.
    smoothness : relative strength of the gradient prior that was used; 0 without one.
    edge_preserving : relative strength of the edge-preserving prior; 0 without one.
    """

    vector: NDArray[np.float32]
    residuals: list[float]
    stopped: str
    smoothness: float
    edge_preserving: float


def projector_scheme(settings: VectorSettings) -> Scheme | None:
    """Scheme that a method was published with; None leaves the choice to the geometry."""
    return "four-subvoxel" if settings.method == "gradient-descent" else None


def reconstruct_vector(
    stack: DifferencedStack,
    support: NDArray[np.bool_],
    settings: VectorSettings,
    *,
    problem: LeastSquares | None = None,
    make: MakeTerm | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> VectorResult:
    """Reconstruct a vector field inside a known support.

    Parameters
    ----------
    stack : circular difference `½ (P₊ − P₋)`, weights (n, 3).
    support : (z, y, x) bool, the volume to reconstruct and where the field may differ from zero.
    settings : method and strengths.
    problem : the data term where it is computed elsewhere (a cluster), in the scheme that
        `projector_scheme` asks for; computed in this process from `stack` when absent.
    make : makes data terms of parts of the projections where they are computed elsewhere.
    seed : of the random probe that measures degrees of freedom.
    progress : reports every iteration.

    Returns
    -------
    VectorResult

    Raises
    ------
    InputError
        If the stack is not circular, its shapes differ, or the support is empty or unseen.
    ConvergenceError
        If a value becomes non-finite.

    Notes
    -----
    Pham et al., Sci. Rep. 14 (2024), doi 10.1038/s41598-024-59140-1; their descent is
    `method: gradient-descent`, with the step `2 / (n N_z)` of the published script.
    """
    check_inputs(stack, support, "circular", "a vector field")
    projector = Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        projector_scheme(settings) or fastest_scheme(stack.rotations),
        support=support,
        point_spread_px=stack.point_spread_px,
    )
    if problem is None:
        problem = data_term(projector, stack.data, stack.valid)
    if settings.method == "gradient-descent":
        solution = gradient_descent(
            problem,
            step=settings.descent_step / (len(stack.data) * support.shape[0]),
            support=support,
            iterations=settings.iterations or 150,
            stage="vector: gradient descent",
            progress=progress,
        )
        return VectorResult(solution.field, solution.residuals, solution.stopped, 0.0, 0.0)
    smooth = smooth_solution(
        projector,
        stack,
        problem,
        support,
        smoothness=settings.smoothness,
        iterations=settings.iterations or 40,
        seed=seed,
        stage="vector",
        order=settings.prior_order,
        surface=settings.surface,
        levels=settings.levels,
        make=make,
        progress=progress,
    )
    solution = smooth.solution
    strength = 0.0
    if settings.refine_iterations > 0:
        refine, strength, turn = refine_edges, EDGE_STRENGTH, EDGE_SCALE
        if settings.constant_magnitude:
            refine, strength, turn = refine_magnitude, MAGNITUDE_STRENGTH, MAGNITUDE_SCALE
        if settings.edge_preserving is not None:
            strength = settings.edge_preserving
        size = float(np.sqrt(inner(solution.field, solution.field) / np.count_nonzero(support)))
        solution = refine(
            problem,
            solution.field,
            _together(smooth.edge_prior(strength, support, size or 1.0, turn), smooth.surface),
            support,
            iterations=settings.refine_iterations,
            progress=progress,
        )
    return VectorResult(
        solution.field,
        smooth.solution.residuals + solution.residuals,
        solution.stopped,
        smooth.smoothness,
        strength,
    )


def _together(*priors: Prior | None) -> Prior:
    """One prior that is the sum of those that are there."""
    there = [prior for prior in priors if prior is not None]
    return there[0] if len(there) == 1 else SumOfPriors(tuple(there))


def refine_edges(
    problem: LeastSquares,
    start: Field,
    prior: Prior,
    support: Mask,
    *,
    iterations: int,
    progress: ProgressCallback = silent,
) -> Solution:
    """Minimise `1/2 ‖A x − b‖²` plus any smooth prior over the vectors of the support.

    Parameters
    ----------
    problem : the data term.
    start : (3, z, y, x) float32.
    prior : penalty on the field.
    support : (z, y, x) bool.
    iterations : quasi-Newton steps.
    progress : reports every step.
    """
    curve = ResidualCurve(progress)
    found = quasi_newton(
        edge_objective(problem, prior, support, curve),
        start[:, support],
        iterations=iterations,
        stage="vector: edge-preserving",
        progress=curve,
    )
    return Solution(unpack(found.x, support), curve.residuals, found.iterations, found.stopped)


def edge_objective(
    problem: LeastSquares, prior: Prior, support: Mask, curve: ResidualCurve
) -> Objective:
    """Misfit and penalty as a function of the vectors (3, n) of the support."""

    def objective(packed: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        field = unpack(packed, support)
        gradient, residual2 = problem.residual_gradient(field)
        penalty, bend = prior.value_gradient(field)
        curve.latest = float(np.sqrt(residual2 / problem.data_norm2))
        return 0.5 * residual2 + penalty, (gradient + bend)[:, support]

    return objective


def refine_magnitude(
    problem: LeastSquares,
    start: Field,
    prior: Prior,
    support: Mask,
    *,
    iterations: int,
    progress: ProgressCallback = silent,
) -> Solution:
    """Minimise as `refine_edges`, over vectors of one magnitude, which is found as well.

    The field is `ρ u / |u|` with free vectors `u` and `ρ` their root mean square over the support,
    so that the magnitude needs no unknown of its own. Parameters as `refine_edges`.
    """
    curve = ResidualCurve(progress)
    first = start[:, support]
    floor = np.float32(1e-3) * np.float32(np.sqrt(np.mean(first**2)))
    # A vector that vanishes has no direction to start from, but must have some.
    first[:, np.linalg.norm(first, axis=0) <= floor] = floor
    found = quasi_newton(
        magnitude_objective(problem, prior, support, floor, curve),
        first,
        iterations=iterations,
        stage="vector: one magnitude",
        progress=curve,
    )
    unit, _, magnitude = _directions(found.x, floor)
    field = unpack(np.float32(magnitude) * unit, support)
    return Solution(field, curve.residuals, found.iterations, found.stopped)


def magnitude_objective(
    problem: LeastSquares,
    prior: Prior,
    support: Mask,
    floor: np.float32,
    curve: ResidualCurve,
) -> Objective:
    """Misfit and penalty of `ρ u / |u|` as a function of `u` (3, n), none shorter than `floor`."""

    def objective(u: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        unit, length, magnitude = _directions(u, floor)
        field = unpack(np.float32(magnitude) * unit, support)
        gradient, residual2 = problem.residual_gradient(field)
        penalty, bend = prior.value_gradient(field)
        curve.latest = float(np.sqrt(residual2 / problem.data_norm2))
        outer = (gradient + bend)[:, support]
        along = np.einsum("cn,cn->n", outer, unit)
        # The unit vector turns across itself only; the magnitude grows by u / (count ρ).
        chained = np.float32(magnitude) * (outer - along * unit) / length
        grown = float(along.sum(dtype=np.float64)) / (u.shape[1] * magnitude)
        return 0.5 * residual2 + penalty, chained + np.float32(grown) * u

    return objective


def _directions(
    u: NDArray[np.float32], floor: np.float32
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Unit vectors (3, n), lengths (n,), and the root mean square of the lengths."""
    length = np.maximum(np.linalg.norm(u, axis=0), floor)
    return u / length, length, float(np.sqrt(inner(u, u) / u.shape[1]))
