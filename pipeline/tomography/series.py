"""The fast path of the projector: one series about one axis, as a sum over independent slices.

The field's few combinations that the series sees are turned once so that the grid's y axis is the
rotation axis; then each projection is a sum over slices (`kernels/slices.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tomography.geometry import AxisGroup, axis_turns
from pipeline.tomography.kernels import slices, turn
from pipeline.tomography.kernels.twins import CPU, CpuKernels, Kernels
from pipeline.tomography.spectra import Range, SliceSpectra, plan_spectra, spectra_cost

_NO_TURN_RAD = 1e-9
"""Residual turns below this move no voxel of any volume by a millionth of a voxel."""

_MARGIN = 5
"""Voxels around a support that are turned with it: a spline falls to a part in a thousand there."""

_REACH = (3, 16)
"""Voxels beyond its box in which a field shows that was turned by splines once: what their taps
reach; and twice: what the second ones, of an infinite response, have left of it is 1e-9."""

_STEP = 16
"""Rows that a processor adds at a time."""

_NS_VOXEL, _NS_FIELD = 0.4, 0.16
"""Of footprints there and back, one thread: for each voxel and angle, and for each of its fields
[ns]; measured figures: `kernels/README.md`."""

_RANK_TOLERANCE = 1e-10
"""Combinations whose singular value is smaller, relative to the largest, are rounding."""


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
        """Turn `field` (r, n2, n1, rest) float32."""
        for _ in range(self.quarters):
            field = field.swapaxes(1, 2)[:, :, ::-1]
        if self.trivial:
            return field
        r, n2, n1, rest = field.shape
        padded = kernels.xp.empty((r, n2 + 2 * turn.PAD, n1 + 2 * turn.PAD, rest), np.float32)
        kernels.pad_plane(field, turn.PAD, padded)
        kernels.spline_coefficients(padded)
        shape = (field.shape[0], _size(self.after[0]), _size(self.after[1]), field.shape[3])
        turned = kernels.xp.empty(shape, np.float32)
        kernels.turn_plane(padded, *self._arguments(), turned)
        return turned

    def adjoint(self, turned: Any, kernels: Kernels = CPU) -> Any:
        """Adjoint of `forward`."""
        field = turned
        if not self.trivial:
            n2, n1 = _size(self.middle[0]), _size(self.middle[1])
            shape = (turned.shape[0], n2 + 2 * turn.PAD, n1 + 2 * turn.PAD, turned.shape[3])
            padded = kernels.xp.empty(shape, np.float32)
            turned = kernels.xp.ascontiguousarray(turned)
            kernels.turn_plane_adjoint(turned, *self._arguments(), padded)
            kernels.spline_coefficients(padded)
            field = padded[:, turn.PAD : -turn.PAD, turn.PAD : -turn.PAD]
        for _ in range(self.quarters):
            field = field[:, :, ::-1].swapaxes(1, 2)
        return field

    def _arguments(self) -> tuple[float, float, tuple[int, int], tuple[int, int]]:
        low_in = (self.middle[0][0], self.middle[1][0])
        low_out = (self.after[0][0], self.after[1][0])
        angle = self.residual_rad
        return float(np.cos(angle)), float(np.sin(angle)), low_in, low_out


def _size(axis: Range) -> int:
    return axis[1] - axis[0] + 1


def _to_back(field: Any, kernels: Kernels) -> Any:
    """(r, a, b, c) to (r, b, c, a) contiguous."""
    r, a, b, c = field.shape
    return kernels.transposed(field.reshape(r, 1, a, b * c)).reshape(r, b, c, a)


def _to_front(field: Any, kernels: Kernels) -> Any:
    """(r, b, c, a) to (r, a, b, c) contiguous: the inverse and adjoint of `_to_back`."""
    r, b, c, a = field.shape
    return kernels.transposed(field.reshape(r, 1, b * c, a)).reshape(r, a, b, c)


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


@dataclass(frozen=True)
class Series:
    """Forward and adjoint projection of the projections of one axis.

    Attributes
    ----------
    indices : (k,) int64 positions of its projections in the whole stack.
    components : (c, r) float32 orthonormal combinations of the field's components.
    coefficients : (k, r) float32 what each projection takes of each combination.
    cosines, sines : (k,) float64 of the rotation about the grid's turned y axis.
    footprint : (k, 2) float32 of `kernels.slices.footprints`.
    filled : (nx', 2) int64, rows of each column x' that can hold anything.
    sharpening : (k,) float32 and float, what `kernels.slices.sharpen` does along columns and rows.
    about_z, about_x : the two turns that bring the axis onto y.
    box : part (z, y, x) of the field that holds anything; only that is turned.
    image_shape : (ny, nx).
    spectra : lines of the slices' spectra, which then take the place of footprints.
    """

    indices: NDArray[np.int64]
    components: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    cosines: NDArray[np.float64]
    sines: NDArray[np.float64]
    footprint: NDArray[np.float32]
    filled: NDArray[np.int64]
    sharpening: tuple[NDArray[np.float32], float]
    about_z: PlaneTurn
    about_x: PlaneTurn
    box: tuple[slice, slice, slice]
    image_shape: tuple[int, int]
    spectra: SliceSpectra | None = None

    def with_spectra(self) -> Series:
        """The same by lines of the slices' spectra."""
        lines = plan_spectra(
            self.cosines, self.sines, self.coefficients, self._slices, self.image_shape[1],
            self.indices, -self.sharpening[1],
        )  # fmt: skip
        return replace(self, spectra=lines)

    def costs(self) -> tuple[float, float]:
        """Time that all slices take there and back [ns]: by footprints, and by spectra."""
        k, r = self.coefficients.shape
        z, _ = self._slices
        rows = _size(self._seen)
        voxels = _size(z) * float(np.sum(self.filled[:, 1] - self.filled[:, 0]))
        lines = spectra_cost(self.cosines, self.sines, r, self._slices, self.image_shape[1])
        return k * voxels * (_NS_VOXEL + r * _NS_FIELD), rows * lines

    @property
    def _slices(self) -> tuple[Range, Range]:
        """Ranges z' and x' of the slices."""
        return self.about_x.after[0], self.about_z.after[1]

    @property
    def _seen(self) -> Range:
        """Range of y' that lies both in the turned volume and on the detector."""
        return _seen_rows(self.about_x, self.image_shape[0])

    def forward(self, field: Any, stack: Any, kernels: Kernels = CPU) -> None:
        """Write the projections of `field` (c, z, y, x) float32 into `stack` (n, ny, nx)."""
        xp = kernels.xp
        turned = self._turned(
            self._combine(xp.ascontiguousarray(self._boxed(field)), kernels), kernels
        )
        if self.spectra is not None and isinstance(kernels, CpuKernels):
            self.spectra.project(turned, self._cut, stack, self._rows.start, kernels)
            return
        volume = self._columns_first(turned, kernels)
        k, nx, rows = len(self.indices), self.image_shape[1], volume.shape[3]
        images = xp.zeros((k, nx + 2, rows), np.float32)
        kernels.project_slices(volume, *self._slice_arguments(), images)
        sharp = xp.empty((k, nx, rows), np.float32)
        kernels.sharpen(images, *self.sharpening, sharp)
        stack[xp.asarray(self.indices), self._rows] = kernels.transposed(sharp[None])[0]

    def add_adjoint(self, stack: Any, field: Any, kernels: Kernels = CPU) -> None:
        """Add the back projection of its part of `stack` (n, ny, nx) to `field` (c, z, y, x)."""
        xp = kernels.xp
        if self.spectra is not None and isinstance(kernels, CpuKernels):
            turned = xp.zeros(self._turned_shape, np.float32)
            self.spectra.back_project(stack, self._rows.start, self._cut, turned, kernels)
        else:
            turned = self._adjoint_by_footprints(stack, kernels)
        turned = self._turned_adjoint(turned, kernels)
        part = self._boxed(field)
        whole = part.shape == field.shape
        total = field if whole else xp.ascontiguousarray(part)
        kernels.add_spread(_flat(turned), self.components, _flat(total))
        if not whole:
            part[...] = total

    def _adjoint_by_footprints(self, stack: Any, kernels: Kernels) -> Any:
        xp = kernels.xp
        part = stack[xp.asarray(self.indices), self._rows]
        sharp = kernels.transposed(part[None])[0]
        images = xp.empty((part.shape[0], part.shape[2] + 2, part.shape[1]), np.float32)
        kernels.sharpen_adjoint(sharp, *self.sharpening, images)
        r, z, _, x = self._turned_shape
        volume = xp.empty((r, z, x, images.shape[2]), np.float32)
        kernels.back_project_slices(images, *self._slice_arguments(), volume)
        turned = kernels.transposed(volume)
        low, high = self._cut
        behind = self._turned_shape[2] - 1 - high
        if low or behind:
            turned = xp.pad(turned, ((0, 0), (0, 0), (low, behind), (0, 0)))
        return turned

    def _boxed(self, field: Any) -> Any:
        """The part of a field (c, z, y, x) that holds anything."""
        return field[(slice(None), *self.box)]

    @property
    def _rows(self) -> slice:
        low, high = self._seen
        centre = self.image_shape[0] // 2
        return slice(low + centre, max(low, high + 1) + centre)

    def _slice_arguments(
        self,
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float32],
        NDArray[np.int64],
        int,
        int,
    ]:
        (z_low, _), (x_low, _) = self._slices
        tables = self.coefficients, self.cosines, self.sines, self.footprint, self.filled
        return *tables, z_low, x_low

    def _combine(self, field: Any, kernels: Kernels) -> Any:
        """(c, z, y, x) to the r combinations (r, z, y, x)."""
        if self.components.shape == (1, 1):
            # The one component itself: `plan_series` sees to the sign.
            return field
        mixed = kernels.xp.empty((self.components.shape[1], *field.shape[1:]), np.float32)
        kernels.combine(_flat(field), self.components, _flat(mixed))
        return mixed

    def _turned(self, field: Any, kernels: Kernels) -> Any:
        """(r, z, y, x) to (r, z', y', x')."""
        if not self.about_z.nothing:
            field = _to_front(self.about_z.forward(_to_back(field, kernels), kernels), kernels)
        return kernels.xp.ascontiguousarray(self.about_x.forward(field, kernels))

    def _turned_adjoint(self, turned: Any, kernels: Kernels) -> Any:
        field = self.about_x.adjoint(turned, kernels)
        if not self.about_z.nothing:
            field = _to_front(self.about_z.adjoint(_to_back(field, kernels), kernels), kernels)
        return kernels.xp.ascontiguousarray(field)

    def _columns_first(self, turned: Any, kernels: Kernels) -> Any:
        """(r, z', y', x') to (r, z', x', y'), cut to the rows that the detector sees."""
        low, high = self._cut
        return kernels.transposed(turned[:, :, low : high + 1])

    @property
    def _turned_shape(self) -> tuple[int, int, int, int]:
        sizes = (_size(axis) for axis in (*self.about_x.after, self.about_z.after[1]))
        return self.coefficients.shape[1], *sizes

    @property
    def _cut(self) -> Range:
        """First and last row of the turned volume that the detector sees."""
        first = self.about_x.after[1][0]
        low, high = self._seen
        return low - first, high - first


