"""Slices through volumes: arrays in, PNG bytes out.

The axis named first runs to the right and the second one upwards, lengths from the origin of the
sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, GrainMap
from pipeline.report.canvas import INK, LINES, disc, percentile_limits, to_png
from pipeline.report.colours import (
    axis_colours,
    axis_key,
    label_colours,
    vector_colours,
    vector_key,
)


@dataclass(frozen=True)
class Plane:
    """One of the three slices through a volume."""

    name: str
    across: str
    """Axis to the right."""
    up: str
    """Axis upwards."""
    normal: str


PLANES = (
    Plane("x-y", "x", "y", "z"),
    Plane("z-y", "z", "y", "x"),
    Plane("x-z", "x", "z", "y"),
)


def crop(mask: NDArray[np.bool_], margin: int = 3) -> tuple[slice, slice, slice]:
    """Box around a mask with a margin; the whole volume if the mask is empty."""
    box = []
    for axis, n in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        if len(used) == 0:
            return (slice(None), slice(None), slice(None))
        box.append(slice(max(0, int(used[0]) - margin), min(n, int(used[-1]) + margin + 1)))
    return (box[0], box[1], box[2])


@dataclass(frozen=True)
class Slicer:
    """Slices through the middle of a box, with their place in the sample."""

    shape: tuple[int, int, int]
    pixel_m: float
    box: tuple[slice, slice, slice]

    @property
    def scale(self) -> tuple[float, str]:
        """Length of a voxel and its unit, as suits the size of the box."""
        if self.pixel_m == UNKNOWN_PIXEL_SIZE_M:
            return 1.0, "voxel"
        longest = max(self._range(name)[1] - self._range(name)[0] for name in "zyx")
        if longest * self.pixel_m < 0.8e-6:
            return self.pixel_m * 1e9, "nm"
        return self.pixel_m * 1e6, "µm"

    def _range(self, name: str) -> tuple[int, int, int]:
        k = "zyx".index(name)
        start, stop, _ = self.box[k].indices(self.shape[k])
        return start, stop, self.shape[k] // 2

    def index(self, plane: Plane) -> int:
        """Index of the slice along the normal."""
        start, stop, _ = self._range(plane.normal)
        return (start + stop) // 2

    def place(self, plane: Plane) -> str:
        """Where the slice lies along the normal, in words."""
        size, unit = self.scale
        value = (self.index(plane) - self._range(plane.normal)[2]) * size
        text = f"{value:.2f}" if unit == "µm" else f"{value:.0f}"
        return f"{plane.normal} = {text} {unit}"

    def cut(self, volume: NDArray[Any], plane: Plane) -> NDArray[Any]:
        """(..., up, across) slice of a volume (..., z, y, x)."""
        where: list[slice | int] = list(self.box)
        where["zyx".index(plane.normal)] = self.index(plane)
        image = volume[(Ellipsis, *where)]
        left = [name for name in "zyx" if name != plane.normal]
        return image if left == [plane.up, plane.across] else np.swapaxes(image, -1, -2)

    def extent(self, plane: Plane) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in the unit of `scale`, for drawing with the origin below."""
        limits = []
        for name in (plane.across, plane.up):
            start, stop, middle = self._range(name)
            limits += [(k - middle - 0.5) * self.scale[0] for k in (start, stop)]
        return (limits[0], limits[1], limits[2], limits[3])


def _ortho(
    slicer: Slicer,
    paint: Callable[[Axes, Plane, tuple[float, float, float, float]], Any],
    *,
    extra: Callable[[Figure, list[Axes], Any], None] | None = None,
    height_in: float = 3.6,
    key_width: float = 0.0,
) -> bytes:
    """Three slices side by side at one scale, each painted by `paint`."""
    unit = slicer.scale[1]
    extents = [slicer.extent(plane) for plane in PLANES]
    widths = [extent[1] - extent[0] for extent in extents]
    tallest = max(extent[3] - extent[2] for extent in extents)
    ratios = [*widths, *([key_width * tallest] if key_width else [])]
    width_in = min(11.5, 1.6 + (height_in - 0.7) * sum(ratios) / tallest + 0.5 * len(ratios))

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
        axes, painted = [], None
        for column, (plane, extent) in enumerate(zip(PLANES, extents, strict=True)):
            ax = figure.add_subplot(grid[0, column])
            painted = paint(ax, plane, extent)
            ax.set_title(slicer.place(plane))
            ax.set_xlabel(f"{plane.across} [{unit}]")
            ax.set_ylabel(f"{plane.up} [{unit}]")
            ax.set_xlim(extent[:2])
            ax.set_ylim(extent[2:])
            ax.set_aspect("equal")
            _scale_bar(ax, extent, unit)
            axes.append(ax)
        if key_width:
            axes.append(figure.add_subplot(grid[0, len(PLANES)]))
        if extra is not None:
            extra(figure, axes, painted)

    return to_png(draw, (width_in, height_in))


