"""The convex first stage that vector and orientation share: least squares, gradient prior, support.

It also measures what the second stages scale their priors by: the sensitivity of the data to one
voxel, and the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from pipeline.errors import InputError
from pipeline.progress import ProgressCallback, silent
from pipeline.stacks import Contrast, DifferencedStack
from pipeline.tomography.binning import binned_stack, binned_support, finer_field
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    Field,
    GradientPrior,
    Mask,
    QuadraticPrior,
    component_metric,
)
from pipeline.tomography.projector import Projector, fastest_scheme
from pipeline.tomography.solvers import (
    LeastSquares,
    LocalLeastSquares,
    Solution,
    conjugate_gradient,
    data_term,
    settled_fall,
)
from pipeline.tomography.strength import (
    FIRST,
    held_out_strength,
    mean_diagonal,
)
from pipeline.tomography.surface import CurvaturePrior, SurfacePrior

Shape3 = tuple[int, int, int]


class MakeTerm(Protocol):
    """Makes the data term of a stack, in this process or on a cluster."""

    def __call__(self, stack: DifferencedStack, shape: Shape3 | None = None) -> LeastSquares:
        """Data term for a volume (z, y, x), that of the reconstruction when absent."""
        ...


NARROWEST = 10
"""Voxels across the narrowest side of the support on a coarse level: fewer tell nothing of what is
inside."""

COARSE_ITERATIONS = 60
"""Most iterations on a coarse level, where they cost an eighth and less."""

EDGE_STRENGTH = 1.5
"""Default strength of the edge-preserving prior in units of the noise of one voxel's gradient,
`σ √diag(AᵀA)`: just above what noise can do by chance, as for soft thresholds in denoising."""

KNEE = 0.3
"""Gradient, relative to the rms field, beyond which the rank-one prior grows as a logarithm: axes
that differ by 12 degrees. A boundary then costs nearly the same whatever its misorientation, so
that no jump is made smaller by the prior, which a convex one does to every voxel beside it."""

KNEE_STRENGTH = 2.5
"""Default strength of that prior in units of the noise of one voxel's gradient: it no longer has
to be weak for the sake of the jumps. Three pillars of other grains, noise and angles, and one whose
axes turn steadily, all prefer 2 to 4 to the 1.5 of the convex one."""

CONVEX_PART = 0.2
"""Part of the rank-one steps that use the convex prior, at `EDGE_STRENGTH` where the other has
`KNEE_STRENGTH`: the other has many minima, and is to start near the best of them."""

EDGE_SCALE = 0.02
"""Gradient at which that prior turns from quadratic to linear, relative to the rms field: small
against a grain boundary, where the jump is of the order of the field itself."""


@dataclass(frozen=True)
class Smooth:
    """Outcome of `smooth_solution`.

    Attributes
    ----------
    solution : field, residuals and why it stopped.
    smoothness : relative strength of the gradient prior that was used.
    diagonal : mean diagonal of `A^T W A` [data² / field²].
    noise : rms per pixel [data]: by which held-out projections are missed, or in air, or of the
        residual, in this order of what is known.
    surface : boundary term, where it was asked for.
    """

    solution: Solution
    smoothness: float
    diagonal: float
    noise: float
    surface: SurfacePrior | None = None

    def without_field(self) -> Smooth:
        """The same but for the field's values: all components are a tenth of a run's memory."""
        empty = np.empty((len(self.solution.field), 0, 0, 0), np.float32)
        return replace(self, solution=replace(self.solution, field=empty))

    def edge_prior(
        self,
        strength: float,
        support: Mask,
        size: float,
        turn: float = EDGE_SCALE,
        knee: float = 0.0,
    ) -> EdgePreservingPrior:
        """Edge-preserving prior for a field of rms `size`.

        Parameters
        ----------
        strength : relative to the noise of one voxel's gradient.
        support : (z, y, x) bool.
        size : rms of the field [data per voxel].
        turn : gradient at which the prior turns linear, relative to `size`.
        knee : gradient from which on it grows as its logarithm only, relative to `size`; 0 for a
            prior that is convex.
        """
        return EdgePreservingPrior(
            strength * self.noise * float(np.sqrt(self.diagonal)),
            turn * size,
            support,
            component_metric(self.solution.field.shape[0]),
            knee * size,
        )


def check_inputs(stack: DifferencedStack, support: Mask, contrast: Contrast, wanted: str) -> None:
    """Refuse a stack of another contrast, an empty support, and data that are all zero."""
    if stack.contrast != contrast:
        raise InputError(f"{wanted} needs {contrast} contrast, found {stack.contrast}")
    if not support.any():
        raise InputError("the support is empty: expected at least one voxel of sample")
    if not np.any(stack.data, where=True if stack.valid is None else stack.valid):
        raise InputError("the projections are all zero: there is nothing to reconstruct")


def smooth_solution(
    projector: Projector,
    stack: DifferencedStack,
    problem: LeastSquares,
    support: Mask,
    *,
    smoothness: float | None,
    iterations: int,
    seed: int,
    stage: str,
    order: Literal[1, 2] = 1,
    surface: float = 0.0,
    levels: Sequence[int] = (1,),
    settle: bool = False,
    make: MakeTerm | None = None,
    progress: ProgressCallback = silent,
) -> Smooth:
    """Minimise `1/2 ‖A x − b‖² + λ/2 ‖∇x‖²` in the support, with `λ` from the data when not given.

    At `order` 2 the prior is on the curvature; `surface` adds RESIRE-V's boundary term.

    Parameters
    ----------
    projector, stack : forward model and data in this process, to hold projections out from.
    problem : the same data term, computed wherever it may be.
    support : (z, y, x) bool.
    smoothness : `λ` relative to the mean diagonal of `AᵀA`; None asks the data.
    iterations : most conjugate-gradient iterations.
    seed : of random probes.
    levels : binnings, coarse to fine, each of which starts from the one before.
    settle : end where an iteration changes less than the noise does (`solvers.SETTLED`), for a
        stage that another one starts from.
    make : makes the data term of held-in projections where it is computed elsewhere.
    stage, progress : where and under which name to report.
    """
    metric = component_metric(problem.field_shape[0])
    diagonal = mean_diagonal(problem, support, metric, seed)
    at_surface = SurfacePrior(surface * diagonal, support, metric) if surface else None

    def prior(strength: float) -> list[QuadraticPrior]:
        kind = GradientPrior if order == 1 else CurvaturePrior
        made: list[QuadraticPrior] = [kind(strength, support, metric)]
        return made if at_surface is None else [*made, at_surface]

    noise = stack.noise

    def begin(part: DifferencedStack) -> Field | None:
        return coarse_start(
            part, support, smoothness, levels, order, make=make, stage=stage, progress=progress
        )

    start = None if smoothness is None else begin(stack)
    if smoothness is None:
        chosen = held_out_strength(
            projector,
            stack.data,
            support=support,
            metric=metric,
            pixel_weights=stack.valid,
            prior=GradientPrior if order == 1 else CurvaturePrior,
            start=lambda chosen: begin(stack.subset(chosen)),
            seed=seed,
            part=None if make is None else lambda chosen: make(stack.subset(chosen)),
            stage=f"{stage}: prior strength",
            progress=progress,
        )
        smoothness, start, noise = chosen.smoothness, chosen.field, chosen.noise
    unknowns = float(metric.sum()) * int(np.count_nonzero(support))
    solution = conjugate_gradient(
        problem,
        support=support,
        priors=prior(smoothness * diagonal),
        metric=metric,
        x0=start,
        iterations=iterations,
        settled=settled_fall(noise, unknowns) if settle else 0.0,
        stage=f"{stage}: conjugate gradients",
        progress=progress,
    )
    if noise <= 0.0:
        noise = float(np.sqrt(problem.residual_gradient(solution.field)[1] / problem.n_data))
    return Smooth(solution, smoothness, diagonal, noise, at_surface)


def coarse_start(
    stack: DifferencedStack,
    support: Mask,
    smoothness: float | None,
    levels: Sequence[int],
    order: Literal[1, 2] = 1,
    *,
    make: MakeTerm | None = None,
    stage: str = "coarse",
    progress: ProgressCallback = silent,
) -> Field | None:
    """Field to start from: solved on wider voxels, level after level.

    Parameters
    ----------
    stack, support : as they are at full resolution.
    smoothness : relative strength of the prior there; that of a search's start when absent.
    levels : binnings, coarse to fine; those in which too little of the sample is left are skipped.
    order : of the prior.
    make, stage, progress : as in `smooth_solution`.

    Returns
    -------
    (c, z, y, x) float32 at full resolution, None without a coarse level.

    Notes
    -----
    A prior that asks for the same field on voxels `b` times as wide is weaker by `b³`, on the
    curvature by `b⁵`: a voxel's value is `b` times as large, its derivatives by `b` more for each
    order, there are `b³` times fewer voxels, and pixels fewer by `b²`.
    """
    narrowest = min(
        int(np.ptp(np.flatnonzero(support.any(axis=other)))) + 1
        for other in ((1, 2), (0, 2), (0, 1))
    )
    found: Field | None = None
    inside, width = support, 1
    for binning in levels:
        if binning == 1 or narrowest < NARROWEST * binning:
            continue
        fewer, smaller = binned_stack(stack, binning), binned_support(support, binning)
        if found is not None:
            found = finer_field(found, inside, smaller, width / binning)
        inside, width = smaller, binning
        problem = local_term(fewer, inside) if make is None else make(fewer, _shape(inside))
        metric = component_metric(problem.field_shape[0])
        diagonal = mean_diagonal(problem, inside, metric)
        strength = (FIRST if smoothness is None else smoothness) / binning ** (1 + 2 * order)
        kind = GradientPrior if order == 1 else CurvaturePrior
        found = conjugate_gradient(
            problem,
            support=inside,
            priors=[kind(strength * diagonal, inside, metric)],
            metric=metric,
            x0=found,
            iterations=COARSE_ITERATIONS,
            stage=f"{stage}: voxels of {binning}",
            progress=progress,
        ).field
    return None if found is None else finer_field(found, inside, support, width)


def _shape(support: Mask) -> Shape3:
    z, y, x = support.shape
    return z, y, x


def local_term(stack: DifferencedStack, support: Mask) -> LocalLeastSquares:
    """Data term of a stack in this process."""
    projector = Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        fastest_scheme(stack.rotations),
        support=support,
        point_spread_px=stack.point_spread_px,
    )
    return data_term(projector, stack.data, stack.valid)
