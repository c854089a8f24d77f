"""Crystal axes from frames of any linear polarisations, the isotropic part beside the tensor.

The unknown field has seven components: the traceless tensor and the isotropic part, which a
difference of partners never sees. It is found as in `orientation.py`, by one convex solve and a
rank-one refinement, but for three things. The isotropic part is ten times as strong as the
dichroism and has sharp edges, so it bears next to no prior: smoothed, it would leave its edges to
the tensor. The rows of the data, differences and means of views (`pipeline/align/views.py`), are
weighed by what they are missed by, each kind for itself: what is wrong with the isotropic part
spoils the means only. And the strength of the tensor's prior is asked of rows from which the
isotropic part has been taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.axes import (
    Packed,
    dichroism_sign,
    outer_gradient,
    outer_tensor,
    principal_axes,
)
from pipeline.reconstruct.smooth import (
    CONVEX_PART,
    EDGE_SCALE,
    EDGE_STRENGTH,
    KNEE,
    KNEE_STRENGTH,
    MakeTerm,
)
from pipeline.stacks import DifferencedStack
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.minimise import Objective, ResidualCurve, quasi_newton
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    Field,
    GradientPrior,
    Mask,
    component_metric,
)
from pipeline.tomography.projector import Projector, fastest_scheme
from pipeline.tomography.solvers import (
    LeastSquares,
    conjugate_gradient,
    data_term,
    without_unmeasured,
)
from pipeline.tomography.stiff import FIRST_CURVATURE, StiffRankOne
from pipeline.tomography.strength import HELD_OUT, held_out_strength
from schemas.recipe import OrientationSettings

COMPONENTS = 7
"""Traceless tensor, then the isotropic part."""

ISOTROPIC = 6
"""Index of the isotropic component."""

ISOTROPIC_SHARE = 1e-3
"""Strength of the isotropic part's prior relative to the tensor's: only what no projection sees is
left to it."""

TOLERANCE = 1e-4
"""Gradient at which a solve has converged, relative to the first one: that is ten times as large as
the tensor's, for the isotropic part's sake."""

FIRST_SMOOTHNESS, FIRST_ITERATIONS = 1.0, 60
"""Prior and most iterations of the solve that rows are weighed by: as stiff as the data at the
scale of one voxel, where the search for the best strength starts as well."""


DISTRUSTED = 10.0
"""Factor by which the noise of means is raised where they do harm: they then say next to nothing
that differences do not."""

HARM = 0.02
"""Means do harm if held-out differences are predicted better by this fraction without them. Errors
of the isotropic part have a shape, as an edge or a shift has, and do more harm than noise of their
size; below this fraction it is noise by which held-out rows differ."""


def is_joint(stack: DifferencedStack) -> bool:
    """Whether a linear stack has the isotropic part as a seventh component."""
    return stack.contrast == "linear" and stack.weights.shape[1] == COMPONENTS


def row_kinds(stack: DifferencedStack) -> NDArray[np.int64]:
    """Number of frames whose mean a row is; 0 for a difference. Of rows not weighed yet: (n,)."""
    return np.rint(stack.weights[:, ISOTROPIC] ** 2).astype(np.int64)


def weigh_rows(stack: DifferencedStack, noise: Mapping[int, float]) -> DifferencedStack:
    """Rows in units of what their kind is missed by.

    Parameters
    ----------
    stack : from `pipeline.align.views.joint_rows`.
    noise : rms [data] by kind of row.

    Returns
    -------
    Stack of noise one, so that each row counts by what it can tell.
    """
    factor = 1.0 / np.array([noise[int(kind)] for kind in row_kinds(stack)])
    return replace(
        stack,
        data=stack.data * factor[:, None, None].astype(np.float32),
        weights=stack.weights * factor[:, None],
        noise=1.0,
    )


def measure_rows(
    stack: DifferencedStack,
    support: Mask,
    problem: LeastSquares | None = None,
    *,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> dict[int, float]:
    """By how much each kind of row is missed by one field that fits all of them alike.

    Parameters
    ----------
    stack : from `pipeline.align.views.joint_rows`.
    support : (z, y, x) bool.
    problem : the data term of `stack` where it is computed elsewhere.
    seed : of random probes.
    progress : reports every iteration.

    Returns
    -------
    rms [data] by kind of row: noise, and what the model leaves.
    """
    _check(stack, support)
    projector = _projector(stack, support)
    if problem is None:
        problem = data_term(projector, stack.data, stack.valid)
    diagonals = _diagonals(problem, support, seed)
    found = _smooth(
        problem, support, FIRST_SMOOTHNESS, diagonals, None, FIRST_ITERATIONS, progress, "rows"
    )
    rest = without_unmeasured(stack.data, stack.valid) - projector.forward(found)
    kinds = row_kinds(stack)
    noise = {}
    for kind in np.unique(kinds):
        chosen = kinds == kind
        seen = rest[chosen].size
        left = rest[chosen]
        if stack.valid is not None:
            left = left * stack.valid[chosen]
            seen = max(1, int(np.count_nonzero(stack.valid[chosen])))
        noise[int(kind)] = float(np.sqrt(np.sum(left**2, dtype=np.float64) / seen))
    largest = max(noise.values())
    # Noise-free data leave nothing to weigh by.
    return {kind: max(value, 1e-6 * largest, 1e-30) for kind, value in noise.items()}


def trust_means(
    stack: DifferencedStack,
    support: Mask,
    noise: Mapping[int, float],
    *,
    make: MakeTerm | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> dict[int, float]:
    """Trust the means of views as far as they help to predict differences that are held out.

    Differences are free of whatever is wrong with the isotropic part. Where there are none, means
    are all there is.

    Parameters
    ----------
    stack, support : as in `measure_rows`.
    noise : from `measure_rows`.
    make : makes the data term of the other rows where it is computed elsewhere.
    seed, progress : as in `measure_rows`.

    Returns
    -------
    Noise by kind of row, that of means larger where they do harm.
    """
    kinds = row_kinds(stack)
    differences = np.flatnonzero(kinds == 0)
    held = differences[HELD_OUT // 2 :: HELD_OUT]
    if not held.size or len(differences) == len(kinds):
        return dict(noise)
    rest = np.setdiff1d(np.arange(len(kinds)), held)
    missed = []
    for factor in (1.0, DISTRUSTED):
        scaled = {kind: value * (factor if kind else 1.0) for kind, value in noise.items()}
        rows = weigh_rows(stack, scaled)
        fitted, checked = rows.subset(rest), rows.subset(held)
        problem = (
            data_term(_projector(fitted, support), fitted.data, fitted.valid)
            if make is None
            else make(fitted)
        )
        diagonals = _diagonals(problem, support, seed)
        field = _smooth(
            problem,
            support,
            FIRST_SMOOTHNESS,
            diagonals,
            None,
            FIRST_ITERATIONS,
            progress,
            f"means at {factor:g} times their noise",
        )
        left = without_unmeasured(checked.data, checked.valid)
        left = left - _projector(checked, support).forward(field)
        if checked.valid is not None:
            left = left * checked.valid
        missed.append(float(np.sqrt(inner(left, left))))
    return scaled if missed[1] < (1.0 - HARM) * missed[0] else dict(noise)


@dataclass(frozen=True)
class JointFields:
    """Outcome of `solve_jointly`, packed in the voxels of the support.

    Attributes
    ----------
    tensor : (6, n) float32, traceless, of the convex stage.
    isotropic : (n,) float32, mean over all directions [data per voxel].
    vectors : (3, n) float32, `√|f| a`.
    sign : of the dichroism.
    residuals : relative residual after each iteration.
    stopped : why the last stage ended.
    smoothness, edge_preserving : strengths of the priors.
    """

    tensor: Packed
    isotropic: NDArray[np.float32]
    vectors: Packed
    sign: int
    residuals: list[float]
    stopped: str
    smoothness: float
    edge_preserving: float


def solve_jointly(
    stack: DifferencedStack,
    support: Mask,
    settings: OrientationSettings,
    problem: LeastSquares | None = None,
    *,
    seed: int = 0,
    make: MakeTerm | None = None,
    progress: ProgressCallback = silent,
) -> JointFields:
    """Tensor, isotropic part and axis from weighed rows.

    Parameters
    ----------
    stack : from `weigh_rows`.
    support : (z, y, x) bool.
    settings : iterations and strengths.
    problem : the data term of `stack` where it is computed elsewhere.
    seed, make, progress : as in `reconstruct_orientation`.

    Raises
    ------
    InputError
        If the stack has no isotropic component, or the support is empty or unseen.
    ConvergenceError
        If a value becomes non-finite.

    Notes
    -----
    The trace of `f a aᵀ` is `f`, and part of the isotropic component: `f0` is that component less
    `f / 3`.
    """
    _check(stack, support)
    if settings.method != "tensor":
        raise InputError(
            f"orientation.method '{settings.method}' fits differences of partners only; "
            "expected 'tensor' for polarisations that are fitted jointly"
        )
    projector = _projector(stack, support)
    if problem is None:
        problem = data_term(projector, stack.data, stack.valid)
    diagonals = _diagonals(problem, support, seed)
    smoothness, noise = settings.smoothness, stack.noise
    start: Field | None = None
    if smoothness is None:
        first = _smooth(
            problem,
            support,
            FIRST_SMOOTHNESS,
            diagonals,
            None,
            FIRST_ITERATIONS,
            progress,
            "isotropic part",
        )
        smoothness, noise, start = _strength(projector, stack, support, first, seed, make, progress)
    curve: list[float] = []
    field = _smooth(
        problem,
        support,
        smoothness,
        diagonals,
        start,
        settings.iterations,
        progress,
        "conjugate gradients",
        curve,
    )
    tensor, isotropic = field[:ISOTROPIC][:, support], field[ISOTROPIC][support]
    sign = dichroism_sign(tensor)
    principal = principal_axes(tensor, sign)
    vectors = principal.axis * np.sqrt(np.maximum(principal.contrast, 0.0))
    strength, stopped = 0.0, "iterations"
    if settings.refine_iterations > 0:
        strength = KNEE_STRENGTH if settings.edge_preserving is None else settings.edge_preserving
        size = float(np.sqrt(np.mean(np.square(principal.contrast, dtype=np.float64)))) or 1.0
        convex = round(CONVEX_PART * settings.refine_iterations)
        for steps, part, knee in (
            (convex, EDGE_STRENGTH / KNEE_STRENGTH, 0.0),
            (settings.refine_iterations - convex, 1.0, KNEE),
        ):
            prior = EdgePreservingPrior(
                part * strength * noise * float(np.sqrt(diagonals[0])),
                EDGE_SCALE * size,
                support,
                component_metric(ISOTROPIC),
                knee * size,
            )
            vectors, isotropic, more, stopped = refine_jointly(
                problem,
                vectors,
                isotropic,
                prior,
                sign=sign,
                diagonals=diagonals,
                iterations=steps,
                progress=progress,
            )
            curve += more
    return JointFields(tensor, isotropic, vectors, sign, curve, stopped, smoothness, strength)


def _strength(
    projector: Projector,
    stack: DifferencedStack,
    support: Mask,
    first: Field,
    seed: int,
    make: MakeTerm | None,
    progress: ProgressCallback,
) -> tuple[float, float, Field]:
    """Strength of the tensor's prior, noise, and where to start, from rows without the rest."""
    alone = np.zeros_like(first)
    alone[ISOTROPIC] = first[ISOTROPIC]
    data = without_unmeasured(stack.data, stack.valid) - projector.forward(alone)
    tensor_rows = replace(stack, data=data, weights=stack.weights[:, :ISOTROPIC])
    tensor_only = Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        tensor_rows.weights,
        projector.scheme,
        support=support,
        point_spread_px=stack.point_spread_px,
    )
    found = held_out_strength(
        tensor_only,
        data,
        support=support,
        metric=component_metric(ISOTROPIC),
        pixel_weights=stack.valid,
        seed=seed,
        part=None if make is None else lambda chosen: make(tensor_rows.subset(chosen)),
        stage="orientation: prior strength",
        progress=progress,
    )
    return found.smoothness, found.noise, np.concatenate([found.field, first[ISOTROPIC:]])


