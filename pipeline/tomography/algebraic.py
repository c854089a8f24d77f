"""The classical algebraic reconstructions of a scalar field: ART and SIRT.

Kept so that a published analysis can be repeated as it was. ART goes from ray to ray and moves the
field to where it explains that ray (Kaczmarz); SIRT takes all rays at once, each counted by one
over its length and each voxel by one over how often it is seen.

Kaczmarz 1937; Gordon, Bender and Herman, J. Theor. Biol. 29, 471 (1970),
doi 10.1016/0022-5193(70)90109-8; Gilbert, J. Theor. Biol. 36, 105 (1972),
doi 10.1016/0022-5193(72)90180-4; row and column sums as Andersen and Kak, Ultrason. Imaging 6, 81
(1984), doi 10.1177/016173468400600107.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import PixelWeights, without_unmeasured

CHUNK = 32
"""Slices that a task owns: they share every ray's weights, and their lines fill cache lines."""

GOLDEN = 0.6180339887498949
"""Next angle, as a part of the whole turn, after the one before: consecutive rays that cross at a
large angle undo least of each other (Hamaker and Solmon 1978, doi 10.1016/0022-247X(78)90004-3)."""

_LEAST = 1e-3
"""Rays and voxels that are seen by less than this part of the most are left alone."""


