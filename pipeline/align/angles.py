"""Angular refinement: the rotation of every projection, found together with the field.

A goniometer says to a degree or so where it stands, and a degree moves the edge of a sample of a
hundred voxels by one. The rotations that are right are those for which one field explains all
projections. So the field is fitted to all of each projection but what a small turn of it would
change, which belongs to nobody yet; what the field leaves of that is the turn. Rounds of field and
turns follow each other until the turns have become small.

What no data can tell is a turn common to all projections: it is the sample that has turned. It is
taken away, so that the mean of all rotations stays where the goniometer had it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from pipeline.align.turns import (
    Turns,
    composed,
    turned_rotations,
    turned_stack,
    without_common_turn,
)
from pipeline.errors import GeometryError
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import check_rotations
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Field, GradientPrior, Mask, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import (
    LocalLeastSquares,
    conjugate_gradient,
    without_unmeasured,
)
from pipeline.tomography.strength import held_out_strength, mean_diagonal
from schemas.recipe import AngleSettings

ITERATIONS = 25
"""Most conjugate-gradient iterations of a round, each from the field of the one before."""

TOLERANCE = 1e-3
"""Gradient at which a round's field counts as found. Turns that vary slowly from projection to
projection look much like a strain of the sample, and settle last."""

SETTLED = 0.2
"""Turns this small against those of the first round [ratio]: the prior's strength, which errors of
the geometry make larger than it need be, is asked of the data again."""

STEPS = (1.0, 0.5, 0.25, 0.125)
"""Shares of a round's step that are tried in turn."""

EDGE_STEP = 0.5
"""How far the turn by which a projection's change is measured moves the sample's edge [voxel]:
small against what the field resolves, large against the error of the projector."""


@dataclass(frozen=True)
class RefinedAngles:
    """Outcome of `refine_angles`.

    Attributes
    ----------
    rotations : (n, 3, 3) float64, sample to lab.
    turns_deg : (n, 3) float64 rotation vectors in the lab frame [degree] by which the given
        rotations were turned: `R = exp(turn) R_given`; their common turn is taken away.
    errors_deg : (n, 3) float64 standard deviations of the turns about lab x, y, z [degree], from
        what the field leaves unexplained.
    field : (c, z, y, x) float32 that explains the projections.
    updates_deg : rms turn of each round [degree].
    residuals : relative residual after each round.
    """

    rotations: NDArray[np.float64]
    turns_deg: NDArray[np.float64]
    errors_deg: NDArray[np.float64]
    field: Field
    updates_deg: list[float]
    residuals: list[float]


def refine_angles(
    stack: DifferencedStack,
    support: Mask,
    settings: AngleSettings,
    *,
    seed: int = 0,
    progress: ProgressCallback = silent,
    stage: str = "angular refinement",
) -> RefinedAngles:
    """Find the rotation of every projection that one field explains best.

    Parameters
    ----------
    stack : projections of any contrast with rotations that are nearly right.
    support : (z, y, x) bool, where the field may differ from zero.
    settings : rounds, tolerance, expected error.
    seed : of the probe by which the prior's strength is measured.
    progress : told after every round.
    stage : name under which progress is told.

    Returns
    -------
    RefinedAngles

    Raises
    ------
    GeometryError
        If the support does not fit the weights, or is empty.
    ConvergenceError
        If a value becomes non-finite.

    Notes
    -----
    Gauss-Newton steps of all rotations and the field together, the rotations eliminated (variable
    projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973), doi 10.1137/0710036).
    RESIRE-V refines its angles by a search for each projection between reconstructions: Pham et
    al., Sci. Rep. 14 (2024), doi 10.1038/s41598-024-59140-1; such rounds creep, because a field
    that was made with wrong angles explains them well.

    Each round costs at most `ITERATIONS + 3` projections forth and back, each about an axis of its
    own: half a second for 100 frames of 100 x 100 on one core.
    """
    if not support.any():
        raise GeometryError("refine_angles: the support is empty, expected a voxel of sample")
    given = check_rotations(stack.rotations, "refine_angles")
    metric = component_metric(stack.weights.shape[1])
    expected = np.deg2rad(settings.expected_deg)
    turns, updates, residuals = np.zeros((len(given), 3)), list[float](), list[float]()
    field, prior = _fresh(stack, support, turns, seed)
    noise2 = _left(stack, support, field, turns) / _count(stack)
    settled = False
    while len(updates) < settings.rounds:
        damping = noise2 / expected**2
        term = FreedTurns(stack, support, field, turns, damping)
        full = conjugate_gradient(
            term,
            support=support,
            priors=[prior],
            metric=metric,
            x0=field,
            iterations=ITERATIONS,
            tolerance=TOLERANCE,
        ).field
        moved = _shortened(stack, prior, damping, (field, turns), (full, term.turns(full)))
        own = without_common_turn(composed(moved.turns, -turns), given)
        field, turns, noise2 = moved.field, moved.turns, moved.left2 / term.n_data
        updates.append(float(np.rad2deg(np.sqrt(np.mean(np.sum(own**2, axis=1))))))
        residuals.append(float(np.sqrt(moved.left2 / term.data_norm2)))
        progress(Progress(stage, len(updates), settings.rounds, residuals[-1]))
        if settled and updates[-1] < settings.tolerance_deg:
            break
        if not settled and updates[-1] < max(SETTLED * updates[0], settings.tolerance_deg):
            settled = True
            _, prior = _fresh(stack, support, turns, seed)
    turns = without_common_turn(turns, given)
    return RefinedAngles(
        turned_rotations(given, turns),
        np.rad2deg(turns),
        np.rad2deg(term.errors(noise2)),
        field,
        updates,
        residuals,
    )