def _smooth(
    problem: LeastSquares,
    support: Mask,
    smoothness: float,
    diagonals: tuple[float, float],
    start: Field | None,
    iterations: int,
    progress: ProgressCallback,
    stage: str,
    curve: list[float] | None = None,
) -> Field:
    """Convex solve; the metric makes both parts of the field converge alike."""
    metric = np.append(component_metric(ISOTROPIC), diagonals[1] / diagonals[0])
    weights = np.append(component_metric(ISOTROPIC), ISOTROPIC_SHARE * diagonals[1] / diagonals[0])
    solution = conjugate_gradient(
        problem,
        support=support,
        priors=[GradientPrior(smoothness * diagonals[0], support, weights)],
        metric=metric,
        x0=start,
        tolerance=TOLERANCE,
        iterations=iterations,
        stage=f"orientation: {stage}",
        progress=progress,
    )
    if curve is not None:
        curve += solution.residuals
    return solution.field


def _diagonals(problem: LeastSquares, support: Mask, seed: int) -> tuple[float, float]:
    """Mean diagonal of `AᵀA` over the unknowns of the tensor, and over the isotropic ones."""
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, problem.field_shape, dtype=np.int8) * 2 - 1
    count = int(np.count_nonzero(support))
    found = []
    for part, unknowns in (
        (slice(0, ISOTROPIC), float(component_metric(ISOTROPIC).sum())),
        (slice(ISOTROPIC, None), 1.0),
    ):
        probe = np.zeros(problem.field_shape, np.float32)
        probe[part] = signs[part] * support
        found.append(inner(probe, problem.normal(probe)) / (unknowns * count))
    if not min(found) > 0.0:
        raise InputError("no projection sees the support: the data do not depend on the field")
    return found[0], found[1]


