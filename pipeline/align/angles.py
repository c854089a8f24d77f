"""Angular refinement: the rotation of every projection, found together with the field.

A goniometer says to a degree or so where it stands, and a degree moves the edge of a sample of a
hundred voxels by one. The rotations that are right are those for which one field explains all
projections. So the field is fitted to all of each projection but what a small turn of it would
change, which belongs to nobody yet; what the field leaves of that is the turn. Rounds of field and
turns follow each other until the turns have become small.

Two fields take part. What a turn changes is seen in a *smooth* one, whose noise a prior has taken
away. What the turns leave is fitted by a *loose* one, on which hardly a prior lies: whatever a
prior keeps a field from explaining, the sample's edge first of all, would be explained by turns.

What no data can tell is a turn common to all projections: it is the sample that has turned. It is
taken away, so that the mean of all rotations stays where the goniometer had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import field as field_of

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from pipeline.align.freed import (
    FreedTurns,
    as_stacks,
    components,
    exact_projector,
    joined,
    measured_pixels,
    squares_left,
)
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
from pipeline.tomography.priors import Field, GradientPrior, Mask, component_metric
from pipeline.tomography.solvers import LocalLeastSquares, conjugate_gradient
from pipeline.tomography.strength import held_out_strength, mean_diagonal
from schemas.recipe import AngleSettings

ITERATIONS = 25
"""Most conjugate-gradient iterations of a round, each from the field of the one before."""

SMOOTH_ITERATIONS = 12
"""The same for the smooth field, which a prior makes quicker to find."""

TOLERANCE = 1e-3
"""Gradient at which a round's field counts as found. Turns that vary slowly from projection to
projection look much like a strain of the sample, and settle last."""

LOOSE = 0.01
"""Prior of the loose field over that which predicts held-out projections best [ratio]. At a tenth
turns are still biased, at a thousandth noise that the iterations let in begins to count."""

SETTLED = 0.2
"""Turns this small against those of the first round [ratio]: the prior's strength, which errors of
the geometry make larger than it need be, is asked of the data again."""

NEGLIGIBLE = 0.1
"""Rounds end at turns this small against their standard errors [ratio]."""

STEPS = (1.0, 0.5, 0.25, 0.125)
"""Shares of a round's step that are tried in turn."""

SAME_ROTATION_RAD = 1e-6
"""Projections whose rotations differ by more cannot share a turn."""


GROWN = 1
"""Voxels added around the support of a scalar channel. Its largest step is the sample's edge, whose
blurred tail a tight support cuts off; turns would have to explain it, and do so by more than they
were off. A dichroic field has as much to show within, and keeps what a tight support says."""

NOISELESS = 1e-5
"""Least noise that is reckoned with, over the largest value of the data [ratio]."""


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
    field : (c, z, y, x) float32 that explains the projections; of several stacks, the components
        of each one's after those of the one before.
    updates_deg : rms turn of each round [degree].
    residuals : relative residual of the loose field after each round.
    """

    rotations: NDArray[np.float64]
    turns_deg: NDArray[np.float64]
    errors_deg: NDArray[np.float64]
    field: Field
    updates_deg: list[float]
    residuals: list[float]


def refine_angles(
    stack: DifferencedStack | Sequence[DifferencedStack],
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
    stack : projections of any contrast with rotations that are nearly right; or several stacks on
        the same rotations, the scalar channel and the dichroism of a sample say, whose m-th
        projections share a turn: what each tells of it adds up.
    support : (z, y, x) bool, where the sample is; the field may differ from zero there, and
        beside a scalar channel `GROWN` voxels around.
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
        If the support does not fit the weights, or is empty, or stacks are on other rotations or
        frames than the first.
    ConvergenceError
        If a value becomes non-finite.

    Notes
    -----
    Gauss-Newton steps of all rotations and the field together, the rotations eliminated (variable
    projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973), doi 10.1137/0710036).
    RESIRE-V refines its angles by a search for each projection between reconstructions: Pham et
    al., Sci. Rep. 14 (2024), doi 10.1038/s41598-024-59140-1; such rounds creep, because a field
    that was made with wrong angles explains them well.

    Each round costs at most `ITERATIONS + SMOOTH_ITERATIONS + 5` projections forth and back, each
    about an axis of its own: half a second for 100 frames of 100 x 100 on one core.
    """
    if not support.any():
        raise GeometryError("refine_angles: the support is empty, expected a voxel of sample")
    stacks = as_stacks(stack)
    if any(part.contrast == "scalar" for part in stacks):
        support = binary_dilation(support, iterations=GROWN)
    given = _common_rotations(stacks)
    turns, updates, residuals = np.zeros((len(given), 3)), list[float](), list[float]()
    smooth = _smooth_fields(stacks, support, turns, seed)
    field, settled = smooth.field, False
    while len(updates) < settings.rounds:
        moved = _round(stacks, support, smooth, (field, turns), np.deg2rad(settings.expected_deg))
        own = without_common_turn(composed(moved.turns, -turns), given)
        field, turns = moved.field, moved.turns
        updates.append(_rms_deg(own))
        residuals.append(moved.residual)
        progress(Progress(stage, len(updates), settings.rounds, residuals[-1]))
        small = max(settings.tolerance_deg, NEGLIGIBLE * _rms_deg(moved.errors))
        if settled and updates[-1] < small:
            break
        if not settled and updates[-1] < max(SETTLED * updates[0], small):
            settled = True
            smooth = _smooth_fields(stacks, support, turns, seed)
        else:
            smooth = smooth.on(stacks, support, turns)
    turns = without_common_turn(turns, given)
    return RefinedAngles(
        turned_rotations(given, turns),
        np.rad2deg(turns),
        np.rad2deg(moved.errors),
        smooth.field,
        updates,
        residuals,
    )