@dataclass(frozen=True)
class _Moved:
    """Where a round has led: field, turns, and the squares of what they leave of the data."""

    field: Field
    turns: Turns
    left2: float


def _shortened(
    stack: DifferencedStack,
    prior: GradientPrior,
    damping: float,
    here: tuple[Field, Turns],
    there: tuple[Field, Turns],
) -> _Moved:
    """The longest of a few steps from here to there that lowers what the round was to lower.

    All is linear only near `here`: with much noise the whole step may lead beyond the minimum, and
    rounds of whole steps to and fro.
    """

    def cost(moved: _Moved) -> float:
        penalty = prior.value_gradient(moved.field)[0]
        return 0.5 * (moved.left2 + damping * float(np.sum(moved.turns**2))) + penalty

    def at(share: float) -> _Moved:
        field = here[0] + np.float32(share) * (there[0] - here[0])
        turns = here[1] + share * (there[1] - here[1])
        return _Moved(field, turns, _left(stack, prior.support, field, turns))

    start = at(0.0)
    limit = cost(start)
    for share in STEPS:
        moved = at(share)
        if cost(moved) < limit:
            return moved
    return start


def _left(stack: DifferencedStack, support: Mask, field: Field, turns: Turns) -> float:
    """Squares of what a field leaves of the projections on turned rotations."""
    here = turned_stack(stack, turns)
    data = without_unmeasured(here.data, here.valid)
    residual = _projector(here, support).forward(field) - data
    if here.valid is not None:
        residual *= here.valid
    return inner(residual, residual)


def _count(stack: DifferencedStack) -> int:
    return int(stack.data.size if stack.valid is None else np.count_nonzero(stack.valid))


def _fresh(
    stack: DifferencedStack, support: Mask, turns: Turns, seed: int
) -> tuple[Field, GradientPrior]:
    """Field on the rotations as they are, and the prior that predicts held-out projections best."""
    here = turned_stack(stack, turns)
    metric = component_metric(here.weights.shape[1])
    projector = _projector(here, support)
    chosen = held_out_strength(
        projector, here.data, support=support, metric=metric, pixel_weights=here.valid, seed=seed
    )
    diagonal = mean_diagonal(
        LocalLeastSquares(projector, here.data, here.valid), support, metric, seed
    )
    return chosen.field, GradientPrior(chosen.smoothness * diagonal, support, metric)


def _projector(stack: DifferencedStack, support: Mask) -> Projector:
    """Exact to a part in a thousand about any axis, which finite differences ask for; slices of
    the spectrum, where their library is installed, take a third of the time."""
    return Projector(
        support.shape,
        stack.data.shape[1:],
        stack.rotations,
        stack.weights,
        "fourier" if find_spec("finufft") else "series",
        support=support,
        point_spread_px=stack.point_spread_px,
    )


