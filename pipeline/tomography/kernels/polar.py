"""Between slices and lines of their spectra: the inner loops of `pipeline/tomography/spectra.py`.

Two rows of a volume are the real and the imaginary part of one complex row, and a slab of such rows
lies last, so that all inner loops run along contiguous memory: what `TAPS` neighbours of a row of
the spectrum hold for all slices of a slab is one piece of memory. Grids and lines are handed over
as float32, real and imaginary part in turn.

Cost of a point of a line, of one slice of one field: `TAPS²` multiply-adds. A row of taps stays in
the first level cache; how far that is from what a core can do: `kernels/README.md`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.tomography.kernels import lanes_fourier
from pipeline.tomography.kernels.lanes import (
    TAPS,
    spread_1,
    spread_6,
    spread_18,
    spread_block_1,
    spread_block_3,
    take_6,
    take_18,
    take_block_1,
    take_block_3,
    turn_lanes,
)

Points = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Parts and factors of a transform, of `lanes_fourier.plan_points`."""

_TILE = 16
"""Elements that are moved at a time between arrays that have lanes last and those that have not."""


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _to_lanes(
    source: NDArray[np.float32],
    first: int,
    end: int,
    scales: NDArray[np.float32],
    cells: NDArray[np.float32],
    places: NDArray[np.uint64],
) -> None:
    """Lay rows `first` to `first + 2 lanes` of `source` (rows, n) side by side.

    Those from `end` on count as zero. Column i comes, times `scales[i]`, to the cell `places[i]` of
    `cells` (m, lanes, 2); other cells are left alone.
    """
    n, lanes = len(places), cells.shape[1]
    re, im = np.uint64(0), np.uint64(1)
    for tile in range(0, n, _TILE):
        columns = range(np.uint64(tile), np.uint64(min(tile + _TILE, n)))
        for lane in range(np.uint64(lanes)):
            left = np.uint64(first) + lane
            right = left + np.uint64(lanes)
            if right < np.uint64(end):
                for i in columns:
                    cells[places[i], lane, re] = scales[i] * source[left, i]
                    cells[places[i], lane, im] = scales[i] * source[right, i]
            else:
                inside = left < np.uint64(end)
                for i in columns:
                    value = scales[i] * source[left, i] if inside else np.float32(0.0)
                    cells[places[i], lane, re] = value
                    cells[places[i], lane, im] = np.float32(0.0)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _from_lanes(
    cells: NDArray[np.float32],
    places: NDArray[np.uint64],
    scales: NDArray[np.float32],
    first: int,
    end: int,
    target: NDArray[np.float32],
) -> None:
    """Adjoint of `_to_lanes`: overwrite rows of `target` (rows, n). Arguments as there."""
    n, lanes = len(places), cells.shape[1]
    re, im = np.uint64(0), np.uint64(1)
    for tile in range(0, n, _TILE):
        columns = range(np.uint64(tile), np.uint64(min(tile + _TILE, n)))
        for lane in range(np.uint64(lanes)):
            left = np.uint64(first) + lane
            right = left + np.uint64(lanes)
            if left < np.uint64(end):
                for i in columns:
                    target[left, i] = scales[i] * cells[places[i], lane, re]
            if right < np.uint64(end):
                for i in columns:
                    target[right, i] = scales[i] * cells[places[i], lane, im]


