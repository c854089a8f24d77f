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
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Field, GradientPrior, Mask, QuadraticPrior
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import (
    LeastSquares,
    PixelWeights,
    conjugate_gradient,
    data_term,
    settled_fall,
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


SEARCHED = 240
"""Projections on which strengths are compared, where there are many more: the best strength,
relative to what the data say of a voxel, hardly depends on their number."""

PriorOfStrength = Callable[[float, Mask, NDArray[np.float64]], QuadraticPrior]
"""Prior of a strength [data² / field²], on a support, with a metric of the components."""

StartOf = Callable[[NDArray[np.intp]], Field | None]
"""Field to start from when only these projections are fitted, None for zero."""

_Fit = Callable[[float, Field | None], tuple[float, Field]]


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
    start: StartOf | None = None,
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
    start : where the first fit of some projections, by their indices, starts from, (c, z, y, x)
        float32; it must not have seen others. Zero when absent.
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

    Strengths are compared on at most `SEARCHED` projections or so, every k-th of all. The best one
    is then used on all of them once, which is what noise and field are from.
    """
    if len(data) < 3:
        raise InputError(f"expected at least 3 projections to hold some out, found {len(data)}")
    trial = _Trial(projector, data, support, metric, pixel_weights, prior, iterations, seed, part)
    fitted, held = held_out_split(len(data))
    every = max(1, len(data) // SEARCHED)
    begin = None if start is None else start(fitted[::every])
    found = trial.search(fitted[::every], held[::every], begin, stage, progress)
    if every == 1:
        return found
    fit = trial.fit(fitted, held, found.noise)
    noise, field = fit(found.smoothness, found.field)
    progress(Progress(stage, len(found.tried) + 1, MOST_STEPS, noise))
    return HeldOut(found.smoothness, noise, field, found.tried)


def held_out_split(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the projections that are fitted, and of those that are held out."""
    held = np.arange(n) % HELD_OUT == min(HELD_OUT, n) // 2
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class _Trial:
    """What strengths are tried on; attributes as the parameters of `held_out_strength`."""

    projector: Projector
    data: NDArray[np.float32]
    support: Mask
    metric: NDArray[np.float64]
    pixel_weights: PixelWeights | None
    prior: PriorOfStrength
    iterations: int
    seed: int
    part: Callable[[NDArray[np.intp]], LeastSquares] | None

    def fit(self, fitted: NDArray[np.intp], held: NDArray[np.intp], noise: float = 0.0) -> _Fit:
        """Fit of some projections as a function of strength and start, as far as noise allows.

        It returns the rms by which those that were held out are missed, and the field.
        """
        weights = self.pixel_weights
        rest: LeastSquares
        if self.part is None:
            seen = None if weights is None else weights[fitted]
            rest = data_term(self.projector.subset(fitted), self.data[fitted], seen)
        else:
            rest = self.part(fitted)
        if rest.data_norm2 <= 0.0:
            raise InputError("the projections are all zero: there is nothing to reconstruct")
        checked = self.projector.subset(held)
        unseen = None if weights is None else weights[held]
        target = without_unmeasured(self.data[held], unseen)
        count = target.size if unseen is None else float(unseen.sum(dtype=np.float64))
        if not count:
            raise InputError("nothing was measured in the projections that are held out")
        diagonal = mean_diagonal(rest, self.support, self.metric, self.seed)
        unknowns = float(self.metric.sum()) * int(np.count_nonzero(self.support))

        def miss(strength: float, start: Field | None) -> tuple[float, Field]:
            found = conjugate_gradient(
                rest,
                support=self.support,
                priors=[self.prior(strength * diagonal, self.support, self.metric)],
                metric=self.metric,
                x0=start,
                iterations=self.iterations,
                tolerance=TOLERANCE,
                settled=settled_fall(noise, unknowns),
            )
            residual = checked.forward(found.field) - target
            weighted = residual if unseen is None else residual * unseen
            return float(np.sqrt(inner(residual, weighted) / count)), found.field

        return miss

    def search(
        self,
        fitted: NDArray[np.intp],
        held: NDArray[np.intp],
        start: Field | None,
        stage: str,
        progress: ProgressCallback,
    ) -> HeldOut:
        """Steps to either side of `FIRST` until the held-out projections are missed by more."""
        fit = self.fit(fitted, held)
        errors: dict[int, float] = {}
        fields: dict[int, Field] = {}

        def miss(exponent: int, near: Field | None) -> float:
            errors[exponent], field = fit(FIRST * FACTOR**exponent, near)
            if not fields or errors[exponent] < errors[next(iter(fields))]:
                fields.clear()
                fields[exponent] = field
            progress(Progress(stage, len(errors), MOST_STEPS, errors[exponent]))
            return errors[exponent]

        miss(0, start)
        for direction in (1, -1):
            for step in range(1, MOST_STEPS):
                before = errors[direction * (step - 1)]
                if miss(direction * step, next(iter(fields.values()))) >= before:
                    break
            if step > 1:
                break
        best = next(iter(fields))
        tried = [(FIRST * FACTOR**exponent, errors[exponent]) for exponent in sorted(errors)]
        smoothness = FIRST * FACTOR ** (best + _vertex(errors, best))
        return HeldOut(smoothness, errors[best], fields[best], tried)


def _vertex(errors: dict[int, float], best: int) -> float:
    """Offset of a parabola's minimum through the best strength and its two neighbours."""
    if best - 1 not in errors or best + 1 not in errors:
        return 0.0
    low, mid, high = errors[best - 1], errors[best], errors[best + 1]
    bend = low - 2.0 * mid + high
    return float(np.clip(0.5 * (low - high) / bend, -0.5, 0.5)) if bend > 0.0 else 0.0