def refine_jointly(
    problem: LeastSquares,
    vectors: Packed,
    isotropic: NDArray[np.float32],
    prior: EdgePreservingPrior,
    *,
    sign: int,
    diagonals: tuple[float, float],
    iterations: int,
    progress: ProgressCallback = silent,
) -> tuple[Packed, NDArray[np.float32], list[float], str]:
    """Minimise `1/2 ‖A(s v vᵀ, g) − b‖²` and an edge-preserving prior on `v vᵀ` over `v` and `g`.

    Parameters
    ----------
    problem : the data term, seven components.
    vectors : (3, n) float32 start in the voxels of the prior's support.
    isotropic : (n,) float32 start of `g`.
    prior : penalty on the tensor.
    sign : `s`, +1 or −1.
    diagonals : mean diagonal of `AᵀA` of the tensor, and of the isotropic part.
    iterations : quasi-Newton steps.
    progress : reports every step.

    Returns
    -------
    vectors, isotropic, relative residual after each step, why the steps ended.

    Raises
    ------
    ConvergenceError
        If the objective becomes non-finite.
    """
    curve = ResidualCurve(progress)
    # Every unknown is of order one and as stiff as the others, whatever the units of the data; the
    # isotropic part is known well already and counted from there.
    unit = np.float32(np.sqrt(np.mean(np.square(vectors, dtype=np.float64)) * 3.0) or 1.0)
    step = np.float32(2.0 * float(unit) ** 2 / np.sqrt(diagonals[1] / diagonals[0]))
    objective = joint_objective(problem, isotropic, prior, sign, unit, step, curve)
    found = quasi_newton(
        objective,
        np.concatenate([vectors / unit, np.zeros_like(isotropic)[None]]),
        iterations=iterations,
        preconditioner=StiffRankOne(
            prior, float(unit), 1.0 / problem.data_norm2, FIRST_CURVATURE * diagonals[0]
        ),
        stage="orientation: rank one",
        progress=curve,
    )
    return unit * found.x[:3], isotropic + step * found.x[3], curve.residuals, found.stopped


