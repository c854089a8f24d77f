"""How strong a gradient prior should be, asked of the data themselves.

Some projections are held out; the best strength is the one whose reconstruction from the others
predicts them best. That needs neither truth nor a noise model, so that noise which varies with
the thickness of the sample, and errors of the model, are weighed as they are. The error of the
prediction, beside that, is the level of noise that a finer prior should reckon with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.priors import Field, GradientPrior, Mask, QuadraticPrior, inner
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import (
    LeastSquares,
    LocalLeastSquares,
    PixelWeights,
    conjugate_gradient,
    without_unmeasured,
)

HELD_OUT = 6
"""One projection in this many is held out: enough to rank strengths, few enough to miss."""

FIRST = 1.0
"""Where the search starts: the prior as stiff as the data at the scale of one voxel."""

FACTOR = 3.0
"""Step of the search; the minimum is flat, and a parabola is laid through the last three."""

TOLERANCE = 3e-3
"""Gradient at which a strength is judged: an unconverged field would be judged smoother."""

MOST_STEPS = 9
"""Steps to either side before the search gives up on a minimum inside its range."""


PriorOfStrength = Callable[[float, Mask, NDArray[np.float64]], QuadraticPrior]
"""Prior of a strength [data² / field²], on a support, with a metric of the components."""


@dataclass(frozen=True)
class HeldOut:
    """Outcome of the search.

    Attributes
    ----------
    smoothness : strength relative to the mean diagonal of `A^T W A`, dimensionless: independent
        of the units of the data and of the number of projections.
    noise : rms per pixel by which held-out projections are missed [data]: noise, errors of the
        model and what the noise of the others does to the prediction.
    field : (c, z, y, x) float32, reconstruction at the best strength that was tried.
    tried : (smoothness, noise) of every strength that was tried.
    """

    smoothness: float
    noise: float
    field: Field
    tried: list[tuple[float, float]]


def mean_diagonal(
    problem: LeastSquares, support: Mask, metric: NDArray[np.float64], seed: int = 0
) -> float:
    """Mean diagonal of `A^T W A` over the unknowns of the support [data² / field²].

    Estimated with one vector of random signs (Hutchinson, doi 10.1080/03610918908812806), which
    costs one projection forth and back.

    Raises
    ------
    InputError
        If no projection sees the support.
    """
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, problem.field_shape, dtype=np.int8) * 2 - 1
    probe = (signs * support).astype(np.float32)
    unknowns = float(metric.sum()) * int(np.count_nonzero(support))
    diagonal = inner(probe, problem.normal(probe)) / unknowns
    if not diagonal > 0.0:
        raise InputError("no projection sees the support: the data do not depend on the field")
    return diagonal


def held_out_strength(
    projector: Projector,
    data: NDArray[np.float32],
    *,
    support: Mask,
    metric: NDArray[np.float64],
    pixel_weights: PixelWeights | None = None,
    prior: PriorOfStrength = GradientPrior,
    iterations: int = 25,
    seed: int = 0,
    part: Callable[[NDArray[np.intp]], LeastSquares] | None = None,
    stage: str = "prior strength",
    progress: ProgressCallback = silent,
) -> HeldOut:
    """Find the strength of a gradient prior that predicts held-out projections best.

    Parameters
    ----------
    projector, data : forward model and stack (n_proj, ny, nx) float32.
    support : (z, y, x) bool.
    metric : (c,) float64, see `component_metric`.
    pixel_weights : (n_proj, ny, nx), as in `LocalLeastSquares`: pixels without weight are neither
        fitted nor predicted.
    prior : makes the prior of a strength.
    iterations : most conjugate-gradient iterations per strength, each from the best field so far.
    seed : of the probe of the diagonal.
    part : data term of the projections that are not held out, by their indices, where it is
        computed elsewhere (a cluster).
    stage, progress : where and under which name to report.

    Returns
    -------
    HeldOut

    Raises
    ------
    InputError
        If there are fewer than three projections, they are all zero, none sees the support, or
        nothing was measured in those that are held out.

    Notes
    -----
    Cross-validation over whole projections, not pixels: noise is often correlated between the
    pixels of a projection, and a model that has learnt it would not be found out.
    """
    if len(data) < 3:
        raise InputError(f"expected at least 3 projections to hold some out, found {len(data)}")
    held = np.arange(len(data)) % HELD_OUT == min(HELD_OUT, len(data)) // 2
    weights = None if pixel_weights is None else pixel_weights[~held]
    fitted = np.flatnonzero(~held)
    rest: LeastSquares
    if part is None:
        rest = LocalLeastSquares(projector.subset(fitted), data[~held], weights)
    else:
        rest = part(fitted)
    if rest.data_norm2 <= 0.0:
        raise InputError("the projections are all zero: there is nothing to reconstruct")
    checked = projector.subset(np.flatnonzero(held))
    unseen = None if pixel_weights is None else pixel_weights[held]
    target = without_unmeasured(data[held], unseen)
    count = target.size if unseen is None else float(unseen.sum(dtype=np.float64))
    if not count:
        raise InputError("nothing was measured in the projections that are held out")
    diagonal = mean_diagonal(rest, support, metric, seed)
    errors: dict[int, float] = {}
    fields: dict[int, Field] = {}

    def miss(exponent: int, start: Field | None) -> float:
        strength = FIRST * FACTOR**exponent
        found = conjugate_gradient(
            rest,
            support=support,
            priors=[prior(strength * diagonal, support, metric)],
            metric=metric,
            x0=start,
            iterations=iterations,
            tolerance=TOLERANCE,
        )
        residual = checked.forward(found.field) - target
        weighted = residual if unseen is None else residual * unseen
        errors[exponent] = float(np.sqrt(inner(residual, weighted) / count))
        if not fields or errors[exponent] < errors[next(iter(fields))]:
            fields.clear()
            fields[exponent] = found.field
        progress(Progress(stage, len(errors), MOST_STEPS, errors[exponent]))
        return errors[exponent]

    miss(0, None)
    for direction in (1, -1):
        for step in range(1, MOST_STEPS):
            before = errors[direction * (step - 1)]
            if miss(direction * step, next(iter(fields.values()))) >= before:
                break
        if step > 1:
            break
    best = next(iter(fields))
    tried = [(FIRST * FACTOR**exponent, errors[exponent]) for exponent in sorted(errors)]
    return HeldOut(
        FIRST * FACTOR ** (best + _vertex(errors, best)), errors[best], fields[best], tried
    )


def _vertex(errors: dict[int, float], best: int) -> float:
    """Offset of a parabola's minimum through the best strength and its two neighbours."""
    if best - 1 not in errors or best + 1 not in errors:
        return 0.0
    low, mid, high = errors[best - 1], errors[best], errors[best + 1]
    bend = low - 2.0 * mid + high
    return float(np.clip(0.5 * (low - high) / bend, -0.5, 0.5)) if bend > 0.0 else 0.0
