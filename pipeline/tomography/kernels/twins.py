"""The kernels by name, on the processor (numba) and on a GPU (`project.cu`): one signature.

Arrays decide: what lies on the GPU is computed there, and its result stays there.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backend import Launch, array_module, launcher
from pipeline.tomography.kernels import layout, polar, slices, splat, turn

SOURCE = Path(__file__).with_name("project.cu")

FIELDS = 8
"""Fields that one thread of a GPU adds up at once: `FIELDS` of the source."""


class CpuKernels:
    """Compiled by numba; arrays of numpy."""

    xp: Any = np
    combine = staticmethod(layout.combine)
    add_spread = staticmethod(layout.add_spread)
    copy_planes = staticmethod(layout.copy_planes)
    transpose_planes = staticmethod(layout.transpose_planes)
    transposed = staticmethod(layout.transposed)
    spline_coefficients = staticmethod(turn.spline_coefficients)
    turn_plane = staticmethod(turn.turn_plane)
    turn_plane_adjoint = staticmethod(turn.turn_plane_adjoint)
    project_slices = staticmethod(slices.project_slices)
    back_project_slices = staticmethod(slices.back_project_slices)
    sharpen = staticmethod(slices.sharpen)
    sharpen_adjoint = staticmethod(slices.sharpen_adjoint)
    load_slab = staticmethod(polar.load_slab)
    store_slab = staticmethod(polar.store_slab)
    transform_columns = staticmethod(polar.transform_columns)
    take_lines = staticmethod(polar.take_lines)
    spread_lines = staticmethod(polar.spread_lines)
    load_lines = staticmethod(polar.load_lines)
    filter_rows = staticmethod(polar.filter_rows)
    gather = staticmethod(splat.gather_field)
    splat = staticmethod(splat.splat_field)


class DeviceKernels:
    """Kernels of `project.cu`.

    Parameters
    ----------
    xp : array module of the device.
    launch : starts a kernel by its name on a number of threads, `backend.launcher`.
    """

    def __init__(self, xp: Any, launch: Launch) -> None:
        self.xp = xp
        self._launch = launch

    def combine(self, field: Any, components: Any, mixed: Any) -> None:
        """Twin of `layout.combine`."""
        (c, n), r = field.shape, mixed.shape[0]
        sizes = np.int32(c), np.int32(r), np.int64(n)
        self._launch("combine", r * n, field, self._small(components, np.float32), mixed, *sizes)

    def add_spread(self, mixed: Any, components: Any, field: Any) -> None:
        """Twin of `layout.add_spread`."""
        (c, n), r = field.shape, mixed.shape[0]
        sizes = np.int32(c), np.int32(r), np.int64(n)
        self._launch("add_spread", c * n, mixed, self._small(components, np.float32), field, *sizes)

    def copy_planes(self, source: Any, pad: int, target: Any) -> None:
        """Twin of `layout.copy_planes`."""
        a, b = source.shape[1:3]
        if pad:
            target[...] = 0.0
        target[:, pad : a + pad, pad : b + pad] = source

    def transpose_planes(self, source: Any, target: Any) -> None:
        """Twin of `layout.transpose_planes`."""
        target[...] = source.swapaxes(2, 3)

    def transposed(self, source: Any) -> Any:
        """Twin of `layout.transposed`."""
        return self.xp.ascontiguousarray(source.swapaxes(2, 3))

    def spline_coefficients(self, padded: Any) -> None:
        """Twin of `turn.spline_coefficients`."""
        r, size2, size1, nc = padded.shape
        n2, n1, row = size2 - 2 * turn.PAD, size1 - 2 * turn.PAD, size1 * nc
        # Lines along the first axis of the plane; those in the border are zero and stay so.
        across = r * size2, nc, row, nc, turn.PAD * nc
        along = r, row, size2 * row, row, turn.PAD * row
        for n, (outer, inner, block, step, first) in ((n1, across), (n2, along)):
            self._launch(
                "spline_lines", outer * inner, padded, self._small(turn.pivots(n), np.float32),
                np.int32(n), *(np.int64(i) for i in (outer, inner, block, step, first)),
            )  # fmt: skip

    def turn_plane(
        self, padded: Any, cosine: float, sine: float, low_in: Any, low_out: Any, turned: Any
    ) -> None:
        """Twin of `turn.turn_plane`."""
        numbers = self._plane(padded, cosine, sine, low_in, low_out, turned)
        self._launch("turn_plane", turned.size, padded, turned, *numbers)

    def turn_plane_adjoint(
        self, turned: Any, cosine: float, sine: float, low_in: Any, low_out: Any, padded: Any
    ) -> None:
        """Twin of `turn.turn_plane_adjoint`."""
        numbers = self._plane(padded, cosine, sine, low_in, low_out, turned)
        self._launch("turn_plane_adjoint", padded.size, turned, padded, *numbers)

    @staticmethod
    def _plane(
        padded: Any, cosine: float, sine: float, low_in: Any, low_out: Any, turned: Any
    ) -> tuple[Any, ...]:
        r, size2, size1, nc = padded.shape
        sizes = *low_in, *low_out, r, size2, size1, *turned.shape[1:3], nc
        return np.float64(cosine), np.float64(sine), *(np.int32(n) for n in sizes)

    def project_slices(
        self, volume: Any, coefficients: Any, cosines: Any, sines: Any, footprint: Any,
        filled: Any, z_low: int, x_low: int, images: Any,
    ) -> None:  # fmt: skip
        """Twin of `slices.project_slices`; rows that are not `filled` are read as well."""
        del filled
        r, nz, nx, ny = volume.shape
        sizes = z_low, x_low, r, r, nz, nx, ny, *images.shape[:2]
        angles = self._angles(coefficients, cosines, sines, footprint)
        self._launch(
            "project_slices", images.size, volume, *angles, images, *(np.int32(n) for n in sizes)
        )

    def back_project_slices(
        self, images: Any, coefficients: Any, cosines: Any, sines: Any, footprint: Any,
        filled: Any, z_low: int, x_low: int, volume: Any,
    ) -> None:  # fmt: skip
        """Twin of `slices.back_project_slices`; rows that are not `filled` are written as well."""
        del filled
        r, nz, nx, ny = volume.shape
        for first in range(0, r, FIELDS):
            part = volume[first : first + FIELDS]
            seen = np.ascontiguousarray(coefficients[:, first : first + FIELDS])
            sizes = z_low, x_low, len(part), len(part), nz, nx, ny, *images.shape[:2]
            angles = self._angles(seen, cosines, sines, footprint)
            self._launch(
                "back_project_slices", nz * nx * ny, images, *angles, part,
                *(np.int32(n) for n in sizes),
            )  # fmt: skip

    def _angles(self, coefficients: Any, cosines: Any, sines: Any, footprint: Any) -> list[Any]:
        return [
            self._small(coefficients, np.float32), self._small(cosines, np.float64),
            self._small(sines, np.float64), self._small(footprint, np.float32),
        ]  # fmt: skip

    def sharpen(self, images: Any, side: Any, rows: float, sharp: Any) -> None:
        """Twin of `slices.sharpen`."""
        sizes = (np.int32(n) for n in sharp.shape)
        side = self._small(side, np.float32)
        self._launch("sharpen", sharp.size, images, side, np.float32(rows), sharp, *sizes)

    def sharpen_adjoint(self, sharp: Any, side: Any, rows: float, images: Any) -> None:
        """Twin of `slices.sharpen_adjoint`."""
        sizes = (np.int32(n) for n in sharp.shape)
        side = self._small(side, np.float32)
        self._launch("sharpen_adjoint", images.size, sharp, side, np.float32(rows), images, *sizes)

    def splat(
        self, field: Any, offsets: Any, rows: Any, weights: Any, support: Any, images: Any
    ) -> None:
        """Twin of `splat.splat_field`."""
        if support is not None:
            field = field * self.xp.asarray(support)
        sizes = len(field), len(offsets), *field.shape[1:], *images.shape
        self._launch(
            "splat", images.size, self.xp.ascontiguousarray(field),
            *self._rays(offsets, rows, weights), images, *(np.int32(n) for n in sizes),
        )  # fmt: skip

    def gather(
        self, images: Any, offsets: Any, rows: Any, weights: Any, support: Any, field: Any
    ) -> None:
        """Twin of `splat.gather_field`."""
        rays = self._rays(offsets, rows, weights)
        c = len(field)
        for first in range(0, c, FIELDS):
            sizes = c, first, min(FIELDS, c - first), len(offsets), *field.shape[1:], *images.shape
            self._launch(
                "gather", field[0].size, images, *rays, field, *(np.int32(n) for n in sizes)
            )
        if support is not None:
            field *= self.xp.asarray(support)

    def _rays(self, offsets: Any, rows: Any, weights: Any) -> list[Any]:
        return [
            self._small(offsets, np.float64), self._small(rows, np.float64),
            self._small(weights, np.float32),
        ]  # fmt: skip

    def _small(self, table: Any, dtype: Any) -> Any:
        """A table of the plan, on the device."""
        return self.xp.asarray(np.ascontiguousarray(table, dtype=dtype))


Kernels = CpuKernels | DeviceKernels
"""What the projector computes with; arguments as in the modules of the same names."""

CPU = CpuKernels()


@functools.cache
def _on_device(xp: Any) -> DeviceKernels:
    return DeviceKernels(xp, launcher(SOURCE.read_text(encoding="utf-8")))


def kernels_of(array: Any) -> Kernels:
    """Kernels for where `array` lies."""
    xp = array_module(array)
    return CPU if xp is np else _on_device(xp)
