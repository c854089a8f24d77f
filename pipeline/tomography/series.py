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
from pipeline.tomography.kernels import slices
from pipeline.tomography.kernels.twins import CPU, CpuKernels, Kernels
from pipeline.tomography.planes import PlaneTurn, Range, plan_turn, size_of
from pipeline.tomography.spectra import (
    SliceSpectra,
    Window,
    cheapest_window,
    plan_spectra,
    spectra_cost,
)

_MARGIN = 5
"""Voxels around a support that are turned with it: a spline falls to a part in a thousand there."""

_REACH = (3, 16)
"""Voxels beyond its box in which a field shows that was turned by splines once: what their taps
reach; and twice: what the second ones, of an infinite response, have left of it is 1e-9."""

_STEP = 16
"""Rows that a processor adds at a time."""

_NS_COLUMN, _NS_VOXEL, _NS_FIELD = 30.0, 0.1, 0.25
"""Of footprints there and back, one thread: for each column of voxels and angle, each voxel and
angle, and each of its fields [ns]; measured figures: `kernels/README.md`."""

_RANK_TOLERANCE = 1e-10
"""Combinations whose singular value is smaller, relative to the largest, are rounding."""


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
    filled_z : (nz', 2) int64, the same of each z'.
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
    filled_z: NDArray[np.int64]
    sharpening: tuple[NDArray[np.float32], float]
    about_z: PlaneTurn
    about_x: PlaneTurn
    box: tuple[slice, slice, slice]
    image_shape: tuple[int, int]
    spectra: SliceSpectra | None = None

    def with_spectra(self) -> Series:
        """The same by lines of the slices' spectra."""
        lines = plan_spectra(
            *self._slices,
            self.coefficients,
            self.image_shape[1],
            self.indices,
            -self.sharpening[1],
            self._window,
        )
        return replace(self, spectra=lines)

    def costs(self) -> tuple[float, float]:
        """Time that all slices take there and back [ns]: by footprints, and by spectra."""
        k, r = self.coefficients.shape
        z = self._turned_shape[1]
        voxels = z * float(np.sum(self.filled[:, 1] - self.filled[:, 0]))
        shares = _NS_COLUMN * z * len(self.filled) + (_NS_VOXEL + r * _NS_FIELD) * voxels
        lines = spectra_cost(*self._slices, r, self.image_shape[1], self._window)
        return k * shares, max(0, size_of(self._seen)) * lines

    @property
    def _z_last(self) -> bool:
        """Whether turned volumes lie as (r, y', x', z) in memory, which spares a transposition."""
        return self.about_x.nothing and not self.about_z.nothing

    @property
    def _slices(
        self,
    ) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[Range, Range]]:
        """What a shadow moves by along the axes of a slice, and their ranges; contiguous last."""
        steps, box = (self.sines, self.cosines), (self.about_x.after[0], self.about_z.after[1])
        return (steps[::-1], box[::-1]) if self._z_last else (steps, box)

    @property
    def _window(self) -> Window | None:
        """Part of the slices that spectra are taken of."""
        axes = [self.filled, self.filled_z] if self._z_last else [self.filled_z, self.filled]
        rows = np.arange(size_of(self._seen))[:, None]
        found = []
        for axis, filled in enumerate(axes):
            if len(filled) == 0 or len(rows) == 0:
                continue
            inside = (filled[:, 0] <= rows) & (rows < filled[:, 1])
            first, behind = inside.argmax(axis=1), inside.shape[1] - inside[:, ::-1].argmax(axis=1)
            empty = ~inside.any(axis=1)
            first[empty], behind[empty] = inside.shape[1], 0
            ranges = np.stack([first, behind], axis=1).astype(np.int64)
            window = cheapest_window(*self._slices, self.image_shape[1], ranges, axis)
            if window is not None:
                cost = spectra_cost(*self._slices, 1, self.image_shape[1], window)
                found.append((cost, axis, window))
        return min(found)[2] if found else None

    @property
    def _seen(self) -> Range:
        """Range of y' that lies both in the turned volume and on the detector."""
        return _seen_rows(self.about_x, self.image_shape[0])

    def forward(self, field: Any, stack: Any, kernels: Kernels = CPU) -> None:
        """Write the projections of `field` (c, z, y, x) float32 into `stack` (n, ny, nx)."""
        xp = kernels.xp
        turned = self._turned(field, kernels)
        if self.spectra is not None and isinstance(kernels, CpuKernels):
            volume = self._lines_last(turned)
            self.spectra.project(volume, self._cut, stack, self._rows.start, kernels)
            return
        volume = self._rows_last(turned, kernels)
        k, nx, rows = len(self.indices), self.image_shape[1], volume.shape[3]
        images = xp.zeros((k, nx + 2, rows), np.float32)
        kernels.project_slices(volume, *self._slice_arguments(), images)
        sharp = xp.empty((k, nx, rows), np.float32)
        kernels.sharpen(images, *self.sharpening, sharp)
        stack[xp.asarray(self.indices), self._rows] = kernels.transposed(sharp[None])[0]

    def back_project(self, stack: Any, kernels: Kernels = CPU, *, overwrite: bool = False) -> Any:
        """What `add` adds of its part of `stack` (n, ny, nx), which it may use as scratch."""
        xp = kernels.xp
        r, z, y, x = self._turned_shape
        # Rows that the detector does not see are zero.
        if self._z_last:
            turned = xp.zeros((r, y, x, z), np.float32).transpose(0, 3, 1, 2)
        else:
            turned = xp.zeros((r, z, y, x), np.float32)
        if self.spectra is not None and isinstance(kernels, CpuKernels):
            volume = self._lines_last(turned)
            rows = self._rows.start, self._cut
            self.spectra.back_project(stack, *rows, volume, kernels, overwrite=overwrite)
        else:
            self._back_project_footprints(stack, turned, kernels)
        return self._turned_back(turned, kernels)

    def add(
        self, back: Any, field: Any, volume_shape: tuple[int, int, int], kernels: Kernels = CPU
    ) -> Any:
        """Add what `back_project` made to `field` (c, z, y, x), or to zeros where that is None."""
        if field is None:
            field = kernels.xp.zeros((len(self.components), *volume_shape), np.float32)
        part = self._boxed(field)
        total = kernels.xp.ascontiguousarray(part)
        kernels.add_spread(_flat(back), self.components, _flat(total))
        if part.shape != field.shape:
            part[...] = total
        return field

    def _back_project_footprints(self, stack: Any, turned: Any, kernels: Kernels) -> None:
        """Overwrite the rows of `turned` (r, z', y', x') that the detector sees."""
        xp = kernels.xp
        part = stack[xp.asarray(self.indices), self._rows]
        sharp = kernels.transposed(part[None])[0]
        images = xp.empty((part.shape[0], part.shape[2] + 2, part.shape[1]), np.float32)
        kernels.sharpen_adjoint(sharp, *self.sharpening, images)
        r, z, _, x = self._turned_shape
        volume = xp.empty((r, z, x, images.shape[2]), np.float32)
        kernels.back_project_slices(images, *self._slice_arguments(), volume)
        low, high = self._cut
        seen = turned[:, :, low : high + 1]
        if self._z_last:
            kernels.transpose_planes(volume.swapaxes(1, 2), seen.transpose(0, 3, 2, 1))
        else:
            kernels.transpose_planes(volume, seen)

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
        tables = self.coefficients, self.cosines, self.sines, self.footprint, self.filled
        return *tables, self.about_x.after[0][0], self.about_z.after[1][0]

    def _turned(self, field: Any, kernels: Kernels) -> Any:
        """Field (c, z, y, x) to its combinations (r, z', y', x'), of any strides."""
        turned = self._combined(self._boxed(field), kernels)
        if not self.about_z.nothing:
            turned = self.about_z.forward(turned.transpose(0, 2, 3, 1), kernels)
            turned = turned.transpose(0, 3, 1, 2)
        return turned if self.about_x.nothing else self.about_x.forward(turned, kernels)

    def _combined(self, field: Any, kernels: Kernels) -> Any:
        """(c, z, y, x) to the r combinations (r, z, y, x)."""
        if self.components.shape == (1, 1):
            # The one component itself: `plan_series` sees to the sign.
            return field
        field = kernels.xp.ascontiguousarray(field)
        mixed = kernels.xp.empty((self.components.shape[1], *field.shape[1:]), np.float32)
        kernels.combine(_flat(field), self.components, _flat(mixed))
        return mixed

    def _turned_back(self, turned: Any, kernels: Kernels) -> Any:
        """Adjoint of the turns of `_turned`: (r, z, y, x) of the box."""
        xp, r = kernels.xp, len(turned)
        z, y, x = (part.stop - part.start for part in self.box)
        if not self.about_x.nothing:
            if self.about_z.nothing:
                back = xp.empty((r, z, y, x), np.float32)
            else:
                rows, columns = (size_of(axis) for axis in self.about_z.after)
                back = xp.empty((r, rows, columns, z), np.float32).transpose(0, 3, 1, 2)
            self.about_x.adjoint(turned, back, kernels)
            turned = back
        if not self.about_z.nothing:
            back = xp.empty((r, z, y, x), np.float32)
            there = back.transpose(0, 2, 3, 1)
            self.about_z.adjoint(turned.transpose(0, 2, 3, 1), there, kernels)
            turned = back
        return turned

    def _lines_last(self, turned: Any) -> Any:
        """(r, z', y', x') as the slices' axes follow in `_slices`, with y' between them."""
        return turned.transpose(0, 3, 2, 1) if self._z_last else turned

    def _rows_last(self, turned: Any, kernels: Kernels) -> Any:
        """(r, z', y', x') to (r, z', x', y') contiguous, cut to the rows that the detector sees."""
        low, high = self._cut
        seen = turned[:, :, low : high + 1]
        r, z, y, x = seen.shape
        volume = kernels.xp.empty((r, z, x, y), np.float32)
        if self._z_last:
            kernels.transpose_planes(seen.transpose(0, 3, 2, 1), volume.swapaxes(1, 2))
        else:
            kernels.transpose_planes(seen, volume)
        return volume

    @property
    def _turned_shape(self) -> tuple[int, int, int, int]:
        sizes = (size_of(axis) for axis in (*self.about_x.after, self.about_z.after[1]))
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
    seen = _seen_rows(about_x, ny)
    return Series(
        indices=group.indices,
        components=np.ascontiguousarray(right[:rank].T, dtype=np.float32),
        coefficients=np.ascontiguousarray(left[:, :rank] * singular[:rank], dtype=np.float32),
        cosines=cosines,
        sines=sines,
        footprint=slices.footprints(cosines, sines),
        filled=_filled_rows((z, y, x), far, group.base[[0, 1]], about_z.after[1], seen),
        filled_z=_filled_rows((z, y, x), far, group.base[[2, 1]], about_x.after[0], seen),
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
    """Rows of each turned column, x' or z', in which the turned box can show.

    Parameters
    ----------
    box : ranges (z, y, x) of the field.
    reach : voxels beyond it that count too.
    base : (2, 3) rows of the turn that give the column and y'.
    columns, rows : ranges of the columns and y' of the turned volume.

    Returns
    -------
    (columns, 2) int64, the first row and the one behind the last, counted from the first of `rows`,
    in steps of `_STEP`.
    """
    n_rows = max(0, size_of(rows))
    edges = [(low - reach, high + reach) for low, high in box]
    corners = np.array([(x, y, z) for z in edges[0] for y in edges[1] for x in edges[2]])
    across, along = (corners @ base.T).T
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