def joint_objective(
    problem: LeastSquares,
    isotropic: NDArray[np.float32],
    prior: EdgePreservingPrior,
    sign: int,
    unit: np.float32,
    step: np.float32,
    curve: ResidualCurve,
) -> Objective:
    """Data term and prior over `(v / unit, (g - isotropic) / step)`, packed (4, n), and gradient.

    Parameters
    ----------
    problem, isotropic, prior, sign : as in `refine_jointly`.
    unit, step : scales of the unknowns.
    curve : takes the relative residual of every evaluation.
    """
    support = prior.support

    def objective(scaled: Packed) -> tuple[float, Packed]:
        tensor = np.float32(sign) * unit**2 * outer_tensor(scaled[:3])
        field = unpack(np.concatenate([tensor, (isotropic + step * scaled[3])[None]]), support)
        gradient, residual2 = problem.residual_gradient(field)
        penalty, bend = prior.value_gradient(field[:ISOTROPIC])
        curve.latest = float(np.sqrt(residual2 / problem.data_norm2))
        gradient[:ISOTROPIC] += bend
        packed = gradient[:, support]
        chained = np.empty_like(scaled)
        chained[:3] = np.float32(sign * float(unit) ** 2) * outer_gradient(
            packed[:ISOTROPIC], scaled[:3]
        )
        chained[3] = step * packed[ISOTROPIC]
        value = (0.5 * residual2 + penalty) / problem.data_norm2
        return value, chained / np.float32(problem.data_norm2)

    return objective


def _projector(stack: DifferencedStack, support: Mask) -> Projector:
    return Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        fastest_scheme(stack.rotations),
        support=support,
        point_spread_px=stack.point_spread_px,
    )


def _check(stack: DifferencedStack, support: Mask) -> None:
    if not is_joint(stack):
        raise InputError(
            f"a joint orientation needs linear contrast with {COMPONENTS} components, found "
            f"{stack.contrast} with {stack.weights.shape[1]}"
        )
    if not support.any():
        raise InputError("the support is empty: expected at least one voxel of sample")
