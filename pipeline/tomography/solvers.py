"""Least squares `1/2 ‖A x − b‖²_W` for any contrast, and the iterations that solve it.

The forward model is linear in the field, so every solver needs only two products, `A^T W A x` and
`A^T W (A x − b)`; who computes them, one process or a cluster, is hidden behind `LeastSquares`.
Inner products are summed in float64; fields are float32.

Every iteration stops by rules that need no truth: the discrepancy principle where the noise is
known, a gradient that has become small, or a residual that no longer falls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import NO_GPU, compute_module, to_host
from pipeline.errors import ConvergenceError, InputError, ResourceError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.kernels.passes import add_scaled, inner, keep_inside, subtract
from pipeline.tomography.priors import Field, Mask, QuadraticPrior
from pipeline.tomography.projector import Projector

PixelWeights = NDArray[np.float32] | NDArray[np.bool_]
"""Weights of single pixels; bool where a pixel was measured or was not, a quarter of the memory."""

PLATEAU_WINDOW = 3
"""Iterations over which the residual must have stood still."""

PLATEAU_CHANGE = 1e-5
"""Relative fall of the residual over the window that counts as standing still."""


SETTLED = 0.02
"""Iterations end when one moves the unknowns by less than this in units of their statistical error,
rms: what it lowers the objective by is half the square of that, for every unknown, in units of the
noise. What remains is several such steps, small against the noise."""


class LeastSquares(Protocol):
    """The data term `1/2 ‖A x − b‖²_W` of a reconstruction.

    Attributes
    ----------
    field_shape : (c, z, y, x) of the unknown field.
    data_norm2 : `Σ w b²`, float.
    n_data : number of pixels with positive weight.
    """

    @property
    def field_shape(self) -> tuple[int, int, int, int]:
        """Shape of the unknown field."""
        ...

    @property
    def data_norm2(self) -> float:
        """Weighted sum of squares of the data."""
        ...

    @property
    def n_data(self) -> int:
        """Number of pixels that count."""
        ...

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """`A^T W (A x − b)`, (c, z, y, x) float32, and `Σ w (A x − b)²`."""
        ...

    def normal(self, field: Field) -> Field:
        """`A^T W A x`, (c, z, y, x) float32."""
        ...


def settled_fall(noise: float, unknowns: float) -> float:
    """Fall of an objective [data²] by which an iteration changes nothing that matters."""
    return 0.5 * SETTLED**2 * noise**2 * unknowns


def without_unmeasured(
    data: NDArray[np.float32], pixel_weights: PixelWeights | None
) -> NDArray[np.float32]:
    """Data with zero where a pixel has no weight, so that nothing it holds, NaN say, gets through.

    Parameters
    ----------
    data : (n_proj, ny, nx) float32.
    pixel_weights : as in `LocalLeastSquares`; without them the data themselves are returned.
    """
    if pixel_weights is None:
        return data
    return np.where(pixel_weights, data, np.float32(0.0))


class LocalLeastSquares:
    """`LeastSquares` computed in this process, on its processor or on its GPU.

    Parameters
    ----------
    projector : the forward model `A`.
    data : (n_proj, ny, nx) float32, `b`.
    pixel_weights : (n_proj, ny, nx) or broadcastable, bool or float, `W` >= 0: 0 (False) leaves a
        pixel out, whatever it holds, an inverse variance weighs it; every pixel alike when absent.
    xp : array module of the device that holds data and weights, and computes: numpy, or cupy for
        the GPU. Fields come and go as arrays of numpy.

    Raises
    ------
    InputError
        If the shapes differ, data that count are not finite, or no pixel has weight.
    """

    def __init__(
        self,
        projector: Projector,
        data: NDArray[np.float32],
        pixel_weights: PixelWeights | None = None,
        xp: Any = np,
    ):
        if data.shape != projector.stack_shape:
            raise InputError(f"expected a stack of shape {projector.stack_shape}, got {data.shape}")
        self._xp = xp
        self._weights: Any = None
        self.n_data = int(data.size)
        if pixel_weights is not None:
            weights: NDArray[Any] = np.ascontiguousarray(np.broadcast_to(pixel_weights, data.shape))
            self.n_data = int(np.count_nonzero(weights))
            if self.n_data == 0 or not np.all(weights >= 0.0):
                raise InputError("pixel weights must be >= 0 and not all zero")
            data = without_unmeasured(data, pixel_weights)
            self._weights = xp.asarray(weights)
        bad = ~np.isfinite(data).all(axis=(1, 2))
        if bad.any():
            raise InputError(f"projection {int(np.argmax(bad))} holds non-finite values")
        self._projector = projector
        data = np.ascontiguousarray(data, dtype=np.float32)
        weighted = data if pixel_weights is None else data * weights
        self.data_norm2 = inner(data, weighted)
        self._data = xp.asarray(data)

    @property
    def field_shape(self) -> tuple[int, int, int, int]:
        """Shape of the unknown field (c, z, y, x)."""
        return self._projector.field_shape

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """`A^T W (A x − b)` and `Σ w (A x − b)²`."""
        xp = self._xp
        with self._named_device():
            residual = self._projector.forward(xp.asarray(field))
            if xp is np and self._weights is None:
                square = float(np.sum(subtract(residual, self._data)))
                return self._projector.adjoint(residual, overwrite=True), square
            residual -= self._data
            weighted = residual if self._weights is None else residual * self._weights
            if xp is np:
                square = inner(residual, weighted)
            else:
                square = float(xp.sum(residual * weighted, dtype=np.float64))
            return to_host(self._projector.adjoint(weighted, overwrite=True)), square

    def normal(self, field: Field) -> Field:
        """`A^T W A x`."""
        with self._named_device():
            stack = self._projector.forward(self._xp.asarray(field))
            if self._weights is not None:
                stack *= self._weights
            return to_host(self._projector.adjoint(stack, overwrite=True))

    @contextmanager
    def _named_device(self) -> Iterator[None]:
        """Say which memory is too small."""
        try:
            yield
        except MemoryError as error:
            if self._xp is np:
                raise
            n, ny, nx = self._projector.stack_shape
            raise ResourceError(
                f"the GPU has too little memory for {n} projections of {ny} x {nx} pixels and a "
                f"field of shape {self.field_shape}: use one with more, or set {NO_GPU}, which "
                "computes on the processor"
            ) from error


def data_term(
    projector: Projector, data: NDArray[np.float32], pixel_weights: PixelWeights | None = None
) -> LocalLeastSquares:
    """`LocalLeastSquares` on the GPU of this process if it has one, else on its processor.

    Parameters and errors as there.
    """
    return LocalLeastSquares(projector, data, pixel_weights, compute_module(projector.device_needs))


@dataclass(frozen=True)
class Solution:
    """What a solver found and why it stopped.

    Attributes
    ----------
    field : (c, z, y, x) float32, zero outside the support.
    residuals : relative residual `‖A x − b‖ / ‖b‖` after each iteration.
    iterations : number of iterations done.
    stopped : `discrepancy`, `converged`, `settled`, `plateau`, `iterations`, or `zero data`.
    """

    field: Field
    residuals: list[float] = dataclass_field(default_factory=list)
    iterations: int = 0
    stopped: str = "iterations"


def full_support(shape: tuple[int, ...]) -> Mask:
    """Support that holds every voxel of a field of this shape, (z, y, x) bool."""
    return np.ones(shape[-3:], dtype=np.bool_)


def _check_support(support: Mask | None, shape: tuple[int, ...]) -> Mask:
    if support is None:
        return full_support(shape)
    if support.shape != shape[-3:]:
        raise InputError(f"expected a support of shape {shape[-3:]}, got {support.shape}")
    if not support.any():
        raise InputError("the support is empty: expected at least one voxel of sample")
    return support


def finite(value: float, what: str, iteration: int) -> float:
    """`value` itself; raise `ConvergenceError` if it is not a finite number."""
    if not np.isfinite(value):
        raise ConvergenceError(f"{what} became non-finite in iteration {iteration}")
    return value


def plateau(residuals: Sequence[float]) -> bool:
    """Whether a curve has stood still over the last `PLATEAU_WINDOW` iterations."""
    if len(residuals) <= PLATEAU_WINDOW:
        return False
    before, now = residuals[-1 - PLATEAU_WINDOW], residuals[-1]
    return before - now < PLATEAU_CHANGE * before


@dataclass
class _Monitor:
    """Residual curve, progress reports and the stopping rules shared by the linear solvers."""

    data_norm2: float
    discrepancy: float
    iterations: int
    stage: str
    progress: ProgressCallback
    residuals: list[float] = dataclass_field(default_factory=list)

    def record(self, residual2: float) -> None:
        done = len(self.residuals) + 1
        relative = np.sqrt(max(finite(residual2, self.stage, done), 0.0) / self.data_norm2)
        self.residuals.append(float(relative))
        self.progress(Progress(self.stage, done, self.iterations, float(relative)))

    def stop(self, residual2: float) -> str | None:
        if residual2 <= self.discrepancy:
            return "discrepancy"
        return "plateau" if plateau(self.residuals) else None


def conjugate_gradient(
    problem: LeastSquares,
    *,
    support: Mask | None = None,
    priors: Sequence[QuadraticPrior] = (),
    metric: NDArray[np.float64] | None = None,
    x0: Field | None = None,
    iterations: int = 30,
    tolerance: float = 1e-3,
    settled: float = 0.0,
    noise: float = 0.0,
    stage: str = "conjugate gradients",
    progress: ProgressCallback = silent,
) -> Solution:
    """Minimise `1/2 ‖A x − b‖²_W` plus quadratic priors by conjugate gradients.

    Parameters
    ----------
    problem : the data term.
    support : (z, y, x) bool; voxels outside stay zero.
    priors : quadratic penalties; their strengths are in units of data² / field².
    metric : (c,) float64 > 0: iterate in the inner product with these weights of the components,
        so that the iterates of a tensor rotate with the sample and stay traceless where the data
        do not see the trace.
    x0 : (c, z, y, x) float32 start; zero when absent.
    iterations : most iterations.
    tolerance : the solver has converged when the gradient has fallen to this fraction of the one
        at the zero field.
    settled : iterations end as soon as one lowers the objective by less than this [data²].
    noise : rms per pixel in the units of `b`; where positive and without priors, iterations end as
        soon as the residual is no larger than the noise (discrepancy principle).
    stage, progress : where and under which name to report.

    Returns
    -------
    Solution

    Raises
    ------
    ConvergenceError
        If a value becomes non-finite.
    InputError
        If support or start do not fit the problem.

    Notes
    -----
    Uses `N = A^T W A` and `c = A^T W b` only; a step `α d` changes the squared residual by
    `2 α <d, N x − c> + α² <d, N d>`, so that neither `A x` nor `N x` is kept: six fields in all.
    Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952), doi 10.6028/jres.049.044.
    """
    shape = problem.field_shape
    mask = _check_support(support, shape)
    x = np.zeros(shape, dtype=np.float32)
    if problem.data_norm2 <= 0.0:
        return Solution(x, stopped="zero data")
    right = _masked(problem.residual_gradient(x)[0], mask, -1.0)
    inverse = _inverse_metric(metric, shape[0])
    limit = problem.n_data * noise**2 if noise > 0.0 and not priors else 0.0
    monitor = _Monitor(problem.data_norm2, limit, iterations, stage, progress)

    residual, residual2 = right.copy(), problem.data_norm2
    if x0 is not None:
        x = _masked(_start(x0, shape), mask)
        image = _masked(problem.normal(x), mask)
        residual2 += inner(x, image) - 2.0 * inner(x, right)
        residual -= image
        for prior in priors:
            residual -= _inside(prior.hessian(x), x, mask)
    reference = inner(right, inverse * right)
    direction = inverse * residual
    rho = inner(residual, direction)
    stopped = "converged" if rho <= tolerance**2 * reference else None
    while stopped is None and len(monitor.residuals) < iterations:
        image = _inside(problem.normal(direction), direction, mask)
        length2 = inner(direction, image)
        slope = 2.0 * (inner(x, image) - inner(direction, right))
        for prior in priors:
            add_scaled(image, 1.0, _inside(prior.hessian(direction), direction, mask))
        curvature = inner(direction, image)
        if curvature <= 0.0:
            stopped = "converged"
            break
        step = finite(rho / curvature, stage, len(monitor.residuals) + 1)
        add_scaled(x, step, direction)
        add_scaled(residual, -step, image)
        residual2 += step * slope + step**2 * length2
        monitor.record(residual2)
        rho, previous = _weighted_square(residual, inverse), rho
        if rho <= tolerance**2 * reference:
            stopped = "converged"
        elif 0.5 * step * previous < settled:
            stopped = "settled"
        elif not priors:
            # With a prior the residual may rise on the way to the minimum of the sum.
            stopped = monitor.stop(residual2)
        direction *= np.float32(rho / previous)
        for part, factor, rest in zip(direction, inverse.ravel(), residual, strict=True):
            add_scaled(part, float(factor), rest)
    done = len(monitor.residuals)
    return Solution(x, monitor.residuals, done, stopped or "iterations")


def _masked(field: Field, mask: Mask, factor: float = 1.0) -> Field:
    return np.asarray(field * (mask * np.float32(factor)), dtype=np.float32)


def _inside(product: Field, factor: Field, mask: Mask) -> Field:
    """The product of an operator with `factor`, zero outside the mask; never `factor` itself."""
    if np.may_share_memory(product, factor):
        product = product.copy()
    product = np.ascontiguousarray(product, dtype=np.float32)
    keep_inside(product, mask)
    return product


def _start(x0: Field, shape: tuple[int, ...]) -> Field:
    if x0.shape != shape:
        raise InputError(f"expected a start of shape {shape}, got {x0.shape}")
    return np.asarray(x0, dtype=np.float32)


def _weighted_square(field: Field, weights: Field) -> float:
    """`<x, w x>` with a weight (c, 1, 1, 1) for each component."""
    parts = (
        float(weight) * inner(part, part)
        for part, weight in zip(field, weights.ravel(), strict=True)
    )
    return sum(parts)


def _inverse_metric(metric: NDArray[np.float64] | None, n: int) -> Field:
    weights = np.ones(n) if metric is None else 1.0 / np.asarray(metric, dtype=np.float64)
    return weights.astype(np.float32)[:, None, None, None]


def gradient_descent(
    problem: LeastSquares,
    *,
    step: float,
    support: Mask | None = None,
    iterations: int = 150,
    stage: str = "gradient descent",
    progress: ProgressCallback = silent,
) -> Solution:
    """Plain gradient descent on `1/2 ‖A x − b‖²_W` from zero, every iteration of it.

    The baseline that published reconstructions stop by counting: no rule ends it early.

    Parameters
    ----------
    problem : the data term.
    step : step length; RESIRE-V's script steps by `2 / (n N_z)` with n projections and N_z voxels
        along the beam.
    support : (z, y, x) bool; voxels outside stay zero.
    iterations : number of iterations.
    stage, progress : where and under which name to report.

    Raises
    ------
    ConvergenceError
        If a value becomes non-finite, or the residual grows beyond ten times the data.
    InputError
        If the support does not fit the problem.

    Notes
    -----
    Pham et al., Sci. Rep. 14 (2024), doi 10.1038/s41598-024-59140-1.
    """
    shape = problem.field_shape
    mask = _check_support(support, shape)
    x = np.zeros(shape, np.float32)
    if problem.data_norm2 <= 0.0:
        return Solution(x, stopped="zero data")
    monitor = _Monitor(problem.data_norm2, 0.0, iterations, stage, progress)
    for _ in range(iterations):
        gradient, residual2 = problem.residual_gradient(x)
        monitor.record(residual2)
        if monitor.residuals[-1] > 10.0:
            raise ConvergenceError(f"{stage} diverged: the residual is ten times the data")
        x -= _masked(gradient, mask, step)
    return Solution(x, monitor.residuals, iterations, "iterations")
