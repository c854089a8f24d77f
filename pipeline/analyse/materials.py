"""Materials in numbers: the histogram of the electron density, and a row for each material."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.density import MaterialDensity, Materials, material_densities
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, DensityMap

BINS = 160
"""Bins of the histogram: some fifty across a peak that is as wide as a third of the density."""


@dataclass(frozen=True)
class MaterialStatistics:
    """What a density map says about each material.

    Attributes
    ----------
    rows : one a material, in the order of the map.
    windows : (n, 2) float64 [e/Å³].
    volumes_m3 : (n,) float64 [m³]; in voxels where the voxel size is not known.
    density : (BINS,) float64 [e/Å³], centres of the bins.
    counts : name -> (BINS,) float64 [voxel]: all voxels, and those of each material.
    known_size : whether the voxel size is known.
    """

    rows: tuple[MaterialDensity, ...]
    windows: NDArray[np.float64]
    volumes_m3: NDArray[np.float64]
    density: NDArray[np.float64]
    counts: dict[str, NDArray[np.float64]]
    known_size: bool

    def as_product(self) -> Product:
        """The same as tables and curves."""
        table = Table(
            columns={
                "material": np.array([row.name for row in self.rows], dtype=np.str_),
                "window_low": self.windows[:, 0],
                "window_high": self.windows[:, 1],
                "density": np.array([row.density for row in self.rows]),
                "uncertainty": np.array([row.uncertainty for row in self.rows]),
                "voxel_scatter": np.array([row.spread for row in self.rows]),
                "interior_voxels": np.array([row.voxels for row in self.rows], dtype=np.int64),
                "volume": self.volumes_m3,
            },
            units={
                **dict.fromkeys(
                    ("window_low", "window_high", "density", "uncertainty", "voxel_scatter"),
                    "e/angstrom^3",
                ),
                "interior_voxels": "voxel",
                "volume": "m^3" if self.known_size else "voxel",
            },
            title="Materials by their window of density",
        )
        histogram = Curve(
            x=self.density,
            lines=self.counts,
            x_label="electron density [e/angstrom^3]",
            y_label="number [voxel]",
            title="Histogram of the electron density",
            style="bars",
        )
        return Product(
            name="materials",
            title="Materials in numbers",
            summary="Each material's density is the median over its interior, away from its "
            "surface and from the masked shell; the uncertainty is that of the median, from the "
            "scatter of blocks and from what halves, air and edges say beyond it.",
            tables={"materials": table},
            curves={"histogram": histogram},
            notes=() if self.rows else ("No material stands out from air.",),
        )


def material_statistics(maps: DensityMap, pixel_size_m: float) -> MaterialStatistics:
    """Histogram, density and volume of every material.

    Parameters
    ----------
    maps : density and materials.
    pixel_size_m : edge of a voxel [m].
    """
    materials = Materials(maps.materials, maps.names, maps.windows)
    values = maps.electron_density[np.isfinite(maps.electron_density)]
    low, high = (float(np.quantile(values, q)) if values.size else q for q in (0.0005, 0.9995))
    margin = 0.05 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    counts = {"all voxels": np.histogram(values, edges)[0].astype(np.float64)}
    volumes = []
    for index, name in enumerate(maps.names):
        chosen = maps.electron_density[maps.materials == index + 1]
        counts[name] = np.histogram(chosen, edges)[0].astype(np.float64)
        volumes.append(chosen.size * pixel_size_m**3)
    return MaterialStatistics(
        rows=tuple(
            material_densities(
                maps.electron_density, materials, maps.keep, systematic=maps.systematic
            )
        ),
        windows=maps.windows,
        volumes_m3=np.array(volumes, dtype=np.float64),
        density=0.5 * (edges[1:] + edges[:-1]),
        counts=counts,
        known_size=pixel_size_m != UNKNOWN_PIXEL_SIZE_M,
    )