def _scale_bar(ax: Axes, extent: tuple[float, float, float, float], unit: str) -> None:
    """Bar of a round length below the sample's left edge, on a pale ground."""
    width = extent[1] - extent[0]
    target = 0.3 * width
    power = 10.0 ** np.floor(np.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    left = extent[0] + 0.05 * width
    low = extent[2] + 0.045 * (extent[3] - extent[2])
    ax.plot([left, left + length], [low, low], color="white", lw=5.5, solid_capstyle="butt")
    ax.plot([left, left + length], [low, low], color=INK, lw=2.5, solid_capstyle="butt")
    in_nm = unit == "µm" and length < 1
    text = f"{length * 1e3:g} nm" if in_nm else f"{length:g} {unit}"
    box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    ax.annotate(
        text,
        (left + length / 2, low),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        bbox=box,
    )


def volume_slices(
    volume: NDArray[np.floating],
    mask: NDArray[np.bool_],
    pixel_m: float,
    label: str,
    *,
    cmap: str = "cividis",
    limits: tuple[float, float] | None = None,
) -> bytes:
    """Orthoslices of a scalar volume with colour bar and scale bars.

    Parameters
    ----------
    volume : (z, y, x).
    mask : (z, y, x) bool, where the sample is; sets the box that is shown.
    pixel_m : edge of a voxel [m].
    label : what the colour bar shows, with its unit.
    cmap : a perceptually uniform map of matplotlib.
    limits : of the colour bar; 0.5 and 99.5 % of the slices when absent.
    """
    slicer = Slicer(volume.shape, pixel_m, crop(mask))
    images = [slicer.cut(volume, plane) for plane in PLANES]
    values = np.concatenate([image.ravel() for image in images])
    low, high = limits or percentile_limits(values, 0.005)

    def paint(ax: Axes, plane: Plane, extent: tuple[float, float, float, float]) -> Any:
        image = slicer.cut(volume, plane)
        options: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        return ax.imshow(image, cmap=cmap, vmin=low, vmax=high, **options)

    def bar(figure: Figure, axes: list[Axes], painted: Any) -> None:
        figure.colorbar(painted, ax=axes, label=label, shrink=0.85, pad=0.01, aspect=28)

    return _ortho(slicer, paint, extra=bar)


def label_slices(
    labels: NDArray[np.integer],
    names: Sequence[str],
    pixel_m: float,
    mask: NDArray[np.bool_] | None = None,
) -> bytes:
    """Orthoslices of a map of few named classes, with a legend.

    Parameters
    ----------
    labels : (z, y, x), 0 is none, `i + 1` is `names[i]`.
    names : of the classes.
    pixel_m : edge of a voxel [m].
    mask : sets the box that is shown; the labelled voxels when absent.
    """
    slicer = Slicer(labels.shape, pixel_m, crop(labels > 0 if mask is None else mask))
    colours = ["#eceff3", *(LINES[index % len(LINES)] for index in range(len(names)))]
    cmap = ListedColormap(colours)

    def paint(ax: Axes, plane: Plane, extent: tuple[float, float, float, float]) -> None:
        image = slicer.cut(labels, plane)
        options: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        ax.imshow(image, cmap=cmap, vmin=-0.5, vmax=len(names) + 0.5, **options)

    def legend(figure: Figure, axes: list[Axes], _: Any) -> None:
        handles = [
            axes[0].plot([], [], "s", ms=9, color=colour, label=name)[0]
            for colour, name in zip(colours, ("none of them", *names), strict=True)
        ]
        figure.legend(handles=handles, loc="outside right center")

    return _ortho(slicer, paint, extra=legend)


def orientation_slices(
    axis: NDArray[np.floating], mask: NDArray[np.bool_], pixel_m: float
) -> bytes:
    """Orthoslices of an axis field in sign-free colours, with their key.

    Parameters
    ----------
    axis : (3, z, y, x) unit vectors.
    mask : (z, y, x) bool, voxels to colour.
    pixel_m : edge of a voxel [m].
    """
    slicer = Slicer(mask.shape, pixel_m, crop(mask))

    def paint(ax: Axes, plane: Plane, extent: tuple[float, float, float, float]) -> None:
        image = axis_colours(slicer.cut(axis, plane) * slicer.cut(mask, plane))
        ax.imshow(image, origin="lower", extent=extent, interpolation="nearest")

    def key(_: Figure, axes: list[Axes], __: Any) -> None:
        draw_axis_key(axes[-1])

    return _ortho(slicer, paint, extra=key, key_width=0.55)


def draw_axis_key(ax: Axes) -> None:
    """Disc of all axes in their colours."""
    ax.imshow(axis_key(), origin="lower", extent=(-1, 1, -1, 1), interpolation="bilinear")
    disc(ax, "axis, sign-free")
    for x, y, text in ((1.16, 0, "x"), (0, 1.16, "y")):
        ax.text(x, y, text, ha="center", va="center", fontsize=10)
    ax.plot(0, 0, "o", ms=3, color=INK)
    ax.text(0.08, 0.04, "z", fontsize=10)


def vector_slices(vector: NDArray[np.floating], mask: NDArray[np.bool_], pixel_m: float) -> bytes:
    """Orthoslices of a vector field: colour by direction, arrows in the plane, and the key.

    Parameters
    ----------
    vector : (3, z, y, x), any unit.
    mask : (z, y, x) bool, voxels to colour.
    pixel_m : edge of a voxel [m].
    """
    slicer = Slicer(mask.shape, pixel_m, crop(mask))
    length = np.linalg.norm(vector[:, mask], axis=0)
    top = float(np.quantile(length, 0.98)) if length.size else 1.0
    scaled = np.clip(vector / (top or 1.0), -1.0, 1.0) * mask

    def paint(ax: Axes, plane: Plane, extent: tuple[float, float, float, float]) -> None:
        parts = [
            slicer.cut(scaled["xyz".index(name)], plane)
            for name in (plane.across, plane.up, plane.normal)
        ]
        # x, y, z are right-handed; the slice x-z is seen from behind, along +y.
        image = vector_colours(parts[0], parts[1], parts[2])
        ax.imshow(image, origin="lower", extent=extent, interpolation="nearest")
        _arrows(ax, parts[0], parts[1], extent)

    def key(_: Figure, axes: list[Axes], __: Any) -> None:
        ax = axes[-1]
        ax.imshow(vector_key(), origin="lower", extent=(-1, 1, -1, 1), interpolation="bilinear")
        disc(ax, "direction in the slice")
        ax.text(
            0,
            -1.25,
            "light: along the\nnormal of the slice\ndark: against it",
            ha="center",
            va="top",
        )
        for angle in np.arange(8) * np.pi / 4:
            x, y = np.cos(angle), np.sin(angle)
            ax.annotate(
                "",
                (0.95 * x, 0.95 * y),
                (0.6 * x, 0.6 * y),
                arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.0},
            )

    return _ortho(slicer, paint, extra=key, key_width=0.55)


