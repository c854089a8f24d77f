"""Analyses of defects and edges: files of earlier steps to one product.

Registered in `analyses`, whose docstring says how their parameters are found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.analyse import defect_lines, defects_plane, hedgehogs
from pipeline.analyse import edges as edge_widths
from pipeline.io.product_files import save_product
from schemas.recipe import DefectSettings, EdgeSettings


def planar_defects(
    out: Path, fields: Path, assessment: Path, pixel_size_m: float, settings: DefectSettings
) -> None:
    """Winding of the axis in slices, linked into lines."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis, mask = whole["axis"], assessed["mask"]
    found = defects_plane.find_planar_defects(axis, mask, pixel_size_m, settings)
    save_product(out, defects_plane.as_product(found))


def disclinations(
    out: Path, fields: Path, assessment: Path, pixel_size_m: float, settings: DefectSettings
) -> None:
    """Disclination lines of the axis in three dimensions."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis, mask = whole["axis"], assessed["mask"]
    found = defect_lines.find_disclinations(axis, mask, pixel_size_m, settings)
    save_product(out, defect_lines.as_product(found))


def point_defects(
    out: Path, vector: Path, support: Path, pixel_size_m: float, settings: DefectSettings
) -> None:
    """Hedgehogs of the magnetisation, its emergent field and vorticity."""
    found = hedgehogs.find_hedgehogs(np.load(vector), np.load(support), pixel_size_m, settings)
    save_product(out, hedgehogs.as_product(found))


def edges(
    out: Path,
    pixel_size_m: float,
    settings: EdgeSettings,
    density_file: Path | None = None,
    fields: Path | None = None,
    grains_file: Path | None = None,
) -> None:
    """Widths of material surfaces, and of grain boundaries near 90 degrees."""
    found = []
    if density_file is not None:
        with np.load(density_file) as dense:
            volume, materials = dense["electron_density"], dense["materials"]
            names = [str(name) for name in dense["names"]]
        found += edge_widths.material_edges(volume, materials, names, pixel_size_m, settings)
    if fields is not None and grains_file is not None:
        with np.load(fields) as whole, np.load(grains_file) as grains:
            tensor, label = whole["tensor"], grains["label"]
        # Coarser grains say where a boundary is too roughly for its profile.
        if label.shape == tensor.shape[1:]:
            found += edge_widths.grain_edges(tensor, label, pixel_size_m, settings)
    save_product(out, edge_widths.as_product(found))
