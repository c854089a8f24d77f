"""Crystal axes where the dichroism is known up to a factor: it follows the measured density.

The dichroism of a material is proportional to how much of it a voxel holds. With the density of the
off-resonance series, one factor for the whole sample takes the place of one magnitude a voxel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.axes import Packed, outer_gradient, outer_tensor
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.minimise import Objective, ResidualCurve, quasi_newton
from pipeline.tomography.priors import EdgePreservingPrior
from pipeline.tomography.solvers import LeastSquares


def refine_tied(
    problem: LeastSquares,
    vectors: Packed,
    density: NDArray[np.float32],
    prior: EdgePreservingPrior,
    *,
    sign: int,
    iterations: int,
    progress: ProgressCallback = silent,
) -> tuple[Packed, list[float], str]:
    """Minimise `1/2 ‖A(s κ ρ a aᵀ) − b‖²` and a prior over axes `a` and the factor `κ`.

    Parameters
    ----------
    problem : the data term.
    vectors : (3, n) float32 `√|f| a` to start from, in the voxels of the prior's support.
    density : (n,) float32 `ρ`, zero where nothing is dichroic; of any unit.
    prior : penalty on the tensor per density, in units of the mean density.
    sign : `s`, +1 or −1.
    iterations : quasi-Newton steps.
    progress : reports every step.

    Returns
    -------
    vectors : (3, n) float32 `√(κ ρ) a`; where the density is zero, so are they.
    residuals : relative residual after each step.
    stopped : why the steps ended.

    Raises
    ------
    InputError
        If the density is nowhere positive, or of another shape.
    """
    if density.shape != vectors.shape[1:] or not density.max(initial=0.0) > 0.0:
        raise InputError(
            f"expected a density of {vectors.shape[1:]} that is positive somewhere, "
            f"found {density.shape}"
        )
    share = np.maximum(density, np.float32(0.0))
    share /= np.float32(np.mean(share, dtype=np.float64))
    unit = np.float32(np.sqrt(np.mean(np.square(vectors, dtype=np.float64)) * 3.0) or 1.0)
    start = vectors / unit
    # An axis that vanishes has no direction to start from, but must have some.
    start[:, np.linalg.norm(start, axis=0) <= _FLOOR] = _FLOOR
    curve = ResidualCurve(progress)
    found = quasi_newton(
        tied_objective(problem, prior, share, sign, unit, curve),
        start,
        iterations=iterations,
        stage="orientation: tied to the density",
        progress=curve,
    )
    return unit * np.sqrt(share) * _tied(found.x)[0], curve.residuals, found.stopped


_FLOOR = np.float32(1e-3)


def _tied(u: Packed) -> tuple[Packed, Packed, Packed, float]:
    """Vectors `√κ u / |u|`, unit vectors, lengths, and `κ`, the mean square of the lengths."""
    length = np.maximum(np.linalg.norm(u, axis=0), _FLOOR)
    factor = float(np.mean(np.square(u, dtype=np.float64).sum(axis=0)))
    unit = u / length
    return np.float32(np.sqrt(factor)) * unit, unit, length, factor


def tied_objective(
    problem: LeastSquares,
    prior: EdgePreservingPrior,
    share: NDArray[np.float32],
    sign: int,
    scale: np.float32,
    curve: ResidualCurve,
) -> Objective:
    """Misfit and penalty, over the norm of the data, as a function of free vectors `u` (3, n).

    The prior is on `κ a aᵀ`, which does not change where only the density does.
    """

    def objective(u: Packed) -> tuple[float, Packed]:
        w, unit, length, factor = _tied(u)
        tensor = np.float32(sign) * scale**2 * outer_tensor(w)
        gradient, residual2 = problem.residual_gradient(unpack(share * tensor, prior.support))
        penalty, bend = prior.value_gradient(unpack(tensor, prior.support))
        curve.latest = float(np.sqrt(residual2 / problem.data_norm2))
        slope = share * gradient[:, prior.support] + bend[:, prior.support]
        outer = outer_gradient(slope, w)
        outer *= np.float32(sign * float(scale) ** 2 / problem.data_norm2)
        along = np.einsum("cn,cn->n", outer, unit)
        # Unit vectors turn across themselves only; the factor grows by 2 u / n.
        chained = np.float32(np.sqrt(factor)) * (outer - along * unit) / length
        grown = float(np.sum(outer * w, dtype=np.float64)) / (factor * u.shape[1])
        return (0.5 * residual2 + penalty) / problem.data_norm2, chained + np.float32(grown) * u

    return objective