def _rms_deg(turns: Turns) -> float:
    return float(np.rad2deg(np.sqrt(np.mean(np.sum(turns**2, axis=1)))))


def _common_rotations(stacks: Sequence[DifferencedStack]) -> NDArray[np.float64]:
    """The rotations (n, 3, 3) of all stacks."""
    if not stacks:
        raise GeometryError("refine_angles: expected at least one stack, found none")
    first = stacks[0]
    given = check_rotations(first.rotations, "refine_angles")
    for index, stack in enumerate(stacks):
        if stack.data.shape != first.data.shape:
            raise GeometryError(
                f"refine_angles: stack {index} has frames {stack.data.shape}, the first "
                f"{first.data.shape}"
            )
        apart = float(np.abs(stack.rotations - given).max())
        if not apart < SAME_ROTATION_RAD:
            raise GeometryError(
                f"refine_angles: the rotations of stack {index} are not those of the first: they "
                f"differ by up to {apart:.3g} rad"
            )
    return given


@dataclass(frozen=True)
class _Smooth:
    """Field of each stack under the prior that predicts held-out projections best.

    Attributes
    ----------
    field : (c, z, y, x) float32, the components of all.
    strengths : of each stack's prior [data² / field²].
    noise : rms of what each field leaves of its stack [data].
    parts : which components belong to which stack.
    """

    field: Field
    strengths: list[float]
    noise: NDArray[np.float64]
    parts: list[slice]

    @property
    def metric(self) -> NDArray[np.float64]:
        """Weights (c,) of all components in a squared norm."""
        return np.concatenate([component_metric(part.stop - part.start) for part in self.parts])

    def loose_prior(self, support: Mask) -> GradientPrior:
        """Priors of all fields, a small part of their strengths."""
        strengths = np.repeat(self.strengths, [part.stop - part.start for part in self.parts])
        return GradientPrior(LOOSE, support, strengths * self.metric)

    def levels(self) -> NDArray[np.float32]:
        """Factors (k,) that bring the noise of every stack to that of the first."""
        return np.asarray(self.noise[0] / self.noise, dtype=np.float32)

    def levelled(self, field: Field) -> Field:
        """Field of data that were multiplied by `levels`."""
        counts = [part.stop - part.start for part in self.parts]
        return field * np.repeat(self.levels(), counts)[:, None, None, None]

    def unlevelled(self, field: Field) -> Field:
        """Inverse of `levelled`."""
        counts = [part.stop - part.start for part in self.parts]
        return field / np.repeat(self.levels(), counts)[:, None, None, None]

    def on(self, stacks: Sequence[DifferencedStack], support: Mask, turns: Turns) -> _Smooth:
        """The same strengths, the fields fitted on rotations that have turned further."""
        fields = []
        for stack, part, strength in zip(stacks, self.parts, self.strengths, strict=True):
            here = turned_stack(stack, turns)
            metric = component_metric(part.stop - part.start)
            fields.append(
                conjugate_gradient(
                    LocalLeastSquares(exact_projector(here, support), here.data, here.valid),
                    support=support,
                    priors=[GradientPrior(strength, support, metric)],
                    metric=metric,
                    x0=self.field[part],
                    iterations=SMOOTH_ITERATIONS,
                    tolerance=TOLERANCE,
                ).field
            )
        return _smooth(stacks, support, turns, fields, self.strengths)


