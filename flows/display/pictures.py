"""Pictures of a run for its page in the UI: small, because they lie in the server's database."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

MOST_BYTES = 60_000
"""Of one picture. Four of them make a page that a database keeps without noticing."""


def embedded(png: bytes, alt: str) -> str:
    """A picture inside Markdown."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(small(png)).decode()})"


_COLOURS = {"green": (0, 158, 115), "amber": (230, 159, 0), "red": (213, 60, 40)}


@cache
def dot(colour: str, edge_px: int = 14) -> str:
    """A coloured dot inside Markdown."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (4 * edge_px, 4 * edge_px), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((2, 2, 4 * edge_px - 3, 4 * edge_px - 3), _COLOURS[colour])
    buffer = io.BytesIO()
    image.resize((edge_px, edge_px), Image.Resampling.LANCZOS).save(buffer, format="png")
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"![{colour}](data:image/png;base64,{text})"


def small(png: bytes, most_bytes: int = MOST_BYTES) -> bytes:
    """The picture with a palette, and with fewer pixels if that is not enough."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for scale in (1.0, 0.8, 0.6, 0.4):
        size = (round(image.width * scale), round(image.height * scale))
        resized = image if scale == 1.0 else image.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        resized.quantize(96).save(buffer, format="png", optimize=True)
        if len(buffer.getvalue()) <= most_bytes:
            break
    return buffer.getvalue()


def tomogram(volume: Path, pixel_m: float, label: str = "phase lost per voxel [rad]") -> bytes:
    """Orthoslices of a scalar volume `(z, y, x)`."""
    from pipeline.report.slices import volume_slices

    values = np.load(volume)
    return volume_slices(values, np.ones(values.shape, np.bool_), pixel_m, label)


def axes(fields: Path, support: Path, pixel_m: float) -> bytes:
    """Orthoslices of the crystal axis."""
    from pipeline.report.slices import orientation_slices

    with np.load(fields) as found:
        return orientation_slices(found["axis"], np.load(support), pixel_m)


def vectors(vector: Path, support: Path, pixel_m: float) -> bytes:
    """Orthoslices of the magnetisation."""
    from pipeline.report.slices import vector_slices

    return vector_slices(np.load(vector), np.load(support), pixel_m)


def shifts(folders: Mapping[str, Path], binning: int = 1) -> bytes:
    """Shifts of every mounting against the angle [pixel of the data]."""
    from pipeline.io.products import SeriesAlignment
    from pipeline.report import figures

    found = {}
    for name, folder in folders.items():
        with np.load(folder / "alignment.npz") as file:
            moved = binning * file["shifts_0"]
            found[name] = SeriesAlignment(moved, file["angles_deg"])
    return figures.shifts(found)


def residuals(curves: Mapping[str, Sequence[float]]) -> bytes:
    """Residuals of the reconstructions against the iteration."""
    from pipeline.report import figures

    return figures.residuals({name: np.asarray(values) for name, values in curves.items()})
