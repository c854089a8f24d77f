"""Smooth nonlinear minimisation: L-BFGS on any array, and the residual curve that it leaves.

Inner products are summed in float64; arrays are float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.kernels.passes import add_scaled, inner
from pipeline.tomography.solvers import PLATEAU_WINDOW, finite, plateau

ARMIJO = 1e-4
"""Share of the predicted fall that a line search asks for (Nocedal and Wright's value)."""

Objective = Callable[[NDArray[np.float32]], tuple[float, NDArray[np.float32]]]

Preconditioner = Callable[
    [NDArray[np.float32], float | None],
    Callable[[NDArray[np.float32]], NDArray[np.float32]],
]
"""Makes an approximate inverse Hessian at a point, told how much of the last step was taken."""


@dataclass(frozen=True)
class Minimum:
    """End of a nonlinear minimisation.

    Attributes
    ----------
    x : array of the start's shape, float32.
    values : objective after each iteration.
    iterations : number of iterations done.
    stopped : `converged`, `settled`, `plateau`, `line search` or `iterations`.
    """

    x: NDArray[np.float32]
    values: list[float]
    iterations: int
    stopped: str


@dataclass
class ResidualCurve:
    """Progress callback of a nonlinear minimisation that reports residuals, not objectives.

    The objective leaves the relative residual of every evaluation in `latest`; what is there when
    an iteration ends is that of the accepted point.
    """

    progress: ProgressCallback
    latest: float = 0.0
    residuals: list[float] = field(default_factory=list)

    def __call__(self, state: Progress) -> None:
        """Note the residual of an iteration and pass it on."""
        self.residuals.append(self.latest)
        self.progress(replace(state, residual=self.latest))


def quasi_newton(
    objective: Objective,
    x0: NDArray[np.float32],
    *,
    iterations: int = 40,
    memory: int = 5,
    tolerance: float = 1e-3,
    settled: float = 0.0,
    first_step: float = 0.05,
    preconditioner: Preconditioner | None = None,
    stage: str = "quasi-Newton",
    progress: ProgressCallback = silent,
) -> Minimum:
    """Minimise a smooth function by L-BFGS with a backtracking line search.

    Parameters
    ----------
    objective : value and gradient at a point; called once or twice an iteration.
    x0 : start, any shape, float32.
    iterations : most iterations.
    memory : pairs of steps and gradient changes kept; each costs two arrays.
    tolerance : converged when the gradient norm has fallen to this fraction of the first one.
    settled : iterations end when `PLATEAU_WINDOW` of them lower the objective by less than this
        each, on average.
    first_step : length of the first trial step as a fraction of the norm of `x0`, without a
        preconditioner, which knows how far to go.
    preconditioner : approximate inverse Hessian that L-BFGS starts from at every point, in place
        of one number.
    stage, progress : where and under which name to report; the residual reported is the
        objective relative to the one at the start.

    Raises
    ------
    ConvergenceError
        If the objective is non-finite at the start or along a whole line search.

    Notes
    -----
    Nocedal, Math. Comput. 35, 773 (1980), doi 10.1090/S0025-5718-1980-0572855-7. A pair without
    positive curvature is left out, which keeps the direction a descent direction without Wolfe's
    second condition.
    """
    x = np.array(x0, dtype=np.float32)
    value, gradient = objective(x)
    start = finite(value, stage, 0)
    norm0 = np.sqrt(inner(gradient, gradient))
    pairs: deque[tuple[NDArray[np.float32], NDArray[np.float32], float]] = deque(maxlen=memory)
    values: list[float] = []
    stopped = "converged" if norm0 == 0.0 else "iterations"
    share: float | None = None
    while stopped == "iterations" and len(values) < iterations:
        inverse = None
        if preconditioner is not None:
            inverse = preconditioner(x, share)
        direction = _two_loop(gradient, pairs, inverse)
        del inverse
        slope = inner(gradient, direction)
        trial = 1.0
        if not pairs and preconditioner is None:
            length = np.sqrt(inner(x, x)) or 1.0
            trial = first_step * length / np.sqrt(inner(gradient, gradient))
        found = _backtrack(objective, x, value, direction, slope, trial)
        if found is None:
            if pairs:
                pairs.clear()
                continue
            stopped = "line search"
            break
        moved, value, fresh, share = found
        _remember(pairs, moved - x, fresh - gradient)
        x, gradient = moved, fresh
        values.append(value)
        progress(Progress(stage, len(values), iterations, value / start if start else 0.0))
        if np.sqrt(inner(gradient, gradient)) <= tolerance * norm0:
            stopped = "converged"
        elif _fall(values) < settled:
            stopped = "settled"
        elif plateau(values):
            stopped = "plateau"
    return Minimum(x, values, len(values), stopped)


def _fall(values: Sequence[float]) -> float:
    """Mean fall of an iteration over the last `PLATEAU_WINDOW`; infinite before."""
    if len(values) <= PLATEAU_WINDOW:
        return float("inf")
    return (values[-1 - PLATEAU_WINDOW] - values[-1]) / PLATEAU_WINDOW


def _two_loop(
    gradient: NDArray[np.float32],
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], float]],
    inverse: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Quasi-Newton direction `−H g` by the two-loop recursion, from `inverse` or one number."""
    direction = -gradient
    factors = []
    for step, change, curvature in reversed(pairs):
        factor = inner(step, direction) / curvature
        add_scaled(direction, -factor, change)
        factors.append(factor)
    if inverse is not None:
        direction = inverse(direction)
    elif pairs:
        _, change, curvature = pairs[-1]
        direction *= np.float32(curvature / inner(change, change))
    for (step, change, curvature), factor in zip(pairs, reversed(factors), strict=True):
        add_scaled(direction, factor - inner(change, direction) / curvature, step)
    return direction


def _remember(
    pairs: deque[tuple[NDArray[np.float32], NDArray[np.float32], float]],
    step: NDArray[np.float32],
    change: NDArray[np.float32],
) -> None:
    curvature = inner(step, change)
    if curvature > 1e-8 * np.sqrt(inner(step, step) * inner(change, change)):
        pairs.append((step, change, curvature))


def _backtrack(
    objective: Objective,
    x: NDArray[np.float32],
    value: float,
    direction: NDArray[np.float32],
    slope: float,
    step: float,
) -> tuple[NDArray[np.float32], float, NDArray[np.float32], float] | None:
    """First point along `direction` that lowers the objective enough, its value and gradient, and
    how far along it is; None if there is none."""
    if slope >= 0.0:
        return None
    trial = value
    for _ in range(12):
        moved = x + np.float32(step) * direction
        trial, gradient = objective(moved)
        if np.isfinite(trial) and trial <= value + ARMIJO * step * slope:
            return moved, trial, gradient, step
        # Minimum of the parabola through both values and the slope, kept within [0.1, 0.5].
        bend = trial - value - step * slope
        best = -0.5 * slope * step * step / bend if np.isfinite(bend) and bend > 0.0 else 0.0
        step = float(np.clip(best, 0.1 * step, 0.5 * step))
    if not np.isfinite(trial):
        raise ConvergenceError("line search: the objective is non-finite along the whole direction")
    return None