def _smooth_fields(
    stacks: Sequence[DifferencedStack], support: Mask, turns: Turns, seed: int
) -> _Smooth:
    """Fields on the rotations as they are, the strengths of their priors asked of the data."""
    fields, strengths = [], []
    for stack in stacks:
        here = turned_stack(stack, turns)
        metric = component_metric(here.weights.shape[1])
        projector = exact_projector(here, support)
        chosen = held_out_strength(
            projector,
            here.data,
            support=support,
            metric=metric,
            pixel_weights=here.valid,
            seed=seed,
        )
        problem = LocalLeastSquares(projector, here.data, here.valid)
        strengths.append(chosen.smoothness * mean_diagonal(problem, support, metric, seed))
        fields.append(chosen.field)
    return _smooth(stacks, support, turns, fields, strengths)


def _smooth(
    stacks: Sequence[DifferencedStack],
    support: Mask,
    turns: Turns,
    fields: Sequence[Field],
    strengths: list[float],
) -> _Smooth:
    field = joined(fields)
    left2 = squares_left(stacks, support, field, turns)
    # Data without any noise and a field without prior would leave nothing to divide by.
    size2 = np.array([float(np.max(np.abs(stack.data))) ** 2 for stack in stacks])
    counts = np.array([measured_pixels(stack) for stack in stacks])
    noise = np.sqrt(np.maximum(left2 / counts, NOISELESS**2 * size2))
    return _Smooth(field, strengths, noise, components(stacks))


@dataclass(frozen=True)
class _Moved:
    """Where a round has led.

    Attributes
    ----------
    field, turns : loose field (c, z, y, x) and turns (n, 3) [rad].
    left2 : squares of what they leave of the data.
    residual : the same relative to the data.
    errors : (n, 3) standard deviations of the turns [rad].
    """

    field: Field
    turns: Turns
    left2: float
    residual: float = 0.0
    errors: Turns = field_of(default_factory=lambda: np.zeros((0, 3)))


def _round(
    stacks: Sequence[DifferencedStack],
    support: Mask,
    smooth: _Smooth,
    here: tuple[Field, Turns],
    expected: float,
) -> _Moved:
    """One step of the loose fields and the turns, from where they are."""
    levels = smooth.levels()
    equal = [
        stack if level == 1.0 else replace(stack, data=stack.data * level)
        for stack, level in zip(stacks, levels, strict=True)
    ]
    noise2 = float(smooth.noise[0]) ** 2
    damping = noise2 / expected**2
    start, turns = smooth.levelled(here[0]), here[1]
    term = FreedTurns(equal, support, smooth.levelled(smooth.field), turns, damping)
    prior = smooth.loose_prior(support)
    full = conjugate_gradient(
        term,
        support=support,
        priors=[prior],
        metric=smooth.metric,
        x0=start,
        iterations=ITERATIONS,
        tolerance=TOLERANCE,
    ).field
    moved = _shortened(equal, prior, damping, (start, turns), (full, term.turns(full)))
    return replace(
        moved,
        field=smooth.unlevelled(moved.field),
        residual=float(np.sqrt(moved.left2 / term.data_norm2)),
        errors=term.errors(noise2),
    )


def _shortened(
    stacks: Sequence[DifferencedStack],
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
        left2 = float(squares_left(stacks, prior.support, field, turns).sum())
        return _Moved(field, turns, left2)

    start = at(0.0)
    limit = cost(start)
    for share in STEPS:
        moved = at(share)
        if cost(moved) < limit:
            return moved
    return start
