"""Turns in a plane of the grid: exact quarter turns, then cubic splines (`kernels/turn.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tomography.kernels import turn
from pipeline.tomography.kernels.twins import CPU, Kernels

Range = tuple[int, int]
"""Lowest and highest integer coordinate of a grid axis, both included."""

_NO_TURN_RAD = 1e-9
"""Residual turns below this move no voxel of any volume by a millionth of a voxel."""


@dataclass(frozen=True)
class PlaneTurn:
    """Turn in one plane of the grid: exact quarter turns, then a residual of at most 45 degrees.

    Acts on arrays (fields, second, first, rest) as `first' = cos first - sin second`,
    `second' = sin first + cos second`.

    Attributes
    ----------
    quarters : int, 0 to 3.
    residual_rad : float [rad].
    middle : ranges (second, first) after the quarter turns.
    after : ranges of the array that goes out, wide enough to hold the turned one.
    """

    quarters: int
    residual_rad: float
    middle: tuple[Range, Range]
    after: tuple[Range, Range]

    @property
    def trivial(self) -> bool:
        """Whether no interpolation is needed."""
        return self.residual_rad == 0.0

    @property
    def nothing(self) -> bool:
        """Whether the turn leaves every array as it is."""
        return self.trivial and self.quarters == 0

    def forward(self, field: Any, kernels: Kernels = CPU) -> Any:
        """Turn `field` (r, n2, n1, rest) float32 of any strides."""
        for _ in range(self.quarters):
            field = field.swapaxes(1, 2)[:, :, ::-1]
        pad = 0 if self.trivial else turn.PAD
        r, n2, n1, rest = field.shape
        padded = kernels.xp.empty((r, n2 + 2 * pad, n1 + 2 * pad, rest), np.float32)
        kernels.copy_planes(field, pad, padded)
        if self.trivial:
            return padded
        kernels.spline_coefficients(padded)
        shape = (r, size_of(self.after[0]), size_of(self.after[1]), rest)
        turned = kernels.xp.empty(shape, np.float32)
        kernels.turn_plane(padded, *self._arguments(), turned)
        return turned

    def adjoint(self, turned: Any, field: Any, kernels: Kernels = CPU) -> None:
        """Adjoint of `forward`: overwrite `field`; both of any strides."""
        for _ in range(self.quarters):
            field = field.swapaxes(1, 2)[:, :, ::-1]
        if not self.trivial:
            n2, n1 = size_of(self.middle[0]), size_of(self.middle[1])
            shape = (len(turned), n2 + 2 * turn.PAD, n1 + 2 * turn.PAD, turned.shape[3])
            padded = kernels.xp.empty(shape, np.float32)
            turned = kernels.xp.ascontiguousarray(turned)
            kernels.turn_plane_adjoint(turned, *self._arguments(), padded)
            kernels.spline_coefficients(padded)
            turned = padded[:, turn.PAD : -turn.PAD, turn.PAD : -turn.PAD]
        kernels.copy_planes(turned, 0, field)

    def _arguments(self) -> tuple[float, float, tuple[int, int], tuple[int, int]]:
        low_in = (self.middle[0][0], self.middle[1][0])
        low_out = (self.after[0][0], self.after[1][0])
        angle = self.residual_rad
        return float(np.cos(angle)), float(np.sin(angle)), low_in, low_out


def size_of(axis: Range) -> int:
    """Number of coordinates in a range."""
    return axis[1] - axis[0] + 1


def plan_turn(
    angle_rad: float, second: Range, first: Range, seen: Range | None = None
) -> PlaneTurn:
    """Plan the turn by `angle_rad` of the plane with the given ranges.

    Of the turned grid's first axis only the range `seen` is computed, where it is given and
    anything is computed at all.
    """
    quarters = round(angle_rad / (np.pi / 2))
    residual = angle_rad - quarters * np.pi / 2
    residual = 0.0 if abs(residual) < _NO_TURN_RAD else residual
    middle = (second, first)
    for _ in range(quarters % 4):
        second, first = middle
        middle = (first, (-second[1], -second[0]))
    if residual == 0.0:
        return PlaneTurn(quarters % 4, residual, middle, middle)
    after = _turned_ranges(residual, *middle)
    if seen is not None:
        after = (after[0], (max(after[1][0], seen[0]), min(after[1][1], seen[1])))
    return PlaneTurn(quarters % 4, residual, middle, after)


def _turned_ranges(angle_rad: float, second: Range, first: Range) -> tuple[Range, Range]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    corners = np.array([(f, g) for f in first for g in second], dtype=np.float64)
    new_first = corners @ (c, -s)
    new_second = corners @ (s, c)

    # One more than the corner: the spline of the outermost voxels reaches that far.
    def hull(values: NDArray[np.float64]) -> Range:
        return int(np.floor(values.min())) - 1, int(np.ceil(values.max())) + 1

    return hull(new_second), hull(new_first)
