"""Projections whose rotations are nearly known: what a small turn of each of them explains.

Several stacks of one sample on the same rotations, its scalar channel and its dichroism say, share
the turns and have a field each: the components of their fields lie one after another in one array,
and so do their projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from pipeline.align.turns import Turns, turned_stack
from pipeline.stacks import DifferencedStack
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Field, Mask
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import without_unmeasured

EDGE_STEP = 0.5
"""How far the turn by which a projection's change is measured moves the sample's edge [voxel]:
small against what the field resolves, large against the error of the projector."""

Images = NDArray[np.float32]
"""(k n, ny, nx), the projections of k stacks one after another."""


def as_stacks(stacks: DifferencedStack | Sequence[DifferencedStack]) -> list[DifferencedStack]:
    """A list of stacks also where there is only one."""
    return [stacks] if isinstance(stacks, DifferencedStack) else list(stacks)


def components(stacks: Sequence[DifferencedStack]) -> list[slice]:
    """Where the components of each stack's field lie among those of all."""
    ends = np.cumsum([stack.weights.shape[1] for stack in stacks])
    return [
        slice(int(end) - stack.weights.shape[1], int(end))
        for end, stack in zip(ends, stacks, strict=True)
    ]


def exact_projector(stack: DifferencedStack, support: Mask) -> Projector:
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


class SharedProjector:
    """Projections of the fields of several stacks, `A`, and its adjoint.

    Parameters
    ----------
    stacks : on the rotations on which to project.
    support : (z, y, x) bool, the same for every field.
    """

    def __init__(self, stacks: Sequence[DifferencedStack], support: Mask) -> None:
        self._parts = components(stacks)
        self._projectors = [exact_projector(stack, support) for stack in stacks]
        self._n = len(stacks[0].data)
        self.field_shape = (self._parts[-1].stop, *self._projectors[0].volume_shape)

    def forward(self, field: Field) -> Images:
        """Projections of a field (c, z, y, x)."""
        return joined([p.forward(field[part]) for p, part in self._each()])

    def adjoint(self, images: Images) -> Field:
        """Back-projections, (c, z, y, x) float32."""
        every = [
            p.adjoint(images[k * self._n : (k + 1) * self._n])
            for k, (p, _) in enumerate(self._each())
        ]
        return joined(every)

    def _each(self) -> list[tuple[Projector, slice]]:
        return list(zip(self._projectors, self._parts, strict=True))


def joined(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Arrays one after another; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def squares_left(
    stacks: Sequence[DifferencedStack], support: Mask, field: Field, turns: Turns
) -> NDArray[np.float64]:
    """Squares (k,) of what the fields leave of each stack's projections on turned rotations."""
    left = []
    for stack, part in zip(stacks, components(stacks), strict=True):
        here = turned_stack(stack, turns)
        residual = exact_projector(here, support).forward(field[part])
        residual -= without_unmeasured(here.data, here.valid)
        if here.valid is not None:
            residual *= here.valid
        left.append(inner(residual, residual))
    return np.array(left)


def measured_pixels(stack: DifferencedStack) -> int:
    """Number of pixels that count."""
    return int(stack.data.size if stack.valid is None else np.count_nonzero(stack.valid))


class FreedTurns:
    """Data term in which a small turn of every projection costs little: the turns eliminated.

    The turns `u` of a projection, counted from the given rotations, change it by `J (u - at)`. They
    are those that leave the least of the residual and of `damping |u|²`; of the residual
    `A x - b - J at` only what they cannot explain counts, `W = 1 - J (Jᵀ J + damping)⁻¹ Jᵀ`.

    Parameters
    ----------
    stacks : projections on the given rotations; of several stacks, as noisy as each other, the
        m-th projections share their turn, and `Jᵀ J` is the sum of theirs.
    support : (z, y, x) bool.
    field : (c, z, y, x) float32 whose projections say what a turn changes.
    at : (n, 3) turns about which all is linear [rad].
    damping : variance of the noise over that of the turns [data²].
    """

    def __init__(
        self,
        stacks: DifferencedStack | Sequence[DifferencedStack],
        support: Mask,
        field: Field,
        at: Turns,
        damping: float,
    ) -> None:
        every = as_stacks(stacks)
        self._support, self._k = support, len(every)
        self._valid = _joined_valid(every)
        here = [turned_stack(stack, at) for stack in every]
        self._projector = SharedProjector(here, support)
        clean = joined([without_unmeasured(stack.data, stack.valid) for stack in every])
        self.data_norm2 = inner(clean, clean)
        self.n_data = sum(measured_pixels(stack) for stack in every)
        self._slopes = np.empty((len(clean), 3, *clean.shape[1:]), np.float32)
        self._measure_slopes(here, field)
        gram = np.einsum("mipq,mjpq->mij", self._slopes, self._slopes, dtype=np.float64)
        gram = self._summed(gram)
        self._inverse = np.linalg.inv(gram + max(damping, 1e-12 * gram.max()) * np.eye(3))
        self._data = clean + self._changed(at)

    def _measure_slopes(self, stacks: Sequence[DifferencedStack], field: Field) -> None:
        """Change of every projection by a turn about lab x, y and z [data / rad]."""
        angle = EDGE_STEP / _reach(self._support)
        here = self._projector.forward(field)
        for axis in range(3):
            turns = np.zeros((len(stacks[0].data), 3))
            turns[:, axis] = angle
            moved = [turned_stack(stack, turns) for stack in stacks]
            there = SharedProjector(moved, self._support).forward(field)
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

    def _residual(self, field: Field) -> Images:
        return self._seen(self._projector.forward(field)) - self._data

    def _seen(self, images: Images) -> Images:
        return images if self._valid is None else images * self._valid

    def _summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum (n, ...) over the stacks of what each projection (k n, ...) says."""
        return np.asarray(values.reshape(self._k, -1, *values.shape[1:]).sum(axis=0))

    def _along(self, images: Images) -> NDArray[np.float64]:
        every = np.einsum("mipq,mpq->mi", self._slopes, images, dtype=np.float64)
        return self._summed(every)

    def _changed(self, turns: Turns) -> Images:
        shared = np.tile(turns.astype(np.float32), (self._k, 1))
        return np.einsum("mi,mipq->mpq", shared, self._slopes)

    def _weighted(self, images: Images) -> Images:
        return images - self._changed(np.einsum("mij,mj->mi", self._inverse, self._along(images)))


def _joined_valid(stacks: Sequence[DifferencedStack]) -> NDArray[np.bool_] | None:
    if all(stack.valid is None for stack in stacks):
        return None
    return np.concatenate(
        [np.ones(s.data.shape, np.bool_) if s.valid is None else s.valid for s in stacks]
    )


def _reach(support: Mask) -> float:
    """Distance of the farthest voxel from the centre pixel [voxel], at least one."""
    far = [
        max(abs(int(k) - n // 2) for k in np.flatnonzero(support.any(axis=other))[[0, -1]])
        for n, other in zip(support.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    ]
    return max(1.0, float(np.hypot(np.hypot(far[0], far[2]), far[1])))
