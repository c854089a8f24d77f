"""The joint round: partners registered to each other with their dichroism in the model.

Registration lays partners over each other where they look most alike, and so takes for a shift what
looks like one. A magnetic vortex does: seen from the side it is positive on one side of the sample
and negative on the other, like the slope of the sample itself. What tells them apart is that one
field, a smooth property of the matter, explains the differences of all projections, and a shift the
slope of one. So the field is fitted first, to all of the differences but their parts along the
slopes, which belong to nobody yet; what it leaves of those is the shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.canvas import MARGIN, for_each
from pipeline.align.pairs import BANDS_PX, band_pass
from pipeline.errors import GeometryError
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.smooth import check_inputs
from pipeline.stacks import Contrast, DifferencedStack
from pipeline.tomography.binning import binned_stack, every, fewer
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Field, GradientPrior, component_metric
from pipeline.tomography.projector import Projector, fastest_scheme
from pipeline.tomography.solvers import conjugate_gradient, without_unmeasured
from pipeline.tomography.strength import mean_diagonal

SMOOTHNESS, ITERATIONS = 3.0, 20
"""Strength of the field's gradient prior in units of the data's at the scale of one voxel, and most
conjugate-gradient iterations. Shifts are set by what no field explains, and hardly depend on how
smooth it is: with strengths from 1 to 10 they come out alike."""

WIDEST = 320
"""Frames wider than this are binned [pixel]: shifts are found to a small part of a pixel, so that
a few pixels in one cost no accuracy, and save most of the time and memory of large ones."""

SLOPE = {"circular": 0.5, "linear": -1.0}
"""What a partner that lies off by one pixel leaves in the difference, in slopes of the mean: half
of it in `½ (P₊ - P₋)`; all, and less than zero, in `P_LV - P_LH` of matter-negative phase."""


@dataclass(frozen=True)
class JointAlignment:
    """Outcome of `align_pairs`.

    Attributes
    ----------
    shifts : (n, 2) float64 `(dy, dx)` [pixel] to add to the second partner's frames, so that they
        lie on the first's.
    field : (c, z, y, x) float32 field that explains the differences, on voxels that are binned if
        frames were.
    residuals : relative residual after each iteration of the field.
    """

    shifts: NDArray[np.float64]
    field: NDArray[np.float32]
    residuals: list[float]


def align_pairs(
    differences: DifferencedStack,
    means: DifferencedStack,
    density: NDArray[np.float32],
    *,
    binning: int | None = None,
    seed: int = 0,
    progress: ProgressCallback = silent,
    stage: str = "joint alignment",
) -> JointAlignment:
    """Shifts between partners that one dichroic field does not explain.

    Parameters
    ----------
    differences : circular or linear differences of partners, of all mountings.
    means : scalar channel of the same partners, matter positive.
    density : (z, y, x) float32 scalar field, zero outside the sample; of any unit.
    binning : side of the blocks of pixels and voxels of which one is made; so many that frames are
        no wider than `WIDEST` when absent.
    seed : of the probe by which the prior's strength is measured.
    progress : told after every iteration.
    stage : name under which progress is told.

    Returns
    -------
    JointAlignment

    Raises
    ------
    GeometryError
        If the stacks are not those of the same partners.
    InputError
        If the differences are scalar or zero, or the density is zero or unseen.

    Notes
    -----
    Variable projection (Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973),
    doi 10.1137/0710036) with the shifts as the variables that are eliminated: alternating between
    field and shifts would arrive at the same, in many rounds. What no data can tell is decided by
    the prior: a shift common to all projections of a mounting is the same as a magnetisation
    `axis × ∇density`, all of it at the sample's edges. The prior asks for a smooth magnetisation of
    the matter, the field per density.
    """
    contrast: Contrast = "linear" if differences.contrast == "linear" else "circular"
    support = density > 0.0
    check_inputs(differences, support, contrast, "a joint alignment")
    if means.data.shape != differences.data.shape or means.contrast != "scalar":
        raise GeometryError(
            f"align_pairs: expected scalar means {differences.data.shape}, found {means.contrast} "
            f"{means.data.shape}"
        )
    binning = binning or -(-max(differences.data.shape[1:]) // WIDEST)
    if binning > 1:
        differences, means = (binned_stack(stack, binning) for stack in (differences, means))
        density = _binned_volume(density, binning)
        support = density > 0.0
    projector = Projector(
        support.shape,
        differences.data.shape[1:],
        differences.rotations,
        differences.weights,
        fastest_scheme(differences.rotations),
        support=support,
        point_spread_px=differences.point_spread_px,
    )
    density = np.where(support, density, np.float32(0.0))
    problem = SlopesLeftOut(projector, density, differences, means.data)
    metric = component_metric(problem.field_shape[0])
    strength = SMOOTHNESS * mean_diagonal(problem, support, metric, seed)
    found = conjugate_gradient(
        problem,
        support=support,
        priors=[GradientPrior(strength, support, metric)],
        metric=metric,
        iterations=ITERATIONS,
        stage=stage,
        progress=progress,
    )
    field = density * found.field
    rest = without_unmeasured(differences.data, differences.valid) - projector.forward(field)
    shifts = _shifts(rest, means.data, differences.valid) * (binning / SLOPE[contrast])
    return JointAlignment(shifts, field, found.residuals)


def _binned_volume(volume: NDArray[np.float32], binning: int) -> NDArray[np.float32]:
    """Volume on voxels `binning` times as wide, zero where it was zero."""
    smooth = ndimage.gaussian_filter(volume, 0.5 * binning) * (volume > 0.0)
    shape = fewer(volume.shape, binning)
    return np.ascontiguousarray(smooth[every(volume.shape, shape, binning)])


class SlopesLeftOut:
    """`LeastSquares` of what the slopes of each projection's mean do not explain of the data.

    The weight `W = V (1 - Q Qᵀ) V` keeps the measured pixels `V` and leaves out the two slopes `Q`.

    Parameters
    ----------
    projector : the forward model.
    density : (z, y, x) float32, by which the unknown field is multiplied.
    stack : the data.
    means : (n, ny, nx) float32, whose slopes they are.
    """

    def __init__(
        self,
        projector: Projector,
        density: NDArray[np.float32],
        stack: DifferencedStack,
        means: NDArray[np.float32],
    ) -> None:
        self._projector, self._density, self._valid = projector, density, stack.valid
        clean = without_unmeasured(means, stack.valid)
        self._slopes = np.empty((len(clean), 2, *clean.shape[1:]), np.float32)

        def one(index: int) -> None:
            self._slopes[index] = _orthonormal(self._seen(_slopes(clean[index]), index))

        for_each(len(clean), one)
        self._data = self._weighted(np.array(without_unmeasured(stack.data, stack.valid)))
        self.data_norm2 = inner(self._data, self._data)
        known = stack.data.size if stack.valid is None else np.count_nonzero(stack.valid)
        self.n_data = int(known) - 2 * len(clean)

    @property
    def field_shape(self) -> tuple[int, int, int, int]:
        """Shape of the unknown field (c, z, y, x)."""
        return self._projector.field_shape

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """`A^T W (A x - b)` and `Σ (W (A x - b))²`."""
        residual = self._weighted(self._projector.forward(self._density * field)) - self._data
        return self._density * self._projector.adjoint(residual), inner(residual, residual)

    def normal(self, field: Field) -> Field:
        """`A^T W A x`."""
        seen = self._weighted(self._projector.forward(self._density * field))
        return self._density * self._projector.adjoint(seen)

    def _seen(self, images: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        return images if self._valid is None else images * self._valid[index]

    def _weighted(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """Leave the slopes out of a stack, in place."""

        def one(index: int) -> None:
            frame = self._seen(stack[index], index)
            for slope in self._slopes[index]:
                frame = frame - np.float32(inner(slope, frame)) * slope
            stack[index] = frame

        for_each(len(stack), one)
        return stack


def _slopes(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Derivatives (2, ny, nx) along y and x [per pixel]."""
    return np.stack([np.gradient(image, axis=axis) for axis in (0, 1)])


