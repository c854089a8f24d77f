"""The interactive slices of the report: volumes packed into the page, and `viewer.js` beside them.

Volumes are cut to the sample and averaged over blocks until they fit into the page: axes by `a aᵀ`,
numbers by their mean, labels by the voxel in the middle. Every layer is stored as planes of bytes:
components as int8, labels and numbers as uint16 with the low bytes first, since the high ones
compress to almost nothing.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.axes import axis_tensor, principal_axis
from pipeline.io.product import Map
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, ResultData
from pipeline.report.canvas import LINES, percentile_limits
from pipeline.report.colours import label_colours
from pipeline.report.markup import typeset
from pipeline.report.slices import crop

MAX_BYTES = 9_000_000
"""Most that the packed volumes may take in the page, so that the whole of it stays below 15 MB."""

MAX_LAYERS = 12
"""More are not looked at, and each makes all others coarser."""

LEVELS = 1023
"""Steps of a number between its least and largest value: a thousandth of the range."""

_BEST_RATIO = 0.2
"""Bytes in the page for each byte of a volume, where it is smooth and has air around it."""

_SIGNED = 0.2
"""A range that reaches so far to its smaller side of zero is shown on a scale of two colours."""


@dataclass(frozen=True)
class Layer:
    """A volume that the viewer offers.

    Attributes
    ----------
    title, unit : for people.
    kind : as of `Map`.
    values : (z, y, x) or (3, z, y, x); NaN or zero components where there is nothing.
    pixel_size_m : edge of a voxel [m].
    names : of labels 1, 2, ...; empty where they have none.
    """

    title: str
    unit: str
    kind: Literal["scalar", "label", "vector", "axis"]
    values: NDArray[Any]
    pixel_size_m: float
    names: tuple[str, ...] = ()


def viewer_section(data: ResultData, most_bytes: int = MAX_BYTES) -> str:
    """The viewer with its volumes, or nothing where the result has no volume.

    Parameters
    ----------
    data : the result.
    most_bytes : that the packed volumes may take.
    """
    layers = list(layers_of(data))[:MAX_LAYERS]
    mask = _mask(data)
    if not layers or mask is None:
        return ""
    box = crop(mask)
    edge = _first_edge(layers, mask.shape, box, most_bytes)
    while True:
        grid = Grid.over(mask.shape, box, edge, data.pixel_size_m)
        packed = [_packed(layer, grid) for layer in layers]
        total = sum(len(text) for _, text in packed)
        if total <= most_bytes or min(grid.shape) <= 1:
            break
        edge = max(edge + 1, int(edge * (total / most_bytes) ** (1 / 3)))
    heads = [head | {"id": str(index)} for index, (head, _) in enumerate(packed)]
    meta = json.dumps(grid.meta() | {"layers": heads}, allow_nan=False).replace("<", "\\u003c")
    volumes = "".join(
        f'<script type="application/octet-stream" id="layer-{index}">{text}</script>'
        for index, (_, text) in enumerate(packed)
    )
    script = files("pipeline.report").joinpath("viewer.js").read_text(encoding="utf-8")
    return (
        f"<p>{escape(_about(grid, data.pixel_size_m))}</p>"
        '<div id="slices"><p class="note">The viewer needs JavaScript; the pictures below do not.'
        "</p></div>"
        f'<script type="application/json" id="slices-meta">{meta}</script>{volumes}'
        f"<script>{script}</script>"
    )


def _first_edge(
    layers: Iterable[Layer], shape: tuple[int, ...], box: tuple[slice, ...], most_bytes: int
) -> int:
    """Smallest blocks worth trying: those whose bytes fit if they compress as well as labels do."""
    voxels = math.prod(len(range(*part.indices(n))) for part, n in zip(box, shape, strict=True))
    raw = sum(3 if layer.kind in ("axis", "vector") else 2 for layer in layers) * voxels
    return max(1, math.ceil((raw * _BEST_RATIO / most_bytes) ** (1 / 3)))


def _about(grid: Grid, pixel_size_m: float) -> str:
    text = (
        "Click or drag in a slice to move the cursor; all slices go through it. With the keyboard: "
        "arrows move it in the slice, page up and down across. The values of every layer at the "
        "cursor stand below. "
    )
    size = "one voxel"
    if pixel_size_m != UNKNOWN_PIXEL_SIZE_M:
        size = f"{grid.edge * pixel_size_m * 1e9:.3g} nm"
    if grid.edge == 1:
        return text + f"Every voxel of the result is shown, {size} each."
    return text + (
        f"A voxel of this view is {size}: the mean over {grid.edge} × {grid.edge} × {grid.edge} "
        "voxels of the result, so that the page stays small. Every voxel is in result.nxs."
    )


# Which volumes ---------------------------------------------------------------------------------


def layers_of(data: ResultData) -> Iterator[Layer]:
    """Volumes of a result; the first two are those that the viewer opens with."""
    pixel = data.pixel_size_m
    if data.density is not None:
        values = data.density.electron_density
        yield Layer("electron density", "e/Å³", "scalar", values, pixel)
    elif data.scalar is not None:
        yield Layer("scalar tomogram", data.scalar.unit, "scalar", data.scalar.volume, pixel)
    if data.orientation is not None:
        found = data.orientation
        yield Layer("crystal axis", "", "axis", found.axis * found.carries, pixel)
    if data.magnetisation is not None:
        moment = data.magnetisation
        yield Layer("magnetisation", moment.unit, "vector", moment.vector * moment.support, pixel)
    if data.grains is not None:
        yield Layer("grain", "", "label", data.grains.label, data.grains.pixel_size_m)
    if data.density is not None and data.density.names:
        materials = data.density.materials
        yield Layer("material", "", "label", materials, pixel, data.density.names)
    if data.orientation is not None:
        strength = np.where(data.orientation.support, data.orientation.magnitude * 1e3, np.nan)
        yield Layer("dichroic contrast", "mrad/voxel", "scalar", strength, pixel)
        error = data.orientation.magnitude_error
        if error is not None:
            known = np.where(data.orientation.support & (error > 0), error * 1e3, np.nan)
            yield Layer("error of the dichroic contrast", "mrad/voxel", "scalar", known, pixel)
        doubt = data.orientation.uncertainty_deg
        if doubt is not None:
            # Zero stands for voxels whose uncertainty was not asked for.
            known = np.where(data.orientation.support & (doubt > 0), doubt, np.nan)
            yield Layer("uncertainty of the axis", "°", "scalar", known, pixel)
    for product in data.products.values():
        for shown in product.maps.values():
            yield _of_map(shown)


def _of_map(shown: Map) -> Layer:
    values = shown.values.astype(np.int64) if shown.kind == "label" else shown.values
    unit = "°" if shown.unit == "degree" else typeset(shown.unit)
    return Layer(shown.title, unit, shown.kind, values, shown.pixel_size_m)


def _mask(data: ResultData) -> NDArray[np.bool_] | None:
    """Where the sample is, on the grid of the result."""
    for maps in (data.orientation, data.magnetisation, data.scalar):
        if maps is not None:
            return maps.support
    if data.density is not None:
        return data.density.materials > 0
    for product in data.products.values():
        for shown in product.maps.values():
            if shown.pixel_size_m == data.pixel_size_m:
                return np.ones(shown.values.shape[-3:], bool)
    return None


# Packing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The voxels of the view.

    Attributes
    ----------
    start : z, y, x, first voxel of the result.
    shape : z, y, x [voxel of the view].
    edge : voxels of the result along the edge of one of the view.
    volume_shape : of the result.
    pixel_size_m : edge of a voxel of the result [m].
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    edge: int
    volume_shape: tuple[int, ...]
    pixel_size_m: float

    @classmethod
    def over(
        cls, volume_shape: tuple[int, ...], box: tuple[slice, ...], edge: int, pixel_size_m: float
    ) -> Grid:
        """Grid over a box; an incomplete rim is cut off, at least one voxel is left."""
        limits = [part.indices(n)[:2] for part, n in zip(box, volume_shape, strict=True)]
        start = tuple(low for low, _ in limits)
        shape = tuple(max(1, (high - low) // edge) for low, high in limits)
        return cls(start, shape, edge, volume_shape, pixel_size_m)  # type: ignore[arg-type]

    def centres_m(self, axis: int) -> NDArray[np.float64]:
        """Positions of the voxels of the view along an axis [m]."""
        first = self.start[axis] - self.volume_shape[axis] // 2 + 0.5 * (self.edge - 1)
        steps = np.arange(self.shape[axis], dtype=np.float64)
        return (first + self.edge * steps) * self.pixel_size_m

    def meta(self) -> dict[str, Any]:
        """What `viewer.js` is told about the grid."""
        extent = max(self.shape) * self.edge * self.pixel_size_m
        scale, unit = (1e9, "nm") if extent < 0.8e-6 else (1e6, "µm")
        if self.pixel_size_m == UNKNOWN_PIXEL_SIZE_M:
            scale, unit = 1.0, "voxel"
        return {
            "shape": self.shape,
            "cursor": [n // 2 for n in self.shape],
            "first": [float(self.centres_m(axis)[0]) for axis in (2, 1, 0)],
            "step": self.edge * self.pixel_size_m,
            "scale": scale,
            "unit": unit,
        }


def _packed(layer: Layer, grid: Grid) -> tuple[dict[str, Any], str]:
    """Description of a layer for `viewer.js`, and its bytes."""
    values = _sampled(layer, grid)
    head: dict[str, Any] = {"title": layer.title, "unit": layer.unit, "kind": layer.kind}
    if layer.kind in ("axis", "vector"):
        length = np.linalg.norm(values, axis=0)
        top = 1.0 if layer.kind == "axis" else float(length.max(initial=0.0)) or 1.0
        head |= {"top": top}
        planes = np.rint(np.clip(values / top, -1.0, 1.0) * 127).astype(np.int8)
        return head, _text(planes.tobytes())
    if layer.kind == "label":
        n = int(values.max(initial=0))
        colours = _label_palette(n, layer.names)
        names = list(layer.names) or ([str(k + 1) for k in range(n)] if n <= len(LINES) else [])
        head |= {"names": names, "palette": _palette(colours)}
        return head, _text(_two_planes(np.clip(values, 0, 65535).astype(np.uint16)))
    finite = np.isfinite(values)
    low, high = (
        (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0, 1)
    )
    high = high if high > low else low + 1.0
    steps = np.zeros(values.shape, np.uint16)
    steps[finite] = 1 + np.rint((values[finite] - low) / (high - low) * (LEVELS - 1))
    window = list(percentile_limits(values[finite], 0.005))
    name = "cividis"
    if window[0] < 0 < window[1] and min(-window[0], window[1]) > _SIGNED * max(
        -window[0], window[1]
    ):
        window, name = [-max(-window[0], window[1]), max(-window[0], window[1])], "PuOr"
    colours = mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    head |= {
        "low": low,
        "high": high,
        "levels": LEVELS,
        "window": window,
        "palette": _palette(colours),
    }
    return head, _text(_two_planes(steps))


def _two_planes(values: NDArray[np.uint16]) -> bytes:
    return (values & 255).astype(np.uint8).tobytes() + (values >> 8).astype(np.uint8).tobytes()


def _text(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")


def _palette(colours: Iterable[Any]) -> str:
    table = np.rint(np.asarray(colours) * 255).astype(np.uint8)
    return base64.b64encode(table.tobytes()).decode("ascii")


def _label_palette(n: int, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Colour of no label and of each label; those of many labels come again after a while."""
    few = len(names) or n
    if few <= len(LINES):
        listed = ["#eceff3", *LINES[: max(few, 1)]]
        return np.array([mpl.colors.to_rgb(colour) for colour in listed], np.float32)
    return label_colours(min(n, 1024))