def _arrows(
    ax: Axes,
    right: NDArray[np.floating],
    up: NDArray[np.floating],
    extent: tuple[float, float, float, float],
) -> None:
    rows, columns = right.shape
    step = max(1, round(max(rows, columns) / 22))
    x = (
        np.linspace(extent[0], extent[1], columns, endpoint=False)
        + 0.5 * (extent[1] - extent[0]) / columns
    )
    y = (
        np.linspace(extent[2], extent[3], rows, endpoint=False)
        + 0.5 * (extent[3] - extent[2]) / rows
    )
    cut = (slice(step // 2, None, step), slice(step // 2, None, step))
    u, v = right[cut], up[cut]
    used = np.hypot(u, v) > 0.15
    grid_x, grid_y = np.meshgrid(x[cut[1]], y[cut[0]])
    if not used.any():
        return
    spacing = step * (extent[1] - extent[0]) / columns
    ax.quiver(
        grid_x[used],
        grid_y[used],
        u[used],
        v[used],
        angles="xy",
        scale_units="xy",
        scale=1.0 / (0.95 * spacing),
        pivot="mid",
        color=INK,
        width=0.006,
        headwidth=4.5,
    )


def grain_slices(grains: GrainMap) -> bytes:
    """Orthoslices of the grains in colours that tell neighbours apart; boundaries darkened."""
    return many_label_slices(grains.label, grains.pixel_size_m, grains.boundaries)


def many_label_slices(
    labels: NDArray[np.integer], pixel_m: float, boundaries: NDArray[np.integer] | None = None
) -> bytes:
    """Orthoslices of many labels in colours that tell neighbours apart.

    Parameters
    ----------
    labels : (z, y, x), 0 is none.
    pixel_m : edge of a voxel [m].
    boundaries : (z, y, x), darkened where it is not zero.
    """
    slicer = Slicer(labels.shape, pixel_m, crop(labels > 0))
    colours = label_colours(int(labels.max(initial=0)))

    def paint(ax: Axes, plane: Plane, extent: tuple[float, float, float, float]) -> None:
        image = colours[np.maximum(slicer.cut(labels, plane), 0)].copy()
        if boundaries is not None:
            image[slicer.cut(boundaries, plane) > 0] *= 0.72
        ax.imshow(image, origin="lower", extent=extent, interpolation="nearest")

    return _ortho(slicer, paint)
