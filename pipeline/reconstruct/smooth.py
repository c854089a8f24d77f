"""The convex first stage that vector and orientation share: least squares, gradient prior, support.

It also measures what the second stages scale their priors by: the sensitivity of the data to one
voxel, and the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import InputError
from pipeline.progress import ProgressCallback, silent
from pipeline.stacks import Contrast, DifferencedStack
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    Field,
    GradientPrior,
    Mask,
    QuadraticPrior,
    component_metric,
)
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LeastSquares, Solution, conjugate_gradient
from pipeline.tomography.strength import held_out_strength, mean_diagonal
from pipeline.tomography.surface import CurvaturePrior, SurfacePrior

MakeTerm = Callable[[DifferencedStack], LeastSquares]
"""Makes the data term of a stack, in this process or on a cluster."""

EDGE_STRENGTH = 1.5
"""Default strength of the edge-preserving prior in units of the noise of one voxel's gradient,
`σ √diag(AᵀA)`: just above what noise can do by chance, as for soft thresholds in denoising."""

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

    start: Field | None = None
    noise = stack.noise
    if smoothness is None:
        chosen = held_out_strength(
            projector,
            stack.data,
            support=support,
            metric=metric,
            pixel_weights=stack.valid,
            prior=GradientPrior if order == 1 else CurvaturePrior,
            seed=seed,
            part=None if make is None else lambda chosen: make(stack.subset(chosen)),
            stage=f"{stage}: prior strength",
            progress=progress,
        )
        smoothness, start, noise = chosen.smoothness, chosen.field, chosen.noise
    solution = conjugate_gradient(
        problem,
        support=support,
        priors=prior(smoothness * diagonal),
        metric=metric,
        x0=start,
        iterations=iterations,
        stage=f"{stage}: conjugate gradients",
        progress=progress,
    )
    if noise <= 0.0:
        noise = float(np.sqrt(problem.residual_gradient(solution.field)[1] / problem.n_data))
    return Smooth(solution, smoothness, diagonal, noise, at_surface)
