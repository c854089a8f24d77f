"""Projections about the grid's own y axis by lines of the slices' spectra.

The spectrum of a slice's projection is a line through the slice's own spectrum (Bracewell 1956).
Lines are interpolated in a spectrum on a grid a quarter finer than the slice needs, from `TAPS²`
neighbours with the exponential-of-semicircle kernel of `finufft` (Barnett, Magland and af
Klinteberg 2019, doi 10.1137/18M120885X). What that library does for every slice anew, finding the
neighbours and their weights, is done once here for all slices, which run through the same loops
side by side; every number is summed in one order, however many threads there are.

A field's grid points stand for a band-limited function: nothing is blurred, and nothing has to be
sharpened. Images are periodic, on a frame so wide that what wraps round stays beside what is
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.tomography.kernels.lanes import TAPS
from pipeline.tomography.kernels.lanes_fourier import plan_points
from pipeline.tomography.kernels.polar import Points
from pipeline.tomography.kernels.twins import CpuKernels
from pipeline.tomography.planes import Range

_FINER = 1.25
"""Points of the spectrum along an axis for each voxel: less would need more taps."""

_TAIL = 4
"""Columns beyond the shadow of the volume up to which images are looked at, and columns between
those and what wraps round: the shadow of a band-limited voxel has a tail."""

_SLAB_BYTES = 320 * 2**20
"""Most of the spectrum and the lines of the slices that are computed at a time."""

_LANES = 8
"""Pairs of slices that fill a register of sixteen numbers."""

_SAME_SETS = 4096
"""Bytes after which places in a first level cache come again, on every common processor."""

_CACHE_LINE = 64
"""Bytes of a line of the cache."""

_NODES = 64
"""Of the quadrature of the kernel's transform: exact to rounding."""

_NS_SPECTRUM, _NS_TAPS, _NS_LINES = 12.0, 8.7, 5.5
"""Of one slice there and back, one thread: for each point of its spectrum and field, for each point
of its lines and field, and for each point of its lines [ns]. Two to three times what it takes by
now: see `kernels/README.md`."""

_MOST_LANES = 32
"""Pairs of slices beyond which a slab gains nothing: all inner loops are long then."""