class FreedTurns:
    """Data term in which a small turn of every projection costs little: the turns eliminated.

    The turns `u` of a projection, counted from the given rotations, change it by `J (u - at)`. They
    are those that leave the least of the residual and of `damping |u|²`; of the residual
    `A x - b - J at` only what they cannot explain counts, `W = 1 - J (Jᵀ J + damping)⁻¹ Jᵀ`.

    Parameters
    ----------
    stack : projections on the given rotations.
    support : (z, y, x) bool.
    field : (c, z, y, x) float32 whose projections say what a turn changes.
    at : (n, 3) turns about which all is linear [rad].
    damping : variance of the noise over that of the turns [data²].
    """

    def __init__(
        self, stack: DifferencedStack, support: Mask, field: Field, at: Turns, damping: float
    ) -> None:
        self._support, self._valid = support, stack.valid
        here = turned_stack(stack, at)
        self._projector = _projector(here, support)
        clean = without_unmeasured(stack.data, stack.valid)
        self.data_norm2 = inner(clean, clean)
        self.n_data = _count(stack)
        self._slopes = np.empty((len(clean), 3, *clean.shape[1:]), np.float32)
        self._measure_slopes(here, field)
        gram = np.einsum("mipq,mjpq->mij", self._slopes, self._slopes, dtype=np.float64)
        self._inverse = np.linalg.inv(gram + max(damping, 1e-12 * gram.max()) * np.eye(3))
        self._data = clean + self._changed(at)

    def _measure_slopes(self, stack: DifferencedStack, field: Field) -> None:
        """Change of every projection by a turn about lab x, y and z [data / rad]."""
        angle = EDGE_STEP / _reach(self._support)
        here = self._projector.forward(field)
        for axis in range(3):
            turns = np.zeros((len(here), 3))
            turns[:, axis] = angle
            there = _projector(turned_stack(stack, turns), self._support).forward(field)
            self._slopes[:, axis] = self._seen((there - here) / np.float32(angle))

    @property
    def field_shape(self) -> tuple[int, int, int, int]:
        """Shape of the unknown field (c, z, y, x)."""
        return self._projector.field_shape

    def residual_gradient(self, field: Field) -> tuple[Field, float]:
        """`A^T W r` and `r^T W r` of the residual `r = A x - b - J at`."""
        residual = self._residual(field)
        weighted = self._weighted(residual)
        return self._projector.adjoint(weighted), inner(residual, weighted)

    def normal(self, field: Field) -> Field:
        """`A^T W A x`."""
        seen = self._seen(self._projector.forward(field))
        return self._projector.adjoint(self._weighted(seen))

    def turns(self, field: Field) -> Turns:
        """Turns (n, 3) [rad] that go best with a field."""
        return -np.einsum("mij,mj->mi", self._inverse, self._along(self._residual(field)))

    def errors(self, noise2: float) -> NDArray[np.float64]:
        """Standard deviations (n, 3) of the turns [rad] for noise of this variance [data²]."""
        return np.sqrt(noise2 * np.einsum("mii->mi", self._inverse))

    def _residual(self, field: Field) -> NDArray[np.float32]:
        return self._seen(self._projector.forward(field)) - self._data

    def _seen(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return images if self._valid is None else images * self._valid

    def _along(self, stack: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.einsum("mipq,mpq->mi", self._slopes, stack, dtype=np.float64)

    def _changed(self, turns: Turns) -> NDArray[np.float32]:
        return np.einsum("mi,mipq->mpq", turns.astype(np.float32), self._slopes)

    def _weighted(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        return stack - self._changed(np.einsum("mij,mj->mi", self._inverse, self._along(stack)))


def _reach(support: Mask) -> float:
    """Distance of the farthest voxel from the centre pixel [voxel], at least one."""
    far = [
        max(abs(int(k) - n // 2) for k in np.flatnonzero(support.any(axis=other))[[0, -1]])
        for n, other in zip(support.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    ]
    return max(1.0, float(np.hypot(np.hypot(far[0], far[2]), far[1])))