def _orthonormal(slopes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two images of length one that span the slopes; zero where there is nothing to span."""
    made = np.zeros_like(slopes)
    for index, slope in enumerate(slopes):
        rest = slope - sum(np.float32(inner(other, slope)) * other for other in made[:index])
        length = float(np.sqrt(inner(rest, rest)))
        if length > 1e-6 * float(np.sqrt(inner(slope, slope))):
            made[index] = rest / np.float32(length)
    return made


def _shifts(
    rest: NDArray[np.float32], means: NDArray[np.float32], valid: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Coefficients (n, 2) of the slopes `(y, x)` in what the field leaves of each difference.

    Offset, slope of the phase and a factor between the partners are fitted along, in the band in
    which pairs are registered.
    """
    found = np.zeros((len(rest), 2))
    reach = int(np.ceil(2.0 * BANDS_PX[-1][1]))
    y, x = np.mgrid[-1.0 : 1.0 : 1j * rest.shape[1], -1.0 : 1.0 : 1j * rest.shape[2]]
    inside = np.zeros(rest.shape[1:], np.bool_)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True

    def one(index: int) -> None:
        known, frame, mean = inside, rest[index], means[index]
        if valid is not None and not valid[index].all():
            frame, mean = frame * valid[index], np.where(valid[index], mean, np.float32(0.0))
            known = inside & ndimage.binary_erosion(valid[index], iterations=reach, border_value=1)
        frame, mean = (band_pass(image, *BANDS_PX[-1]) for image in (frame, mean))
        columns = [*_slopes(mean), mean, np.ones_like(mean), y, x]
        design = np.stack([column[known] for column in columns]).astype(np.float64)
        size = np.linalg.norm(design, axis=1)
        design /= np.where(size > 0.0, size, 1.0)[:, None]
        # Least norm where a slope is not to be seen: such a frame stays where it is.
        solution = np.linalg.lstsq(design @ design.T, design @ frame[known], rcond=1e-9)[0]
        found[index] = solution[:2] / np.where(size[:2] > 0.0, size[:2], np.inf)

    for_each(len(rest), one)
    return found
