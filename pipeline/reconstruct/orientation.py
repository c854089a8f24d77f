"""Crystal axes (XL-DOT): orientation from X-ray linear dichroism.

A projection is linear in the tensor `T = f a aᵀ`, so the tensor is found first, by one convex
least-squares solve with a gradient prior. Then the rank is made one: `T = s v vᵀ` with the sign
`s = ±1` of the dichroism read off the tensors and `v = √|f| a`, starting from the tensor's
principal axis, with an edge-preserving prior on `T` that sees neither the sign of `v` nor its
direction, and that spares the jumps at grain boundaries. The published scheme, descent on the axis
itself from random starts, is kept as `method: random-starts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.axes import (
    Packed,
    dichroism_sign,
    outer_tensor,
    principal_axes,
    upper_half,
)
from pipeline.reconstruct.joint_orientation import (
    is_joint,
    measure_rows,
    solve_jointly,
    trust_means,
    weigh_rows,
)
from pipeline.reconstruct.random_starts import descend_axis
from pipeline.reconstruct.smooth import (
    CONVEX_PART,
    EDGE_STRENGTH,
    KNEE,
    KNEE_STRENGTH,
    MakeTerm,
    check_inputs,
    smooth_solution,
)
from pipeline.reconstruct.tied import refine_tied
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import TENSOR_COMPONENTS
from pipeline.tomography.kernels.packed import (
    pack,
    pack_outer_gradient,
    row_starts,
    unpack,
    unpack_outer,
)
from pipeline.tomography.minimise import Objective, ResidualCurve, quasi_newton
from pipeline.tomography.priors import EdgePreservingPrior, Mask, component_metric
from pipeline.tomography.projector import Projector, fastest_scheme
from pipeline.tomography.solvers import (
    LeastSquares,
    conjugate_gradient,
    data_term,
    settled_fall,
)
from pipeline.tomography.stiff import FIRST_CURVATURE, StiffRankOne
from schemas.recipe import OrientationSettings


@dataclass(frozen=True)
class OrientationResult:
    """Reconstructed axes; everything is zero outside the support.

    Attributes
    ----------
    tensor : (6, z, y, x) float32, traceless tensor of the tensor stage, xx yy zz yz xz xy in the
        sample frame [data per voxel]; the mean of `f a aᵀ` for `random-starts`.
    axis : (3, z, y, x) float32 unit vectors, components x, y, z; of `a` and `−a` the one with
        `z >= 0` (then `y >= 0`, then `x >= 0`).
    magnitude : (z, y, x) float32, `|f|` [data per voxel].
    uniaxiality : (z, y, x) float32 in 0..1, from the eigenvalues of `tensor`: one for a single
        axis, zero where two axes mix alike (`principal_axes`).
    sign : sign of `f`.
    residuals : relative residual after each iteration, stage after stage.
    stopped : why the last stage ended.
    smoothness : relative strength of the gradient prior of the tensor stage.
    edge_preserving : relative strength of the prior of the rank-one stage, 0 without one.
    isotropic : (z, y, x) float32, mean over all directions `f0 + f / 3` [data per voxel], of
        polarisations that were fitted jointly; None of differences, which do not see it.
    """

    tensor: NDArray[np.float32]
    axis: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    uniaxiality: NDArray[np.float32]
    sign: int
    residuals: list[float]
    stopped: str
    smoothness: float
    edge_preserving: float
    isotropic: NDArray[np.float32] | None = None


def reconstruct_orientation(
    stack: DifferencedStack,
    support: NDArray[np.bool_],
    settings: OrientationSettings,
    *,
    seed: int = 0,
    problem: LeastSquares | None = None,
    make: MakeTerm | None = None,
    density: NDArray[np.float32] | None = None,
    progress: ProgressCallback = silent,
) -> OrientationResult:
    """Reconstruct the crystal axis of every voxel of the support.

    Parameters
    ----------
    stack : linear difference, weights (n, 6); or rows of `pipeline.align.views.joint_rows`,
        weights (n, 7), which are weighed here by what they are missed by.
    support : (z, y, x) bool, the volume to reconstruct and where the field may differ from zero.
    settings : method, iterations and strengths.
    seed : of the random starts and of random probes.
    problem : the data term where it is computed elsewhere (a cluster); computed in this process
        from `stack` when absent. Held-out projections are always predicted in this process.
    make : makes data terms of parts of the projections where they are computed elsewhere.
    density : (z, y, x) float32, to which `settings.magnitude: density` ties the dichroism, zero
        where nothing is dichroic.
    progress : reports every iteration.

    Returns
    -------
    OrientationResult

    Raises
    ------
    InputError
        If the stack is not linear, is zero, its shapes differ, or the support is empty or unseen.
    ConvergenceError
        If a value becomes non-finite.

    Notes
    -----
    Contrast and published scheme: Apseros et al., Nature 636, 354 (2024),
    doi 10.1038/s41586-024-08233-y, and New J. Phys. 27, 103902 (2025),
    doi 10.1088/1367-2630/ae0eaa.
    """
    check_inputs(stack, support, "linear", "an orientation")
    if is_joint(stack):
        noise = measure_rows(stack, support, problem, seed=seed, progress=progress)
        noise = trust_means(stack, support, noise, make=make, seed=seed, progress=progress)
        weighed = weigh_rows(stack, noise)
        return reconstruct_weighed(
            weighed, support, settings, seed=seed, make=make, progress=progress
        )
    scheme = fastest_scheme(stack.rotations)
    projector = Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        scheme,
        support=support,
        point_spread_px=stack.point_spread_px,
    )
    if problem is None:
        problem = data_term(projector, stack.data, stack.valid)
    if settings.method == "random-starts":
        return _random_starts(problem, support, settings, seed, progress)
    smooth = smooth_solution(
        projector,
        stack,
        problem,
        support,
        smoothness=settings.smoothness,
        iterations=settings.iterations,
        seed=seed,
        stage="orientation",
        order=settings.prior_order,
        levels=settings.levels,
        settle=settings.refine_iterations > 0,
        make=make,
        progress=progress,
    )
    packed = pack(smooth.solution.field, support)
    smooth = smooth.without_field()
    sign = dichroism_sign(packed)
    principal = principal_axes(packed, sign)
    residuals, stopped = smooth.solution.residuals, smooth.solution.stopped
    vectors = principal.axis * np.sqrt(np.maximum(principal.contrast, 0.0))
    strength = 0.0
    if settings.refine_iterations > 0:
        strength = KNEE_STRENGTH if settings.edge_preserving is None else settings.edge_preserving
        typical = _typical(principal.contrast)
        convex = round(CONVEX_PART * settings.refine_iterations)
        for steps, part, knee in (
            (convex, EDGE_STRENGTH / KNEE_STRENGTH, 0.0),
            (settings.refine_iterations - convex, 1.0, KNEE),
        ):
            prior = smooth.edge_prior(part * strength, support, typical, knee=knee)
            if settings.magnitude == "density" and knee > 0.0:
                refined = _refine_tied(problem, vectors, density, prior, sign, steps, progress)
            else:
                refined = refine_rank_one(
                    problem,
                    vectors,
                    prior,
                    sign=sign,
                    iterations=steps,
                    diagonal=smooth.diagonal,
                    settled=settled_fall(smooth.noise, vectors.size),
                    progress=progress,
                )
            vectors, stopped = refined.vectors, refined.stopped
            residuals = residuals + refined.residuals
    length = np.linalg.norm(vectors, axis=0)
    # Where the refinement found no dichroism at all, the tensor's axis is the best there is.
    axis = np.divide(vectors, length, out=principal.axis.copy(), where=length > 0.0)
    return OrientationResult(
        tensor=unpack(packed, support),
        axis=unpack(upper_half(axis), support),
        magnitude=unpack(length[None] ** 2, support)[0],
        uniaxiality=unpack(principal.uniaxiality[None], support)[0],
        sign=sign,
        residuals=residuals,
        stopped=stopped,
        smoothness=smooth.smoothness,
        edge_preserving=strength,
    )


def reconstruct_weighed(
    stack: DifferencedStack,
    support: NDArray[np.bool_],
    settings: OrientationSettings,
    *,
    seed: int = 0,
    problem: LeastSquares | None = None,
    make: MakeTerm | None = None,
    density: NDArray[np.float32] | None = None,
    progress: ProgressCallback = silent,
) -> OrientationResult:
    """Reconstruct the crystal axis from polarisations that are fitted jointly.

    Parameters
    ----------
    stack : from `weigh_rows`.
    support, settings, seed, problem, make, progress : as in `reconstruct_orientation`.
    density : refused, a joint fit has a magnitude for every voxel.

    Raises
    ------
    InputError, ConvergenceError
        As `reconstruct_orientation`.
    """
    check_inputs(stack, support, "linear", "an orientation")
    if settings.magnitude == "density" or density is not None:
        raise InputError(
            "'density' is for differences of partners, found polarisations that are fitted jointly",
            field="orientation.magnitude",
        )
    found = solve_jointly(
        stack, support, settings, problem, seed=seed, make=make, progress=progress
    )
    principal = principal_axes(found.tensor, found.sign)
    length = np.linalg.norm(found.vectors, axis=0)
    axis = np.divide(found.vectors, length, out=principal.axis.copy(), where=length > 0.0)
    return OrientationResult(
        tensor=unpack(found.tensor, support),
        axis=unpack(upper_half(axis), support),
        magnitude=unpack(length[None] ** 2, support)[0],
        uniaxiality=unpack(principal.uniaxiality[None], support)[0],
        sign=found.sign,
        residuals=found.residuals,
        stopped=found.stopped,
        smoothness=found.smoothness,
        edge_preserving=found.edge_preserving,
        isotropic=unpack(found.isotropic[None], support)[0],
    )


def _typical(contrast: Packed) -> float:
    """Contrast of the dichroic phase: the rms weighs down voxels without any."""
    return float(np.sqrt(np.mean(np.square(contrast, dtype=np.float64)))) or 1.0


@dataclass(frozen=True)
class Refined:
    """Outcome of `refine_rank_one`.

    Attributes
    ----------
    vectors : (3, n) float32, `√|f| a` in the voxels of the support.
    residuals : relative residual after each step.
    stopped : why the steps ended.
    """

    vectors: Packed
    residuals: list[float]
    stopped: str


def _refine_tied(
    problem: LeastSquares,
    vectors: Packed,
    density: NDArray[np.float32] | None,
    prior: EdgePreservingPrior,
    sign: int,
    iterations: int,
    progress: ProgressCallback,
) -> Refined:
    if density is None or density.shape != prior.support.shape:
        found = None if density is None else density.shape
        raise InputError(
            f"orientation.magnitude: 'density' needs a density of shape {prior.support.shape}, "
            f"found {found}"
        )
    packed = density[prior.support].astype(np.float32)
    return Refined(
        *refine_tied(
            problem, vectors, packed, prior, sign=sign, iterations=iterations, progress=progress
        )
    )


def refine_rank_one(
    problem: LeastSquares,
    vectors: Packed,
    prior: EdgePreservingPrior,
    *,
    sign: int,
    iterations: int,
    diagonal: float,
    settled: float = 0.0,
    progress: ProgressCallback = silent,
) -> Refined:
    """Minimise `1/2 ‖A(s v vᵀ) − b‖²` and an edge-preserving prior on `v vᵀ` over `v`.

    Parameters
    ----------
    problem : the data term.
    vectors : (3, n) float32 start in the voxels of the prior's support.
    prior : penalty on the tensor.
    sign : `s`, +1 or −1.
    iterations : most quasi-Newton steps.
    diagonal : mean diagonal of `AᵀA` [data² / field²].
    settled : steps end when they lower the objective by less than this [data²].
    progress : reports every step.

    Raises
    ------
    ConvergenceError
        If the objective becomes non-finite.
    """
    curve = ResidualCurve(progress)
    # Every array that the minimiser sees is of order one, whatever the units of the data.
    unit = np.float32(np.sqrt(np.mean(np.square(vectors, dtype=np.float64)) * 3.0) or 1.0)
    found = quasi_newton(
        rank_one_objective(problem, prior, sign, unit, curve),
        vectors / unit,
        iterations=iterations,
        settled=settled / problem.data_norm2,
        preconditioner=StiffRankOne(
            prior, float(unit), 1.0 / problem.data_norm2, FIRST_CURVATURE * diagonal
        ),
        stage="orientation: rank one",
        progress=curve,
    )
    return Refined(unit * found.x, curve.residuals, found.stopped)


def rank_one_objective(
    problem: LeastSquares,
    prior: EdgePreservingPrior,
    sign: int,
    unit: np.float32,
    curve: ResidualCurve,
) -> Objective:
    """Misfit and penalty of `s v vᵀ`, over the norm of the data, as a function of `v / unit`."""

    starts = row_starts(prior.support)
    scale = np.float32(sign) * unit**2
    field = np.empty((len(TENSOR_COMPONENTS), *prior.support.shape), np.float32)

    def objective(scaled: Packed) -> tuple[float, Packed]:
        vectors = np.ascontiguousarray(scaled)
        unpack_outer(vectors, scale, prior.support, starts, field)
        gradient, residual2 = problem.residual_gradient(field)
        penalty, bend = prior.value_gradient(field)
        curve.latest = float(np.sqrt(residual2 / problem.data_norm2))
        factor = np.float32(float(scale) / problem.data_norm2)
        chained = np.empty_like(vectors)
        pack_outer_gradient(gradient, bend, vectors, factor, prior.support, starts, chained)
        return (0.5 * residual2 + penalty) / problem.data_norm2, chained

    return objective


def _random_starts(
    problem: LeastSquares,
    support: Mask,
    settings: OrientationSettings,
    seed: int,
    progress: ProgressCallback,
) -> OrientationResult:
    """Published scheme: the axes of several descents combined by the mean of `a aᵀ`."""
    rng = np.random.default_rng(seed)
    count = int(np.count_nonzero(support))
    # A descent on `v` cannot change the sign of `f`; a few linear iterations tell it.
    rough = conjugate_gradient(problem, support=support, metric=component_metric(6), iterations=5)
    sign = dichroism_sign(rough.field[:, support])
    axes, tensor = np.zeros((6, count), np.float32), np.zeros((6, count), np.float32)
    magnitude = np.zeros(count, np.float32)
    residuals: list[float] = []
    for number in range(settings.starts):
        start = rng.uniform(-settings.start_range, settings.start_range, (3, count))
        v, curve = descend_axis(
            problem,
            start.astype(np.float32),
            support,
            sign=sign,
            iterations=settings.start_iterations,
            stage=f"orientation: random start {number + 1} of {settings.starts}",
            progress=progress,
        )
        length = np.linalg.norm(v, axis=0)
        axes += outer_tensor(np.divide(v, length, out=np.zeros_like(v), where=length > 0.0))
        tensor += np.float32(sign / settings.starts) * outer_tensor(v)
        magnitude += length**2 / np.float32(settings.starts)
        residuals += curve
    principal = principal_axes(axes, 1)
    return OrientationResult(
        tensor=unpack(tensor, support),
        axis=unpack(upper_half(principal.axis), support),
        magnitude=unpack(magnitude[None], support)[0],
        uniaxiality=unpack(principal_axes(tensor, sign).uniaxiality[None], support)[0],
        sign=sign,
        residuals=residuals,
        stopped="iterations",
        smoothness=0.0,
        edge_preserving=0.0,
    )
