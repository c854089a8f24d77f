"""Volumes, surfaces and lines for ParaView: VTK's XML files with appended raw data.

`maps.vti` holds every map of one grid as point data: labels as integers, axes and vectors as three
components, the arrays named `product_map`. Surfaces and lines become one `.vtp` each. ParaView, and
everything else that reads VTK, opens them without settings. Lengths are in metres times 10⁹,
nanometres, because ParaView's interaction is in single precision.

Notes
-----
Format: VTK File Formats (XML), https://docs.vtk.org/en/latest/design_documents/VTKFileFormats.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from pipeline.io.export.content import grids, result_maps
from pipeline.io.product import Lines, Map, Surface
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, ResultData

NM = 1e9
TYPES = {
    "f4": "Float32",
    "f8": "Float64",
    "i1": "Int8",
    "u1": "UInt8",
    "i2": "Int16",
    "u2": "UInt16",
    "i4": "Int32",
    "u4": "UInt32",
    "i8": "Int64",
    "u8": "UInt64",
}


def export_paraview(folder: Path, data: ResultData) -> list[Path]:
    """Write `.vti` of the maps, `.vtp` of surfaces and lines."""
    written = []
    for name, pixel, maps in grids(result_maps(data)):
        written.append(folder / f"{name}.vti")
        write_vti(written[-1], maps, pixel)
    for group, product in data.products.items():
        for name, surface in product.surfaces.items():
            written.append(folder / f"{group}-{name}.vtp")
            write_surface(written[-1], surface)
        for name, lines in product.lines.items():
            written.append(folder / f"{group}-{name}.vtp")
            write_lines(written[-1], lines)
    return written


def write_vti(path: Path, maps: Mapping[str, Map], pixel_size_m: float) -> None:
    """Maps of one grid as a VTK image; the origin of the sample frame is at (0, 0, 0).

    Parameters
    ----------
    path : file to write.
    maps : name -> map, all of one grid; at least one.
    pixel_size_m : edge of a voxel [m].
    """
    nz, ny, nx = next(iter(maps.values())).values.shape[-3:]
    step = 1.0 if pixel_size_m == UNKNOWN_PIXEL_SIZE_M else pixel_size_m * NM
    blocks = _Blocks()
    arrays = "".join(
        blocks.array(_titled(name, item), _vectors_last(item.values)) for name, item in maps.items()
    )
    first = [-(n // 2) * step for n in (nx, ny, nz)]
    extent = f"0 {nx - 1} 0 {ny - 1} 0 {nz - 1}"
    active = {"scalar": "Scalars", "axis": "Vectors", "vector": "Vectors"}
    chosen: dict[str, str] = {}
    for name, item in maps.items():
        if item.kind in active:
            chosen.setdefault(active[item.kind], _titled(name, item))
    default = "".join(f" {key}={quoteattr(name)}" for key, name in chosen.items())
    blocks.write(
        path,
        "ImageData",
        f'<ImageData WholeExtent="{extent}" Origin="{_numbers(first)}" '
        f'Spacing="{_numbers([step] * 3)}"><Piece Extent="{extent}">'
        f"<PointData{default}>{arrays}</PointData><CellData/></Piece></ImageData>",
    )


def write_surface(path: Path, surface: Surface) -> None:
    """Triangles as VTK polygons [nm], their columns as cell data."""
    blocks = _Blocks()
    n = len(surface.triangles)
    body = _points(blocks, surface.points_m) + _cells(
        blocks, "Polys", surface.triangles.ravel(), 3 * np.arange(1, n + 1)
    )
    body += _cell_data(blocks, surface.data, n)
    _write_poly(blocks, path, len(surface.points_m), body, f'NumberOfPolys="{n}"')


def write_lines(path: Path, lines: Lines) -> None:
    """Polylines as VTK lines [nm], their columns as cell data."""
    blocks = _Blocks()
    n = max(0, len(lines.starts) - 1)
    body = _points(blocks, lines.points_m) + _cells(
        blocks, "Lines", np.arange(len(lines.points_m)), lines.starts[1:]
    )
    body += _cell_data(blocks, lines.data, n)
    _write_poly(blocks, path, len(lines.points_m), body, f'NumberOfLines="{n}"')


def _write_poly(blocks: _Blocks, path: Path, points: int, body: str, cells: str) -> None:
    piece = f'<PolyData><Piece NumberOfPoints="{points}" {cells}>{body}</Piece></PolyData>'
    blocks.write(path, "PolyData", piece)


def _points(blocks: _Blocks, points_m: NDArray[np.float64]) -> str:
    return f"<Points>{blocks.array('points [nm]', (points_m * NM).astype(np.float32))}</Points>"


def _cells(blocks: _Blocks, tag: str, points: NDArray[Any], ends: NDArray[Any]) -> str:
    inside = blocks.array("connectivity", points.astype(np.int64))
    inside += blocks.array("offsets", ends.astype(np.int64))
    return f"<{tag}>{inside}</{tag}>"


def _cell_data(blocks: _Blocks, columns: Mapping[str, NDArray[Any]], n: int) -> str:
    """Columns of numbers; words become their index among the sorted words."""
    arrays = []
    for name, values in columns.items():
        numbers = values
        if values.dtype.kind in "US":
            words, numbers = np.unique(values, return_inverse=True)
            name = f"{name} ({', '.join(map(str, words))})"  # noqa: PLW2901
        if len(numbers) == n:
            arrays.append(blocks.array(name, numbers))
    return f"<CellData>{''.join(arrays)}</CellData>"


def _titled(name: str, item: Map) -> str:
    return f"{name} [{item.unit}]" if item.unit else name


def _vectors_last(values: NDArray[Any]) -> NDArray[Any]:
    """Points in VTK's order, x fastest, components together."""
    if values.ndim == 3:
        return values.ravel()
    return np.ascontiguousarray(values.reshape(len(values), -1).T)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


class _Blocks:
    """Arrays of a VTK file: their headers go into the XML, their bytes behind it."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []
        self._offset = 0

    def array(self, name: str, values: NDArray[Any]) -> str:
        """XML element of an array (n,) or (n, components)."""
        stored = values.astype(np.uint8) if values.dtype == np.bool_ else values
        if stored.dtype == np.float16:
            stored = stored.astype(np.float32)
        stored = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<"))
        offset = self._offset
        self._arrays.append(stored)
        self._offset += 8 + stored.nbytes
        parts = 1 if stored.ndim == 1 else stored.shape[1]
        kind = TYPES[stored.dtype.kind + str(stored.dtype.itemsize)]
        return (
            f'<DataArray type="{kind}" Name={quoteattr(name)} NumberOfComponents="{parts}" '
            f'format="appended" offset="{offset}"/>'
        )

    def write(self, path: Path, kind: str, body: str) -> None:
        """The whole file: each block of bytes behind its length as UInt64."""
        head = (
            f'<?xml version="1.0"?>\n<VTKFile type="{kind}" version="1.0" '
            f'byte_order="LittleEndian" header_type="UInt64">{body}'
            '<AppendedData encoding="raw">_'
        )
        with path.open("wb") as file:
            file.write(head.encode())
            for values in self._arrays:
                file.write(np.uint64(values.nbytes).astype("<u8").tobytes())
                file.write(values.tobytes())
            file.write(b"</AppendedData></VTKFile>\n")