def _sampled(layer: Layer, grid: Grid) -> NDArray[Any]:
    """Values of a layer on the grid of the view."""
    same = layer.values.shape[-3:] == grid.volume_shape and np.isclose(
        layer.pixel_size_m, grid.pixel_size_m, rtol=1e-6
    )
    whole = all(
        first + n * grid.edge <= size
        for first, n, size in zip(grid.start, grid.shape, grid.volume_shape, strict=True)
    )
    if not same or not whole or grid.edge == 1 or layer.kind == "label":
        return _nearest(layer, grid)
    parts = [
        slice(first, first + n * grid.edge) for first, n in zip(grid.start, grid.shape, strict=True)
    ]
    values = layer.values[..., parts[0], parts[1], parts[2]]
    if layer.kind == "axis":
        return _mean_axis(values, grid.edge)
    if layer.kind == "vector":
        return _mean(values, grid.edge)
    finite = np.isfinite(values)
    weight = _mean(finite.astype(np.float32), grid.edge)
    sums = _mean(np.where(finite, values, 0).astype(np.float32), grid.edge)
    return np.where(weight >= 0.5, sums / np.maximum(weight, 1e-6), np.nan)


def _nearest(layer: Layer, grid: Grid) -> NDArray[Any]:
    """Values at the voxels that are nearest to those of the view; nothing outside of the layer."""
    index, valid = [], []
    for axis, n in enumerate(layer.values.shape[-3:]):
        near = np.rint(grid.centres_m(axis) / layer.pixel_size_m - 1e-9).astype(np.int64) + n // 2
        valid.append((near >= 0) & (near < n))
        index.append(np.clip(near, 0, n - 1))
    values = layer.values[(..., *np.ix_(*index))]
    inside = valid[0][:, None, None] & valid[1][None, :, None] & valid[2][None, None, :]
    return np.where(inside, values, np.nan if layer.kind == "scalar" else 0)


def _mean(values: NDArray[Any], edge: int) -> NDArray[np.float32]:
    *lead, nz, ny, nx = values.shape
    size = (nz // edge, edge, ny // edge, edge, nx // edge, edge)
    found: NDArray[np.float32] = values.reshape(*lead, *size).mean(
        axis=(-5, -3, -1), dtype=np.float32
    )
    return found


def _mean_axis(axis: NDArray[np.floating], edge: int) -> NDArray[np.float32]:
    """Mean axes of blocks, a slab at a time; nothing where most of a block is empty."""
    slabs = []
    for start in range(0, axis.shape[1], edge):
        part = axis[:, start : start + edge]
        tensor = _mean(axis_tensor(part), edge)
        # The trace is the share of the block that has an axis.
        chosen = tensor[:3].sum(axis=0) >= 0.5
        mean = np.zeros((3, *chosen.shape), np.float32)
        mean[:, chosen] = principal_axis(tensor[:, chosen])
        slabs.append(mean)
    return np.concatenate(slabs, axis=1)
