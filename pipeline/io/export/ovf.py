"""Magnetisation and other vector fields as OVF 2.0, which OOMMF, mumax3 and Ubermag read.

Notes
-----
Format: OOMMF User's Guide, "The OVF 2.0 Format", https://math.nist.gov/oommf/doc/userguide20a3.
Binary 4: little-endian float32 behind the check value 1234567.0, x fastest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.io.export.content import result_maps
from pipeline.io.product import Map
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, ResultData

CHECK = 1234567.0


def export_ovf(folder: Path, data: ResultData) -> list[Path]:
    """Write every vector field, and every axis field with one of its two signs, as `.ovf`."""
    written = []
    for group, members in result_maps(data).items():
        for name, shown in members.items():
            if shown.kind in ("vector", "axis"):
                written.append(folder / f"{group}-{name}.ovf")
                write_ovf(written[-1], shown)
    return written


def write_ovf(path: Path, shown: Map) -> None:
    """One field of three components; the sample's origin lies at (0, 0, 0)."""
    shape = shown.values.shape[1:]
    step = shown.pixel_size_m
    limits = []
    for axis, n in zip("xyz", reversed(shape), strict=True):
        low = (-(n // 2) - 0.5) * step
        first = low + 0.5 * step
        limits += [
            f"{axis}min: {low:.9g}",
            f"{axis}max: {low + n * step:.9g}",
            f"{axis}base: {first:.9g}",
            f"{axis}nodes: {n}",
            f"{axis}stepsize: {step:.9g}",
        ]
    unit = shown.unit.replace(" ", "") or "1"
    word = path.stem.replace(" ", "_")
    names = " ".join(f"{word}_{axis}" for axis in "xyz")
    header = [
        "OOMMF OVF 2.0",
        "Segment count: 1",
        "Begin: Segment",
        "Begin: Header",
        f"Title: {shown.title}",
        f"Desc: {'an axis: its sign has no meaning' if shown.kind == 'axis' else shown.title}",
        f"meshunit: {'m' if step != UNKNOWN_PIXEL_SIZE_M else '1'}",
        "meshtype: rectangular",
        *limits,
        "valuedim: 3",
        f"valuelabels: {names}",
        f"valueunits: {unit} {unit} {unit}",
        "End: Header",
        "Begin: Data Binary 4",
    ]
    with path.open("wb") as file:
        file.write("".join(f"# {line}\n" for line in header).encode())
        file.write(np.array([CHECK], "<f4").tobytes())
        file.write(np.moveaxis(shown.values, 0, -1).astype("<f4").tobytes())
        file.write(b"\n# End: Data Binary 4\n# End: Segment\n")