def kaczmarz(
    data: NDArray[np.float32],
    angles_rad: NDArray[np.float64],
    *,
    sweeps: int,
    relaxation: float,
    measured: NDArray[np.bool_] | None = None,
    sign: int = 0,
    width: int | None = None,
    progress: ProgressCallback = silent,
) -> tuple[NDArray[np.float32], list[float]]:
    """ART: sweeps of Kaczmarz's projections onto every ray, about one rotation axis.

    Parameters
    ----------
    data : (n, ny, nx) float32 integrals in voxels; the axis is column `nx // 2`.
    angles_rad : (n,) rotation about y.
    sweeps : times that every ray is visited.
    relaxation : part of the way to each ray's hyperplane, above 0 and below 2.
    measured : (n, ny, nx) bool; rays that were not measured are passed over.
    sign : after each sweep voxels of the other sign are set to zero; 0 leaves them.
    width : edge of the slices [voxel]; that of the frames when absent.
    progress : told after every sweep.

    Returns
    -------
    volume : (z, y, x) float32 in the frame that turns about y.
    residuals : relative residual of each sweep, every ray as it was met.

    Raises
    ------
    ConvergenceError
        If a value becomes non-finite.
    """
    _, ny, nx = data.shape
    edge = nx if width is None else width
    clean = without_unmeasured(data, measured)
    # y last: all slices of a chunk share a ray's weights, and the inner loop is contiguous.
    images = np.ascontiguousarray(clean.transpose(0, 2, 1))
    seen = np.ones(images.shape, np.bool_)
    if measured is not None:
        seen = np.ascontiguousarray(measured.transpose(0, 2, 1))
    volume = np.zeros((edge, edge, ny), np.float32)
    by_angle = visiting_order(angles_rad)
    cosines, sines = np.cos(angles_rad), np.sin(angles_rad)
    norm2 = max(inner(images, images), 1e-30)
    residuals: list[float] = []
    missed = np.empty((ny + CHUNK - 1) // CHUNK)
    for _ in range(sweeps):
        _sweep(images, seen, cosines, sines, by_angle, relaxation, volume, missed)
        if sign:
            clip = np.maximum if sign > 0 else np.minimum
            clip(volume, np.float32(0.0), out=volume)
        residuals.append(float(np.sqrt(missed.sum() / norm2)))
        if not np.isfinite(residuals[-1]):
            raise ConvergenceError(f"ART: not finite in sweep {len(residuals)}")
        progress(Progress("scalar: ART", len(residuals), sweeps, residuals[-1]))
    return np.ascontiguousarray(volume.transpose(0, 2, 1)), residuals


def visiting_order(angles_rad: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order (n,) in which a sweep visits the projections: far apart one after the other."""
    far_apart = np.argsort(np.argsort(np.mod(np.arange(len(angles_rad)) * GOLDEN, 1.0)))
    return np.asarray(np.argsort(angles_rad, kind="stable")[far_apart], dtype=np.int64)


@njit(parallel=True, cache=True, error_model="numpy")
def _sweep(
    images: NDArray[np.float32],
    seen: NDArray[np.bool_],
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    order: NDArray[np.int64],
    relaxation: float,
    volume: NDArray[np.float32],
    missed: NDArray[np.float64],
) -> None:
    """One visit of every ray: images (n, nx, ny), volume (z, x, y), squares missed per chunk."""
    nx, ny = images.shape[1:]
    for task in prange(len(missed)):
        rows = slice(task * CHUNK, min((task + 1) * CHUNK, ny))
        part = volume[:, :, rows]
        total = np.empty(part.shape[2], np.float32)
        missed[task] = 0.0
        for index in range(len(order)):
            m = order[index]
            for u in range(nx):
                total[:] = np.float32(0.0)
                norm2 = _along_ray(part, cosines[m], sines[m], u - nx // 2, total, False)
                if norm2 <= 0.0:
                    continue
                for y in range(len(total)):
                    miss = 0.0
                    if seen[m, u, rows.start + y]:
                        miss = images[m, u, rows.start + y] - total[y]
                    missed[task] += miss * miss
                    total[y] = relaxation * miss / norm2
                _along_ray(part, cosines[m], sines[m], u - nx // 2, total, True)


@njit(cache=True, error_model="numpy")
def _along_ray(
    part: NDArray[np.float32],
    c: float,
    s: float,
    ray: int,
    line: NDArray[np.float32],
    change: bool,
) -> float:
    """Add a ray's integral through `part` (z, x, y) to `line`, or `line` to the ray's voxels.

    Returns the sum of the squares of the voxels' shares, which are those of linear interpolation.
    """
    edge = part.shape[0]
    # Along the axis that a ray follows it is two voxels wide across, or a little more.
    steep = abs(c) >= abs(s)
    along, across = (s, c) if steep else (c, s)
    norm2 = 0.0
    for p in range(edge):
        middle = (ray - along * (p - edge // 2)) / across + edge // 2
        first = max(int(np.ceil(middle - 1.0 / abs(across))), 0)
        last = min(int(np.floor(middle + 1.0 / abs(across))), edge - 1)
        for q in range(first, last + 1):
            i, j = (p, q) if steep else (q, p)
            share = 1.0 - abs(c * (j - edge // 2) + s * (i - edge // 2) - ray)
            if share <= 0.0:
                continue
            norm2 += share * share
            if change:
                for y in range(len(line)):
                    part[i, j, y] += share * line[y]
            else:
                for y in range(len(line)):
                    line[y] += share * part[i, j, y]
    return norm2


def sirt(
    projector: Projector,
    data: NDArray[np.float32],
    *,
    iterations: int,
    relaxation: float,
    pixel_weights: PixelWeights | None = None,
    support: NDArray[np.bool_] | None = None,
    sign: int = 0,
    progress: ProgressCallback = silent,
) -> tuple[NDArray[np.float32], list[float]]:
    """SIRT: `x += relaxation · C Aᵀ R (b − A x)` with the row and column sums in R and C.

    Parameters
    ----------
    projector : of one component.
    data : (n, ny, nx) float32.
    iterations : number of iterations.
    relaxation : above 0 and below 2.
    pixel_weights : as in `LocalLeastSquares`; they multiply R.
    support : (z, y, x) bool; the field is zero outside.
    sign : after each iteration voxels of the other sign are set to zero; 0 leaves them.
    progress : told after every iteration.

    Returns
    -------
    volume : (z, y, x) float32.
    residuals : relative residual at the start of each iteration.

    Raises
    ------
    ConvergenceError
        If a value becomes non-finite.
    """
    clean = without_unmeasured(data, pixel_weights)
    inside = np.ones(projector.field_shape, np.float32)
    if support is not None:
        inside *= support
    rows = _inverse(projector.forward(inside))
    if pixel_weights is not None:
        rows *= pixel_weights
    seen = np.ones_like(rows)
    if pixel_weights is not None:
        seen *= pixel_weights
    columns = inside * _inverse(projector.adjoint(np.ascontiguousarray(seen)))
    field = np.zeros(projector.field_shape, np.float32)
    norm2 = max(inner(clean, clean * seen), 1e-30)
    residuals: list[float] = []
    for _ in range(iterations):
        missing = clean - projector.forward(field)
        size = inner(missing, np.asarray(missing * seen, np.float32))
        residuals.append(float(np.sqrt(size / norm2)))
        if not np.isfinite(residuals[-1]):
            raise ConvergenceError(f"SIRT: not finite in iteration {len(residuals)}")
        field += np.float32(relaxation) * columns * projector.adjoint(rows * missing)
        if sign:
            clip = np.maximum if sign > 0 else np.minimum
            clip(field, np.float32(0.0), out=field)
        progress(Progress("scalar: SIRT", len(residuals), iterations, residuals[-1]))
    return field[0], residuals


def _inverse(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """One over sums that are large enough to divide by, zero elsewhere."""
    least = np.float32(_LEAST) * sums.max()
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > least)