@njit(cache=True, error_model="numpy")
def _around(n: int, size: int) -> NDArray[np.uint64]:
    """Where `n` elements come around the first of `size` cells, modulo their number."""
    places = np.empty(n, np.uint64)
    for i in range(n):
        places[i] = np.uint64((i - n // 2) % size)
    return places


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def load_slab(
    volume: NDArray[np.float32],
    first: int,
    end: int,
    scale_z: NDArray[np.float32],
    scale_x: NDArray[np.float32],
    mx: int,
    points: Points,
    grid: NDArray[np.float32],
) -> None:
    """Lay slices across y into the middle of a grid that is periodic, and transform its rows.

    Parameters
    ----------
    volume : (nz, ny, nx) float32.
    first, end : int, slices `first` to `first + 2 lanes` are taken; from `end` on they are zero.
    scale_z, scale_x : (nz,) and (nx,) float32 factors of the slices' elements.
    mx : int, columns of the grid; rows may be longer in memory.
    points : of a row.
    grid : (mz, >= mx, lanes, 2) float32: element (z, x) of the slices comes to (z - nz // 2,
        x - nx // 2), modulo the grid's size. Rows that hold none are not touched.
    """
    nz, _, nx = volume.shape
    mz, width = len(grid), 2 * grid.shape[2]
    places = _around(nx, mx)
    for z in prange(nz):
        row = grid[(z - nz // 2) % mz, :mx]
        row[nx - nx // 2 : mx - nx // 2] = np.float32(0.0)
        _to_lanes(volume[z], first, end, scale_z[z] * scale_x, row, places)
        _transform_there(row.reshape(-1), points, width, True)


@njit(cache=True, error_model="numpy")
def _transform(
    values: NDArray[np.float32],
    spare: NDArray[np.float32],
    points: Points,
    width: int,
    forward: bool,
) -> NDArray[np.float32]:
    """Transform points of `width` numbers each; `values` or `spare`, wherever they come to lie."""
    if forward:
        elsewhere = lanes_fourier.forward(values, spare, points[0], points[1], width)
    else:
        elsewhere = lanes_fourier.backward(values, spare, points[0], points[1], width)
    return spare if elsewhere else values


@njit(cache=True, error_model="numpy")
def _transform_there(
    values: NDArray[np.float32], points: Points, width: int, forward: bool
) -> None:
    """The same in place."""
    spare = np.empty_like(values)
    found = _transform(values, spare, points, width, forward)
    if len(points[0]) % 2 == 1:
        values[:] = found


@njit(cache=True, parallel=True, error_model="numpy")
def transform_columns(
    grids: NDArray[np.float32], mx: int, width: int, points: Points, forward: bool
) -> None:
    """Transform the columns of spectra in place, unscaled.

    Parameters
    ----------
    grids : (r, mz, >= mx * width) float32.
    mx, width : columns, and numbers of each.
    points : of a column.
    forward : which of the two directions.
    """
    n_fields, mz, _ = grids.shape
    for task in prange(n_fields * mx):
        grid, at = grids[task // mx], task % mx * width
        column, spare = np.empty(mz * width, np.float32), np.empty(mz * width, np.float32)
        for z in range(mz):
            column[z * width : (z + 1) * width] = grid[z, at : at + width]
        found = _transform(column, spare, points, width, forward)
        for z in range(mz):
            grid[z, at : at + width] = found[z * width : (z + 1) * width]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def store_slab(
    grid: NDArray[np.float32],
    first: int,
    end: int,
    scale_z: NDArray[np.float32],
    scale_x: NDArray[np.float32],
    mx: int,
    points: Points,
    volume: NDArray[np.float32],
) -> None:
    """Adjoint of `load_slab`: overwrite these slices of `volume`. Arguments as there."""
    nz, _, nx = volume.shape
    mz, lanes = len(grid), grid.shape[2]
    places = _around(nx, mx)
    for z in prange(nz):
        row = grid[(z - nz // 2) % mz, :mx].reshape(-1)
        found = _transform(row, np.empty_like(row), points, 2 * lanes, False)
        cells = found.reshape((mx, lanes, 2))
        _from_lanes(cells, places, scale_z[z] * scale_x, first, end, volume[z])


@njit(cache=True, inline="always", error_model="numpy")
def _find_taps(
    corner: NDArray[np.int32],
    taps: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    size: tuple[int, int, int, int],
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> None:
    """Where the taps of a point lie, and what is taken of them.

    Overwrites `rows`, offsets and weights (r * TAPS,), field after field, and `columns`, starts and
    shares (TAPS,). Behind the last row and column of a grid follow the first ones. Sizes are those
    of the grid, of a row in memory and of a cell.
    """
    mz, mx, pitch, width = size
    (offsets, weights), (starts, shares) = rows, columns
    for d in range(TAPS):
        z, x = corner[0] + d, corner[1] + d
        z = z - mz if z >= mz else z
        for r in range(len(coefficients)):
            tap = np.uint64(r * TAPS + d)
            offsets[tap] = (r * mz + z) * pitch
            weights[tap] = taps[0, d] * coefficients[r]
        starts[d], shares[d] = (x - mx if x >= mx else x) * width, taps[1, d]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def take_lines(
    grids: NDArray[np.float32],
    corners: NDArray[np.int32],
    taps: NDArray[np.float32],
    factors: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    mx: int,
    width: int,
    points: Points,
    indices: NDArray[np.int64],
    rows: tuple[int, int],
    seen: NDArray[np.int64],
    stack: NDArray[np.float32],
) -> None:
    """Interpolate lines in the slices' spectra, and write what they become: rows of images.

    Parameters
    ----------
    grids : (r, mz, >= mx * width) float32, spectra of each of the r fields, periodic after `mx`
        columns; `width` is twice the number of lanes.
    corners : (k, n, 2) int32, first row and column that a point is interpolated from.
    taps : (k, n, 2, TAPS) float32, what is taken of each row and of each column.
    factors : (k, n, 2) float32, complex factor of each point.
    coefficients : (k, r) float32, what each line takes of each field.
    mx, width : int, columns of the grids, and numbers of each.
    points : of a line.
    indices : (k,) int64 of the images.
    rows : row of the images that the first lane belongs to, and the one from which on they are left
        out.
    seen : (k, 3) int64 of each image, the first column and the one behind the last, and the point
        of the line that the first one is.
    stack : (n', ny, nx) float32, changed in place.
    """
    n_lines, n_points = corners.shape[:2]
    n_fields, mz, pitch = grids.shape
    size = mz, mx, pitch, width
    flat = grids.reshape(-1)
    scales = np.full(n_points, 1.0 / n_points, np.float32)
    for m in prange(n_lines):
        lines, spare = (
            np.empty((n_points, width), np.float32),
            np.empty(n_points * width, np.float32),
        )
        value = np.empty(width, np.float32)
        across = np.empty(n_fields * TAPS, np.int64), np.empty(n_fields * TAPS, np.float32)
        columns = np.empty(TAPS, np.int64), np.empty(TAPS, np.float32)
        one = np.float32(1.0)
        for j in range(n_points):
            z, x = corners[m, j]
            line, tap, factor = lines[j], taps[m, j], factors[m, j]
            if z + TAPS <= mz and x + TAPS <= mx and n_fields in (1, 3):
                first, share = np.int64(z) * pitch + np.int64(x) * width, coefficients[m]
                layout = mz * pitch, pitch, width
                if n_fields == 3:
                    # What linear dichroism needs.
                    take_block_3(line, flat, tap, share, factor, first, *layout, one, width)
                else:
                    take_block_1(line, flat, tap, share, factor, first, *layout, one, width)
                continue
            _find_taps(corners[m, j], tap, coefficients[m], size, across, columns)
            value[:] = np.float32(0.0)
            if n_fields == 3:
                take_18(value, flat, across[0], across[1], columns[0], columns[1], width)
            else:
                for first in range(0, n_fields * TAPS, TAPS):
                    offsets, weights = across[0][first:], across[1][first:]
                    take_6(value, flat, offsets, weights, columns[0], columns[1], width)
            re, im = factor
            for i in range(width // 2):
                line[2 * i] = re * value[2 * i] - im * value[2 * i + 1]
                line[2 * i + 1] = re * value[2 * i + 1] + im * value[2 * i]
        found = _transform(lines.reshape(-1), spare, points, width, False)
        begin, behind, point = seen[m]
        n = behind - begin
        places = np.arange(point, point + n).astype(np.uint64)
        image = stack[indices[m], :, begin:behind]
        cells = found.reshape((n_points, width // 2, 2))
        _from_lanes(cells, places, scales[:n], rows[0], rows[1], image)


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def spread_lines(
    lines: NDArray[np.float32],
    corners: NDArray[np.int32],
    taps: NDArray[np.float32],
    factors: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    bands: NDArray[np.int64],
    mx: int,
    grids: NDArray[np.float32],
) -> None:
    """Adjoint of the first part of `take_lines`: overwrite `grids`. Arguments as there, and

    lines : (k, n, width) float32, of `load_lines`.
    bands : (b + 1,) int64, ends of the bands of rows that one task each adds up; every element is
        summed in the order of the points, however many bands there are.
    """
    n_lines, n_points, width = lines.shape
    n_fields, mz, pitch = grids.shape
    size = mz, mx, pitch, width
    flat = grids.reshape(-1)
    one = np.float32(1.0)
    for band in prange(len(bands) - 1):
        low, high = bands[band], bands[band + 1]
        grids[:, low:high] = np.float32(0.0)
        value = np.empty(width, np.float32)
        rows = np.empty(n_fields * TAPS, np.int64), np.empty(n_fields * TAPS, np.float32)
        columns = np.empty(TAPS, np.int64), np.empty(TAPS, np.float32)
        for m in range(n_lines):
            for j in range(n_points):
                top = corners[m, j, 0]
                # Rows `top` to `top + TAPS`, of which those behind the last are the first ones.
                if (top >= high or top + TAPS <= low) and top + TAPS - mz <= low:
                    continue
                x = corners[m, j, 1]
                line, tap, factor = lines[m, j], taps[m, j], factors[m, j]
                inside = top >= low and top + TAPS <= high
                if inside and x + TAPS <= mx and n_fields in (1, 3):
                    first, share = np.int64(top) * pitch + np.int64(x) * width, coefficients[m]
                    layout = mz * pitch, pitch, width
                    if n_fields == 3:
                        spread_block_3(line, flat, tap, share, factor, first, *layout, -one, width)
                    else:
                        spread_block_1(line, flat, tap, share, factor, first, *layout, -one, width)
                    continue
                turn_lanes(line, factor, -one, width, value)
                _find_taps(corners[m, j], taps[m, j], coefficients[m], size, rows, columns)
                if not inside:
                    _spread_inside(
                        value, flat, rows, columns, (low * pitch, high * pitch), mz * pitch
                    )
                elif n_fields == 3:
                    spread_18(value, flat, rows[0], rows[1], columns[0], columns[1], width)
                else:
                    for first in range(0, n_fields * TAPS, TAPS):
                        offsets, weights = rows[0][first:], rows[1][first:]
                        spread_6(value, flat, offsets, weights, columns[0], columns[1], width)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _spread_inside(
    value: NDArray[np.float32],
    flat: NDArray[np.float32],
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
    band: tuple[int, int],
    field: int,
) -> None:
    """As `lanes.spread_6`, to those rows that begin inside `band` of a field of this size."""
    for tap in range(len(rows[0])):
        if band[0] <= rows[0][tap] % field < band[1]:
            offset, weight = rows[0][tap:], rows[1][tap:]
            spread_1(value, flat, offset, weight, columns[0], columns[1], len(value))


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def load_lines(
    stack: NDArray[np.float32],
    indices: NDArray[np.int64],
    rows: tuple[int, int],
    seen: NDArray[np.int64],
    points: Points,
    lines: NDArray[np.float32],
) -> None:
    """Adjoint of the last part of `take_lines`: overwrite `lines` (k, n, width).

    Arguments as there.
    """
    _, n_points, width = lines.shape
    scales = np.full(n_points, 1.0 / n_points, np.float32)
    for m in prange(len(lines)):
        begin, behind, point = seen[m]
        n = behind - begin
        lines[m, :point] = np.float32(0.0)
        lines[m, point + n :] = np.float32(0.0)
        places = np.arange(point, point + n).astype(np.uint64)
        image = stack[indices[m], :, begin:behind]
        cells = lines[m].reshape((n_points, width // 2, 2))
        _to_lanes(image, rows[0], rows[1], scales[:n], cells, places)
        _transform_there(lines[m].reshape(-1), points, width, True)


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def filter_rows(
    stack: NDArray[np.float32], indices: NDArray[np.int64], first: int, end: int, side: float
) -> None:
    """Filter images across their rows `first` to `end` by `(side, 1 - 2 side, side)`, in place.

    Rows beyond count as zero: the filter is its own adjoint. Stack and indices as in `take_lines`.
    """
    s = np.float32(side)
    middle = np.float32(1.0) - np.float32(2.0) * s
    nx = stack.shape[2]
    for m in prange(len(indices)):
        image = stack[indices[m]]
        before, here = np.zeros(nx, np.float32), np.empty(nx, np.float32)
        for y in range(first, end):
            here[:] = image[y]
            if y + 1 < end:
                for x in range(nx):
                    image[y, x] = middle * here[x] + s * (before[x] + image[y + 1, x])
            else:
                for x in range(nx):
                    image[y, x] = middle * here[x] + s * before[x]
            before[:] = here
