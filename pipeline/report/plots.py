"""Pictures of a product: curves, and surfaces and lines in three dimensions, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from numpy.typing import NDArray

from pipeline.io.product import Curve, Lines, Surface
from pipeline.report.canvas import INK, LINES, MUTED, percentile_limits, to_png
from pipeline.report.colours import label_colours
from pipeline.report.markup import typeset

MAX_TRIANGLES = 12_000
"""Most triangles in a picture: more cannot be told apart in it."""

_MANY = 30.0
"""A line that is so many times higher than another one asks for a logarithmic ordinate."""


def curve_picture(curve: Curve) -> bytes:
    """Lines over a common abscissa, points, or bars."""
    log = curve.style in ("bars", "counts") and _spans(curve)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        if curve.style == "bars":
            _bars(ax, curve)
        else:
            for index, (name, values) in enumerate(curve.lines.items()):
                style = ["-", "--", ":", "-."][(index // len(LINES)) % 4]
                style = "o" if curve.style == "points" else style
                colour = LINES[index % len(LINES)]
                ax.plot(curve.x, values, style, lw=1.5, ms=3.5, color=colour, label=name)
        if log:
            ax.set_yscale("log")
            # The tails of a fitted curve would stretch the axis over hundreds of decades.
            highest = max(float(np.nanmax(values)) for values in curve.lines.values())
            ax.set_ylim(0.7, 3.0 * highest)
        ax.set_xlabel(typeset(curve.x_label))
        ax.set_ylabel(typeset(curve.y_label))
        if len(curve.lines) > 1:
            ax.legend(ncols=1 + len(curve.lines) // 9)

    return to_png(draw, (5.6, 3.2))


def _spans(curve: Curve) -> bool:
    tops = [float(np.nanmax(values)) for values in curve.lines.values() if np.any(values > 0)]
    return bool(tops) and max(tops) > _MANY * min(tops)


def _bars(ax: Axes, curve: Curve) -> None:
    if curve.x.size == 0:
        return
    middle = 0.5 * (curve.x[1:] + curve.x[:-1])
    half = 0.5 * (curve.x[1] - curve.x[0]) if curve.x.size > 1 else 0.5
    edges = np.concatenate([[curve.x[0] - half], middle, [curve.x[-1] + half]])
    alone = len(curve.lines) == 1
    for index, (name, values) in enumerate(curve.lines.items()):
        colour = "#5b6675" if index == 0 else LINES[(index - 1) % len(LINES)]
        ax.stairs(values, edges, fill=True, color=colour, alpha=0.9 if alone else 0.28)
        if not alone:
            ax.stairs(values, edges, color=colour, lw=1.3, label=name)
    ax.set_xlim(edges[0], edges[-1])


def scene_picture(surfaces: Mapping[str, Surface], lines: Mapping[str, Lines]) -> bytes:
    """Surfaces and lines together, seen from the side, y upwards.

    A surface is coloured by its first column: integers as labels, numbers on a scale.
    """
    bodies: list[Surface | Lines] = [*surfaces.values(), *lines.values()]
    points = [item.points_m for item in bodies if len(item.points_m)]
    everything = np.concatenate(points) if points else np.zeros((1, 3))
    factor, unit = length_unit(float(np.ptp(everything, axis=0).max()))

    def draw(figure: Figure) -> None:
        ax: Any = figure.add_subplot(projection="3d", computed_zorder=False)
        for surface in surfaces.values():
            _draw_surface(figure, ax, surface, factor)
        for index, item in enumerate(lines.values()):
            _draw_lines(ax, item, factor, LINES[(index + 1) % len(LINES)])
        low, high = everything.min(axis=0) * factor, everything.max(axis=0) * factor
        room = 0.02 * float((high - low).max()) + 1e-9
        ax.set(xlim=(low[0] - room, high[0] + room), ylim=(low[1] - room, high[1] + room))
        ax.set_zlim(low[2] - room, high[2] + room)
        ax.set_box_aspect(np.maximum(high - low, 0.05 * float((high - low).max()) + 1e-9))
        ax.view_init(elev=18, azim=-60, vertical_axis="y")
        ax.set(xlabel=f"x [{unit}]", ylabel=f"y [{unit}]", zlabel=f"z [{unit}]")
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_pane_color((0.97, 0.98, 0.99, 1.0))
            axis._axinfo["grid"].update(color="#e2e6ea", linewidth=0.6)
            axis.label.set_color(MUTED)

    return to_png(draw, (6.2, 5.0))


def length_unit(extent_m: float) -> tuple[float, str]:
    """Factor from metre, and the unit, that suit a length."""
    return (1e9, "nm") if extent_m < 0.8e-6 else (1e6, "µm")


def _draw_surface(figure: Figure, ax: Any, surface: Surface, factor: float) -> None:
    points, triangles, chosen = decimate(surface.points_m, surface.triangles, MAX_TRIANGLES)
    if len(triangles) == 0:
        return
    colours: Any = np.tile(mpl.colors.to_rgb("#9fb4c7"), (len(triangles), 1))
    column = next((item for item in surface.data.items() if item[1].ndim == 1), None)
    if column is not None and column[1].dtype.kind in "fiu":
        name, values = column[0], column[1][chosen]
        if values.dtype.kind in "iu":
            colours = label_colours(int(values.max(initial=0)))[np.maximum(values, 0)]
        else:
            low, high = percentile_limits(values, 0.01)
            mapping = mpl.cm.ScalarMappable(Normalize(low, high), "cividis")
            colours = mapping.to_rgba(np.nan_to_num(values, nan=low))[:, :3]
            figure.colorbar(mapping, ax=ax, label=name.replace("_", " "), shrink=0.6, pad=0.08)
    corners = points[triangles] * factor
    light = colours * _brightness(corners)[:, None]
    # Edges in the colour of the face close the seams between triangles.
    mesh = Poly3DCollection(corners, facecolors=light, edgecolors=light, lw=0.2, zorder=1)
    ax.add_collection3d(mesh)


def _brightness(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Brightness of triangles in light from above and the front, the same on both sides."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1)
    towards = np.array([0.35, 0.75, 0.55]) / np.linalg.norm([0.35, 0.75, 0.55])
    return 0.6 + 0.4 * np.abs(normal @ towards) / np.maximum(length, 1e-30)


def _draw_lines(ax: Any, lines: Lines, factor: float, colour: str) -> None:
    if len(lines.starts) < 2:
        return
    ends = zip(lines.starts[:-1], lines.starts[1:], strict=True)
    pieces = [lines.points_m[start:stop] * factor for start, stop in ends]
    colours: Any = colour
    if (sorts := _sorts(lines)) is not None:
        name, kinds, which = sorts
        colours = [LINES[index] for index in which]
        for index, kind in enumerate(kinds):
            ax.plot([], [], [], color=LINES[index], lw=2, label=str(kind))
        ax.legend(loc="upper left", title=name.replace("_", " "))
    ax.add_collection3d(Line3DCollection(pieces, colors=colours, linewidths=1.6, zorder=2))
    single = np.array([piece[0] for piece in pieces if len(piece) == 1])
    if len(single):
        ax.plot(*single.T, ".", ms=4, color=INK, zorder=3)


def _sorts(lines: Lines) -> tuple[str, NDArray[Any], NDArray[np.intp]] | None:
    """The first column that sorts the lines into a few kinds: its name, the kinds, each line's."""
    for name, values in lines.data.items():
        if values.ndim == 1 and len(values) == len(lines.starts) - 1:
            kinds, which = np.unique(values, return_inverse=True)
            if 1 < len(kinds) < min(len(LINES), len(values)):
                return name, kinds, which
    return None


