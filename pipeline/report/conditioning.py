"""The picture of what a geometry determines: by direction, by frequency, by number of mountings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.plan_geometry import SHOWN, Geometry
from pipeline.report.canvas import LINES, to_png


def geometry_picture(geometries: Sequence[Geometry]) -> bytes:
    """PNG with one row for each contrast.

    Left: the number of components that are determined in each direction of spatial frequency, at
    half of the Nyquist frequency (equal-area projection of the half sphere along z). Middle: the
    share of each component that is seen, against frequency. Right: what the first mountings alone
    would determine.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(geometries), 3, squeeze=False)
        for row, geometry in zip(axes, geometries, strict=True):
            _directions(figure, row[0], geometry)
            _frequencies(row[1], geometry)
            _mountings(row[2], geometry)

    return to_png(draw, (11.0, 3.2 * len(geometries)))


def write_picture(path: Path, geometries: Sequence[Geometry]) -> None:
    """Write `geometry_picture` into a file."""
    path.write_bytes(geometry_picture(geometries))


def _directions(figure: Figure, ax: Any, geometry: Geometry) -> None:
    along = np.asarray(geometry.directions)
    radius = np.sqrt(np.maximum(1.0 - along[:, 2], 0.0)) / np.maximum(
        np.hypot(along[:, 0], along[:, 1]), 1e-12
    )
    colours = mpl.colormaps["viridis"].resampled(geometry.most + 1)
    shown = ax.scatter(
        along[:, 0] * radius,
        along[:, 1] * radius,
        c=geometry.rank,
        cmap=colours,
        vmin=-0.5,
        vmax=geometry.most + 0.5,
        s=28,
        marker="o",
        linewidths=0,
    )
    bar = figure.colorbar(shown, ax=ax, ticks=range(geometry.most + 1))
    bar.set_label(f"components of {geometry.most}")
    ax.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
    ax.set_title(f"{geometry.contrast}: determined at {SHOWN:g} of Nyquist", fontsize=9)
    ax.set(xlabel="x", ylabel="y")


def _frequencies(ax: Any, geometry: Geometry) -> None:
    at = [item.frequency for item in geometry.frequencies]
    for index, name in enumerate(geometry.names):
        seen = [100.0 * item.observed[index] for item in geometry.frequencies]
        style = "-" if index < len(LINES) else "--"
        ax.plot(at, seen, style, marker="o", ms=3, color=LINES[index % len(LINES)], label=name)
    ax.set(xlabel="frequency / Nyquist", ylabel="seen [%]", ylim=(-3.0, 103.0))
    ax.set_title("share of each component that is seen", fontsize=9)
    ax.legend(ncols=2, fontsize=7)


def _mountings(ax: Any, geometry: Geometry) -> None:
    n = np.arange(1, len(geometry.mountings) + 1)
    rank = [item.at.components for item in geometry.mountings]
    complete = [100.0 * item.at.complete for item in geometry.mountings]
    ax.bar(n, rank, color="#9fb4c7", width=0.6)
    ax.set(xlabel="mountings", ylabel="components determined", xticks=n, ylim=(0, geometry.most))
    twin = ax.twinx()
    twin.plot(n, complete, "o-", color=LINES[1])
    twin.set(ylabel="complete directions [%]", ylim=(-3.0, 103.0))
    ax.set_title("how many tilts?", fontsize=9)