def _flat(field: Any) -> Any:
    return field.reshape(field.shape[0], -1)


def plan_series(
    group: AxisGroup,
    weights: NDArray[np.float64],
    volume_shape: tuple[int, int, int],
    image_shape: tuple[int, int],
    support: NDArray[np.bool_] | None = None,
    point_spread_px: float = 0.0,
) -> Series:
    """Plan the projections of `group`, whose rows of the weights are `weights` (k, c).

    Only the box around the support, with what splines need around it, is turned where there is
    a support. The images are blurred by a point spread of standard deviation `point_spread_px`.

    The weights are factored by singular values: `W = (U S) V^T` of rank r, so that only r
    combinations of the components are turned: 1 for a scalar, 2 for circular, 3 for linear
    polarisation and for the difference of two.
    """
    left, singular, right = np.linalg.svd(weights, full_matrices=False)
    rank = max(1, int(np.sum(singular > _RANK_TOLERANCE * singular[0])))
    if right.shape == (1, 1):
        left, right = left * right, np.abs(right)
    box = _box_around(support, volume_shape)
    z, y, x = (
        (part.start - n // 2, part.stop - 1 - n // 2)
        for part, n in zip(box, volume_shape, strict=True)
    )
    gamma, beta = axis_turns(group.base[1])
    about_z = plan_turn(gamma, second=y, first=x)
    ny = image_shape[0]
    rows = (-(ny // 2), ny - 1 - ny // 2)
    about_x = plan_turn(beta, second=z, first=about_z.after[0], seen=rows)
    cosines, sines = np.cos(group.angles_rad), np.sin(group.angles_rad)
    reach = max(abs(edge) for edge in (*about_x.after[0], *about_z.after[1]))
    far = _REACH[0 if about_z.trivial or about_x.trivial else 1]
    own = slices.footprint_sharpening(cosines, sines, float(reach))
    blur = point_spread_px**2 / 2.0
    return Series(
        indices=group.indices,
        components=np.ascontiguousarray(right[:rank].T, dtype=np.float32),
        coefficients=np.ascontiguousarray(left[:, :rank] * singular[:rank], dtype=np.float32),
        cosines=cosines,
        sines=sines,
        footprint=slices.footprints(cosines, sines),
        filled=_filled_rows((z, y, x), far, group.base, about_z.after[1], _seen_rows(about_x, ny)),
        sharpening=((own - blur).astype(np.float32), -blur),
        about_z=about_z,
        about_x=about_x,
        box=box,
        image_shape=image_shape,
    )


def _seen_rows(about_x: PlaneTurn, ny: int) -> Range:
    low, high = about_x.after[1]
    return max(low, -(ny // 2)), min(high, ny - 1 - ny // 2)


def _box_around(
    support: NDArray[np.bool_] | None, volume_shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """Part (z, y, x) of the volume: the support and `_MARGIN` voxels around it."""
    parts = []
    for axis, n in enumerate(volume_shape):
        low, high = 0, n
        if support is not None and support.any():
            others = tuple(k for k in range(3) if k != axis)
            filled = np.flatnonzero(support.any(axis=others))
            low, high = max(0, filled[0] - _MARGIN), min(n, filled[-1] + 1 + _MARGIN)
        parts.append(slice(int(low), int(high)))
    return parts[0], parts[1], parts[2]


def _filled_rows(
    box: tuple[Range, Range, Range],
    reach: int,
    base: NDArray[np.float64],
    columns: Range,
    rows: Range,
) -> NDArray[np.int64]:
    """Rows of each turned column x' in which the turned box can show.

    Parameters
    ----------
    box : ranges (z, y, x) of the field.
    reach : voxels beyond it that count too.
    base : (3, 3) rotation of the turn.
    columns, rows : ranges x' and y' of the turned volume.

    Returns
    -------
    (nx', 2) int64, the first row and the one behind the last, counted from the first of `rows`, in
    steps of `_STEP`.
    """
    n_rows = max(0, _size(rows))
    edges = [(low - reach, high + reach) for low, high in box]
    corners = np.array([(x, y, z) for z in edges[0] for y in edges[1] for x in edges[2]])
    across, along = (corners @ base.T)[:, :2].T
    pairs = np.array([(i, i ^ bit) for i in range(8) for bit in (1, 2, 4) if i < i ^ bit])
    middle = np.arange(columns[0], columns[1] + 1)
    lowest, highest = np.full(len(middle), np.inf), np.full(len(middle), -np.inf)
    # The shadow of a box is bounded by shadows of its twelve edges.
    for i, j in pairs:
        (left, first), (right, last) = sorted([(across[i], along[i]), (across[j], along[j])])
        near = (middle >= left - 1.0) & (middle <= right + 1.0)
        part = np.clip((middle - left) / max(right - left, 1e-9), 0.0, 1.0)
        ends = (first, last) if right - left < 2.0 else (first + part * (last - first),) * 2
        lowest = np.where(near, np.minimum(lowest, np.minimum(*ends)), lowest)
        highest = np.where(near, np.maximum(highest, np.maximum(*ends)), highest)
    low = np.floor((np.where(np.isfinite(lowest), lowest, 0.0) - rows[0]) / _STEP) * _STEP
    high = np.ceil((np.where(np.isfinite(highest), highest + 1.0, 0.0) - rows[0]) / _STEP) * _STEP
    empty = ~np.isfinite(lowest)
    low, high = np.clip(low, 0, n_rows), np.clip(high, 0, n_rows)
    low, high = np.where(empty, 0, low), np.where(empty, 0, np.maximum(low, high))
    return np.stack([low, high], axis=1).astype(np.int64)