def decimate(
    points: NDArray[np.float64], triangles: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Fewer triangles of the same shape: points that share a cell of a grid become one.

    Parameters
    ----------
    points : (n, 3).
    triangles : (m, 3), indices of points.
    most : triangles wanted.

    Returns
    -------
    points, triangles, and for each triangle left its index among those given.
    """
    kept = np.arange(len(triangles))
    if len(triangles) <= most:
        return points, triangles, kept
    low = points.min(axis=0)
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    cells = 256.0
    while True:
        grid = np.floor((points - low) / extent * cells).astype(np.int64)
        flat = (grid[:, 0] * 1024 + grid[:, 1]) * 1024 + grid[:, 2]
        _, cell, count = np.unique(flat, return_inverse=True, return_counts=True)
        corners = cell[triangles]
        whole = (
            (corners[:, 0] != corners[:, 1])
            & (corners[:, 1] != corners[:, 2])
            & (corners[:, 0] != corners[:, 2])
        )
        _, first = np.unique(np.sort(corners[whole], axis=1), axis=0, return_index=True)
        chosen = np.sort(kept[whole][first])
        if len(chosen) <= most or cells < 4.0:
            middle = np.stack(
                [np.bincount(cell, points[:, k], len(count)) / count for k in range(3)], axis=1
            )
            return middle, cell[triangles[chosen]], chosen
        cells *= max(0.5, (most / len(chosen)) ** 0.5 * 0.97)