@dataclass(frozen=True)
class Window:
    """Part of every slice that holds anything, where a turned field lies aslant in its box.

    Slices that are computed together share a part of one size, which moves from slab to slab.

    Attributes
    ----------
    axis : of the slices, 0 or 1, along which the part moves.
    size : its elements along that axis.
    filled : (ny, 2) int64, for each slice that is seen its first element there that can hold
        anything, and the one behind the last.
    low : coordinate of the slices' first element there.
    """

    axis: int
    size: int
    filled: NDArray[np.int64]
    low: int

    def first(self, start: int, end: int, n: int) -> int:
        """First element of the part that slices `start` to `end` share, of `n` along the axis."""
        return int(np.clip(self.filled[start:end, 0].min(), 0, n - self.size))

    @property
    def box(self) -> Range:
        """Range that lines are planned for: the part, around the axis of rotation."""
        return -(self.size // 2), self.size - 1 - self.size // 2


@dataclass(frozen=True)
class SliceSpectra:
    """Forward and adjoint projection of one series' slices.

    Attributes
    ----------
    corners, taps, factors : tables of `kernels.polar.take_lines`, for k lines of n points.
    coefficients : (k, r) float32 what each projection takes of each field.
    scales : (nz,) and (nx,) float32, what undoes the kernel's blur of the slices.
    grid : (mz, mx) points of the spectra.
    columns : of the images, the first that the lines become and the one behind the last; they are
        cut off at the image's edges.
    n_columns : of an image.
    steps : (k,) float64, columns that the shadow moves by with a voxel along the window's axis.
    window : part of the slices that lines are planned for; all of them when absent.
    indices : (k,) int64 positions of the images in the stack.
    blur : half the variance of the point spread [pixel²].
    above : (mz + 1,) int64, points of all lines whose first row lies above each row.
    """

    corners: NDArray[np.int32]
    taps: NDArray[np.float32]
    factors: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    scales: tuple[NDArray[np.float32], NDArray[np.float32]]
    grid: tuple[int, int]
    columns: tuple[int, int]
    n_columns: int
    indices: NDArray[np.int64]
    blur: float
    above: NDArray[np.int64]
    steps: NDArray[np.float64]
    window: Window | None = None

    def project(
        self, volume: Any, rows: Range, stack: Any, first: int, kernels: CpuKernels
    ) -> None:
        """Write the projections of slices into the images of this series.

        Parameters
        ----------
        volume : (r, nz, ny, nx) float32, turned.
        rows : first and last of its slices across y that are projected.
        stack : (n, ny', nx') float32, changed in place.
        first : row of the images that the first slice becomes.
        kernels : where the arrays lie.
        """
        low, end = rows[0], rows[1] + 1
        grids = self._scratch(end - low)
        mx, points = self.grid[1], self._points
        for start in range(low, end, 2 * grids.shape[3]):
            part, shift = self._part(volume, start - low, 2 * grids.shape[3])
            before, behind = self._filled(part.shape[1])
            factors, columns = self._shifted(shift)
            for field, grid in zip(part, grids, strict=True):
                grid[before.stop : behind.start] = 0.0
                kernels.load_slab(field, start, end, *self.scales, mx, points[1], _parts(grid))
            width = 2 * grids.shape[3]
            kernels.transform_columns(_flat(grids), mx, width, points[0], True)
            tables = self.corners, self.taps, factors, self.coefficients
            rows_there = start + first - low, end + first - low
            kernels.take_lines(
                _flat(grids),
                *tables,
                mx,
                width,
                points[2],
                self.indices,
                rows_there,
                columns,
                stack,
            )
        if self.blur:
            there = first - low
            kernels.filter_rows(stack, self.indices, first, end + there, self.blur)

    def back_project(
        self,
        stack: Any,
        first: int,
        rows: Range,
        volume: Any,
        kernels: CpuKernels,
        *,
        overwrite: bool = False,
    ) -> None:
        """Adjoint of `project`: overwrite what can be filled of the slices `rows` of `volume`.

        Arguments as there; the images are scratch if they may be overwritten.
        """
        low, end = rows[0], rows[1] + 1
        there, indices = first - low, self.indices
        if self.blur:
            if not overwrite:
                stack = stack[indices]
                indices = np.arange(len(indices))
            kernels.filter_rows(stack, indices, first, end + there, self.blur)
        grids = self._scratch(end - low)
        width = 2 * grids.shape[3]
        lines = _aligned((*self.corners.shape[:2], grids.shape[3]))
        bands, mx, points = self._bands(), self.grid[1], self._points
        for start in range(low, end, 2 * grids.shape[3]):
            part, shift = self._part(volume, start - low, 2 * grids.shape[3])
            factors, columns = self._shifted(shift)
            rows_there = start + there, end + there
            kernels.load_lines(stack, indices, rows_there, columns, points[2], _flat(lines))
            tables = self.corners, self.taps, factors, self.coefficients
            kernels.spread_lines(_flat(lines), *tables, bands, mx, _flat(grids))
            kernels.transform_columns(_flat(grids), mx, width, points[0], False)
            for field, grid in zip(part, grids, strict=True):
                kernels.store_slab(_parts(grid), start, end, *self.scales, mx, points[1], field)

    def _part(self, volume: Any, start: int, count: int) -> tuple[Any, int]:
        """What some slices can hold, and how far that lies from where lines are planned for it.

        Parameters
        ----------
        volume : (r, nz, ny, nx) float32.
        start, count : the slices, counted from the first that is seen.
        """
        window = self.window
        if window is None:
            return volume, 0
        n = volume.shape[1 if window.axis == 0 else 3]
        first = window.first(start, start + count, n)
        here = slice(first, first + window.size)
        part = volume[:, here] if window.axis == 0 else volume[..., here]
        return part, window.low + first - window.box[0]

    def _shifted(self, shift: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Factors of the points, and where the lines lie, for slices that lie `shift` further.

        Returns
        -------
        factors : as the attribute.
        columns : (k, 3) int64: of the image, the first and the one behind the last; the point of
            the line that the first is.
        """
        moved = shift * self.steps
        whole = np.rint(moved)
        factors = self.factors
        if shift:
            frequencies = 2.0 * np.pi * np.fft.fftfreq(factors.shape[1])
            turns = np.exp(1j * np.outer(whole - moved, frequencies)).astype(np.complex64)
            factors = _parts(turns * factors.view(np.complex64)[..., 0])
        begin = self.columns[0] + whole.astype(np.int64)
        first = np.clip(begin, 0, self.n_columns)
        end = np.clip(begin + self.columns[1] - self.columns[0], first, self.n_columns)
        return factors, np.stack([first, end, first - begin], axis=1)

    @property
    def _points(self) -> tuple[Points, Points, Points]:
        """Parts and factors of the transforms along the spectra's axes and the lines."""
        columns, rows = (plan_points(m) for m in self.grid)
        return columns, rows, plan_points(self.corners.shape[1])

    def _scratch(self, rows: int) -> NDArray[np.complex64]:
        """Room for the spectra (r, mz, mx + spare, lanes) of one slab."""
        k, n = self.corners.shape[:2]
        r = self.coefficients.shape[1]
        held = 8 * (k * n + r * self.grid[0] * self.grid[1])
        most = min(_MOST_LANES, max(_LANES, _SLAB_BYTES // held // _LANES * _LANES))
        slabs = max(1, -(-rows // (2 * most)))
        lanes = max(1, -(-rows // (2 * slabs * _LANES))) * _LANES
        mz, mx = self.grid
        return _aligned((r, mz, mx + _spare_columns(mx, lanes), lanes))

    def _filled(self, nz: int) -> tuple[slice, slice]:
        """Rows of the grid that hold slices: those from the middle on, and those before it."""
        return slice(0, nz - nz // 2), slice(self.grid[0] - nz // 2, self.grid[0])

    def _bands(self) -> NDArray[np.int64]:
        """Ends of bands of rows with about the same number of points, one for each thread."""
        shares = np.linspace(0, self.above[-1], numba.get_num_threads() + 1)
        # The middle row of the taps of a point stands for it.
        ends = np.searchsorted(self.above, shares, side="left") + TAPS // 2
        ends[0], ends[-1] = 0, self.grid[0]
        return np.clip(ends, 0, self.grid[0]).astype(np.int64)


def _aligned(shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Uninitialised array whose vectors of sixteen numbers do not straddle lines of the cache."""
    size = 8 * int(np.prod(shape))
    room = np.empty(size + _CACHE_LINE, np.uint8)
    first = -room.ctypes.data % _CACHE_LINE
    return room[first : first + size].view(np.complex64).reshape(shape)


def _parts(values: NDArray[np.complex64]) -> NDArray[np.float32]:
    """(..., lanes) as (..., lanes, 2)."""
    return values.view(np.float32).reshape(*values.shape, 2)


def _flat(values: NDArray[np.complex64]) -> NDArray[np.float32]:
    """As float32, all axes behind the first two in one."""
    return values.view(np.float32).reshape(*values.shape[:2], -1)


def _spare_columns(columns: int, lanes: int) -> int:
    """Columns that a row of the grid is longer by than its points.

    Rows whose beginnings lie a multiple of `_SAME_SETS` apart share their places in the first
    level cache, which then holds two rows of taps instead of all.
    """
    spare = 0
    while not 1 / 8 <= (columns + spare) * lanes * 8 % _SAME_SETS / _SAME_SETS <= 7 / 8:
        spare += 1
    return spare


def plan_spectra(
    steps: tuple[NDArray[np.float64], NDArray[np.float64]],
    box: tuple[Range, Range],
    coefficients: NDArray[np.float32],
    n_columns: int,
    indices: NDArray[np.int64],
    blur: float,
    window: Window | None = None,
) -> SliceSpectra:
    """Plan the lines of one series.

    Parameters
    ----------
    steps : (k,) float64 each, columns that the shadow moves by with a voxel along either axis of a
        slice: sines and cosines of the rotation for axes (z, x).
    box : ranges of these axes.
    coefficients : (k, r) float32 what each projection takes of each field.
    n_columns : of the detector.
    indices, blur : as in `SliceSpectra`.
    window : part of the slices to plan for, `cheapest_window`.
    """
    n_points, first, seen = _frame(steps, box, n_columns, window)
    box = _boxes(box, window)
    frequencies = 2.0 * np.pi * np.fft.fftfreq(n_points)
    # Where the first point lies, seen from the detector's middle.
    phases = np.outer(np.ones(len(coefficients)), frequencies * (first - n_columns // 2))
    corners = np.empty((*phases.shape, 2), np.int32)
    taps = np.empty((*phases.shape, 2, TAPS), np.float32)
    grid, scales = [], []
    for axis, (step, (low, high)) in enumerate(zip(steps, box, strict=True)):
        along = np.outer(step, frequencies)
        n = high - low + 1
        m = _spectrum_size(n)
        phases -= along * (low + n // 2)
        corners[:, :, axis], taps[:, :, axis] = _neighbours(along * (m / (2.0 * np.pi)), n, m)
        scales.append(_scale(n, m))
        grid.append(m)
    # The same three taps across the columns as `filter_rows` takes across the rows.
    passed = 1.0 - 4.0 * blur * np.sin(frequencies / 2.0) ** 2
    above = np.cumsum(np.bincount(corners[:, :, 0].ravel() + 1, minlength=grid[0] + 1))
    return SliceSpectra(
        corners=corners,
        taps=taps,
        factors=_parts((passed * np.exp(1j * phases)).astype(np.complex64)),
        coefficients=coefficients,
        scales=(scales[0], scales[1]),
        grid=(grid[0], grid[1]),
        columns=(first, first + seen),
        n_columns=n_columns,
        steps=np.zeros(len(coefficients)) if window is None else steps[window.axis],
        window=window,
        indices=indices,
        blur=blur,
        above=above,
    )


def cheapest_window(
    steps: tuple[NDArray[np.float64], NDArray[np.float64]],
    box: tuple[Range, Range],
    n_columns: int,
    filled: NDArray[np.int64],
    axis: int,
) -> Window | None:
    """The part of the slices to plan lines for, or None where all of them cost no more.

    Parameters
    ----------
    steps, box, n_columns : as in `plan_spectra`.
    filled, axis : as in `Window`; slices that hold nothing begin behind their end.
    """
    low, high = box[axis]
    most = 2 * _MOST_LANES
    size = 1
    for start in range(max(1, len(filled) - most + 1)):
        slab = filled[start : start + most]
        size = max(size, int(slab[:, 1].max() - slab[:, 0].min()))
    window = Window(axis, min(size, high - low + 1), filled, low)
    whole = spectra_cost(steps, box, 1, n_columns)
    return window if spectra_cost(steps, box, 1, n_columns, window) < whole else None


def spectra_cost(
    steps: tuple[NDArray[np.float64], NDArray[np.float64]],
    box: tuple[Range, Range],
    n_fields: int,
    n_columns: int,
    window: Window | None = None,
) -> float:
    """Time that one slice takes there and back, as `plan_spectra` would plan it [ns].

    Arguments as there, with the number r of fields; measured figures: `kernels/README.md`.
    """
    points = len(steps[0]) * _frame(steps, box, n_columns, window)[0]
    z, x = (_spectrum_size(high - low + 1) for low, high in _boxes(box, window))
    return n_fields * (_NS_SPECTRUM * z * x + _NS_TAPS * points) + _NS_LINES * points


def _boxes(box: tuple[Range, Range], window: Window | None) -> tuple[Range, Range]:
    """Ranges of the slices that lines are planned for."""
    if window is None:
        return box
    return (window.box, box[1]) if window.axis == 0 else (box[0], window.box)


def _frame(
    steps: tuple[NDArray[np.float64], NDArray[np.float64]],
    box: tuple[Range, Range],
    n_columns: int,
    window: Window | None = None,
) -> tuple[int, int, int]:
    """Points of a line, and the images' columns that it is looked at in: the first, how many."""
    box = _boxes(box, window)
    shadows = np.array([steps[0] * z + steps[1] * x for z in box[0] for x in box[1]])
    low, high = int(np.floor(shadows.min())), int(np.ceil(shadows.max()))
    # The shadow of a part that moves is needed as a whole, wherever the detector ends.
    beyond = 0 if window is None else high - low + 2 * _TAIL
    middle, n_columns = n_columns // 2 + beyond, n_columns + 2 * beyond
    low, high = low + middle, high + middle
    first = min(max(low - _TAIL, 0), n_columns)
    last = max(min(high + _TAIL, n_columns - 1), first - 1)
    n_points = _odd_size(max(high - first, last - low) + 1 + _TAIL)
    return n_points, first - beyond, last + 1 - first


def _odd_size(least: int) -> int:
    """Smallest odd number of points from `least` on that is quickly transformed.

    An even number has a frequency that is its own opposite, in which two rows that are packed into
    one cannot be told apart.
    """
    size = least | 1
    while _rest(size, (3, 5, 7, 11)) > 1:
        size += 2
    return size


def _spectrum_size(n: int) -> int:
    """Points of the spectrum of `n` voxels: even, so that its middle is the frequency zero."""
    size = max(2 * TAPS, int(np.ceil(_FINER * n)))
    size += size % 2
    while _rest(size, (2, 3, 5, 7, 11)) > 1:
        size += 2
    return size


def _rest(size: int, factors: tuple[int, ...]) -> int:
    for factor in factors:
        while size % factor == 0:
            size //= factor
    return size


def _steepness(n: int, m: int) -> float:
    """Of the kernel for `n` voxels on `m` points: Barnett et al., section 4.2, with the factor that
    leaves white noise the smallest error."""
    return 0.96 * np.pi * TAPS * (1.0 - n / (2.0 * m))


def _kernel(distances: NDArray[np.float64], steepness: float) -> NDArray[np.float64]:
    """Exponential of a semicircle, `TAPS` points wide, at `distances` [point]."""
    inside = np.maximum(1.0 - (2.0 * distances / TAPS) ** 2, 0.0)
    return np.where(inside > 0.0, np.exp(steepness * (np.sqrt(inside) - 1.0)), 0.0)


def _neighbours(
    points: NDArray[np.float64], n: int, m: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """First of the `TAPS` neighbours of each of `points` (k, n), and what is taken of them.

    Point 0 of a spectrum of `m` points is the frequency `-m // 2`, by the signs of `_scale`.
    """
    first = np.ceil(points - TAPS / 2.0)
    distances = points[..., None] - first[..., None] - np.arange(TAPS)
    corners = (first.astype(np.int64) + m // 2) % m
    return corners.astype(np.int32), _kernel(distances, _steepness(n, m)).astype(np.float32)


def _scale(n: int, m: int) -> NDArray[np.float32]:
    """One over the kernel's transform at each of `n` voxels, with alternating sign."""
    places = np.arange(n) - n // 2
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    distances = nodes * (TAPS / 2.0)
    waves = np.cos(np.outer(2.0 * np.pi / m * places, distances))
    blur = waves @ (weights * _kernel(distances, _steepness(n, m))) * (TAPS / 2.0)
    return ((-1.0) ** places / blur).astype(np.float32)
