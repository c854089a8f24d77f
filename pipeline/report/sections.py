"""Sections of the report about the parts of a result that every run knows; empty without them."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.density import Materials, material_densities
from pipeline.io.csv_text import curve_csv, table_csv
from pipeline.io.export.content import alignment_table, joint_table, result_curves, update_table
from pipeline.io.product import Curve, Table
from pipeline.io.products import GRAIN_UNITS, DensityMap, GrainMap, ResultData, SeriesAlignment
from pipeline.report import figures, slices
from pipeline.report.markup import download, format_number, picture, table

BINS_OF_A_POLE_FIGURE = 81

LARGEST_GRAINS = 12
"""Rows of the table of grains."""


def _curve(curve: Curve, file: str) -> str:
    return download(curve_csv(curve), f"{file}.csv", "data")


def _rows(table: Table, file: str) -> str:
    return download(table_csv(table), f"{file}.csv", "data")


def _bars(
    values: NDArray[np.floating], label: str, file: str, limits: tuple[float, float] | None = None
) -> str:
    """Link to the counts of a histogram."""
    edges, counts = figures.histogram_bins(values, limits)
    centres = 0.5 * (edges[1:] + edges[:-1])
    return _curve(Curve(centres, {"number": counts}, label, "number", "", "bars"), file)


def _pole_table(axis: NDArray[np.floating]) -> Table:
    """Density of axes as a table: direction and multiples of uniform."""
    density = figures.pole_density(axis, BINS_OF_A_POLE_FIGURE)
    step = (np.arange(BINS_OF_A_POLE_FIGURE) + 0.5) / BINS_OF_A_POLE_FIGURE * 2.0 - 1.0
    inside = ~np.ma.getmaskarray(density)
    v, u = (grid[inside] for grid in np.meshgrid(step, step, indexing="ij"))
    # Lambert's projection of the hemisphere, back to the direction.
    z = 1.0 - u**2 - v**2
    scale = np.sqrt(1.0 + z)
    columns = {"x": u * scale, "y": v * scale, "z": z, "density": density.compressed()}
    return Table({k: c.astype(np.float32) for k, c in columns.items()}, {}, "Pole figure")


def orientation(data: ResultData) -> str:
    """Crystal axes: slices, pole figure, uncertainty, strength."""
    maps = data.orientation
    if maps is None:
        return ""
    inside = maps.carries
    if not inside.any():
        return "<p>No voxel carries an orientation.</p>"
    parts = [
        picture(
            slices.orientation_slices(maps.axis, inside, data.pixel_size_m),
            "Slices of the crystal axis in colour, with the colour key",
            "Direction of the crystal axis. An axis has no sign, so opposite directions share a "
            "colour: along x blue, along y yellow, along z magenta, the diagonals between x and y "
            "light and dark. The disc is the key: all axes seen along z. Voxels with hardly any "
            "dichroism show none.",
        ),
        '<div class="row">',
        picture(
            figures.pole_figure(maps.axis[:, inside]),
            "Pole figure of the crystal axes",
            "Pole figure: how often each direction occurs, in multiples of a sample without "
            "preferred direction (equal-area projection along z). "
            + _rows(_pole_table(maps.axis[:, inside]), "pole-figure"),
        ),
    ]
    if maps.uncertainty_deg is not None:
        # Zero stands for voxels whose uncertainty was not asked for.
        values = maps.uncertainty_deg[inside & (maps.uncertainty_deg > 0)]
        typical = float(np.median(values)) if values.size else 0.0
        unjudged = 100.0 * (1.0 - values.size / max(1, int(np.count_nonzero(maps.support))))
        parts.append(
            picture(
                figures.histogram(
                    values,
                    "uncertainty of the axis [degree]",
                    lines=[(typical, f"median {typical:.2f}°")],
                ),
                "Histogram of the uncertainty of the axis",
                "Uncertainty (rms angle) of each voxel's axis, from a twin of the data that was "
                "made of this result and reconstructed alike: noise, prior and resolution; and as "
                "much larger as the magnitude scatters more than that twin says. It is too small "
                "in the one or two voxels beside a grain boundary or the surface, which hold more "
                f"than one axis, and is not stated for {unjudged:.0f} % of the support. "
                + _bars(values, "uncertainty of the axis [degree]", "orientation-uncertainty"),
            )
        )
    parts.append("</div>")
    parts.append(
        picture(
            slices.volume_slices(
                np.where(maps.support, maps.magnitude * 1e3, np.nan),
                maps.support,
                data.pixel_size_m,
                "dichroic contrast [mrad/voxel]",
            ),
            "Slices of the dichroic contrast",
            "Strength of the dichroism, which is the same everywhere in one material; it falls "
            "where grains meet within a voxel.",
        )
    )
    return "".join(parts)


def magnetisation(data: ResultData) -> str:
    """Magnetisation: slices and magnitude."""
    maps = data.magnetisation
    if maps is None:
        return ""
    if not maps.support.any():
        return "<p>The support is empty: there is no magnetisation.</p>"
    length = np.linalg.norm(maps.vector[:, maps.support], axis=0)
    return picture(
        slices.vector_slices(maps.vector, maps.support, data.pixel_size_m),
        "Slices of the magnetisation: colour by direction, with arrows and the colour key",
        "Magnetisation. Arrows show the component in the slice, the hue its direction; light "
        "points along the axis normal to the slice, dark against it.",
    ) + picture(
        figures.histogram(
            length,
            f"magnitude [{maps.unit}]",
            lines=[(float(np.median(length)), "median")],
        ),
        "Histogram of the magnitude of the magnetisation",
        "Magnitude inside the support. "
        + _bars(length, f"magnitude [{maps.unit}]", "magnetisation-magnitude"),
    )


def scalar(data: ResultData) -> str:
    """Scalar tomogram, where there is no density."""
    # The electron density is the scalar tomogram in better units.
    if data.scalar is None or data.density is not None:
        return ""
    maps = data.scalar
    return picture(
        slices.volume_slices(
            maps.volume, maps.support, data.pixel_size_m, f"reconstructed [{maps.unit}]"
        ),
        "Slices of the scalar tomogram",
        "What the sum of both polarisations, or a series without dichroism, shows.",
    )


def density(data: ResultData) -> str:
    """Electron density and materials: slices."""
    maps = data.density
    if maps is None:
        return ""
    matter = maps.materials > 0
    inside = matter if matter.any() else maps.electron_density > 0
    low = min(0.0, float(np.quantile(maps.electron_density, 0.01)))
    high = float(np.quantile(maps.electron_density[inside], 0.995)) if inside.any() else 1.0
    bands = [
        (float(start), float(stop), name)
        for name, (start, stop) in zip(maps.names, maps.windows, strict=True)
    ]
    parts = [
        picture(
            slices.volume_slices(
                maps.electron_density,
                inside,
                data.pixel_size_m,
                "electron density [e/Å³]",
                limits=(low, high),
            ),
            "Slices of the electron density",
            "Electron density from the phase of the series off resonance.",
        ),
        picture(
            slices.label_slices(maps.materials, maps.names, data.pixel_size_m),
            "Slices of the materials",
            "Materials by their window of density.",
        ),
    ]
    if "materials" not in data.products:
        parts += _density_numbers(maps, bands, low, high)
    return "".join(parts)


def _density_numbers(
    maps: DensityMap, bands: list[tuple[float, float, str]], low: float, high: float
) -> list[str]:
    """Histogram and table, where no product tells them."""
    limits = (low - 0.1 * high, 1.2 * high)
    label = "electron density [e/Å³]"
    return [
        '<div class="wide-right">',
        picture(
            figures.histogram(maps.electron_density, label, bands=bands, log=True, limits=limits),
            "Histogram of the electron density with the windows of the materials",
            "All voxels; the peak at zero is air"
            + (f", whose rms is {maps.noise:.3f} e/Å³. " if maps.noise > 0 else ". ")
            + _bars(maps.electron_density, label, "electron-density", limits),
        ),
        f"<div>{_material_table(maps)}</div></div>",
    ]


def _material_table(maps: DensityMap) -> str:
    materials = Materials(maps.materials, maps.names, maps.windows)
    densities = material_densities(maps.electron_density, materials, maps.keep)
    rows = [
        [
            escape(found.name),
            f"{start:.2f} to {stop:.2f}" if math.isfinite(stop) else f"above {start:.2f}",
            format_number(found.density, found.uncertainty),
            format_number(found.spread),
            format_number(found.voxels),
        ]
        for found, (start, stop) in zip(densities, maps.windows, strict=True)
    ]
    header = ["material", "window [e/Å³]", "median [e/Å³]", "voxel scatter", "interior voxels"]
    return table(header, rows) if rows else ""


def grains(data: ResultData) -> str:
    """Grains: slices, diameters, the largest ones."""
    maps = data.grains
    if maps is None:
        return ""
    n = len(maps.table["voxels"]) if "voxels" in maps.table else 0
    if n == 0:
        return "<p>No grain was found.</p>"
    diameter = np.asarray(maps.table["equivalent_diameter_m"]) * 1e9
    grains_csv = table_csv(Table(maps.table, GRAIN_UNITS, "Grains"))
    return "".join(
        [
            picture(
                slices.grain_slices(maps),
                "Slices of the grains, each in a colour of its own",
                f"{n} grains, each in a colour of its own; boundaries are darker. Colours say "
                "nothing about orientation here.",
            ),
            '<div class="wide-right">',
            picture(
                figures.histogram(
                    diameter,
                    "equivalent diameter [nm]",
                    lines=[(float(np.median(diameter)), f"median {np.median(diameter):.0f} nm")],
                    limits=(0.0, 1.05 * float(diameter.max())),
                    counted="grains",
                ),
                "Histogram of the diameters of the grains",
                "Diameter of the ball of equal volume. "
                + _bars(
                    diameter,
                    "equivalent diameter [nm]",
                    "grain-diameters",
                    (0.0, 1.05 * float(diameter.max())),
                ),
            ),
            f"<div><h3>The largest grains</h3>{_grain_table(maps)}"
            f'<p class="sub">{download(grains_csv, "grains.csv", "all grains")}</p></div>',
            "</div>",
        ]
    )


def _grain_table(maps: GrainMap) -> str:
    known = maps.table
    columns: list[tuple[str, Callable[[int], str]]] = [
        ("grain", lambda i: str(int(known["label"][i]))),
        ("volume [µm³]", lambda i: f"{known['volume_m3'][i] * 1e18:.4f}"),
        ("diameter [nm]", lambda i: f"{known['equivalent_diameter_m'][i] * 1e9:.0f}"),
        ("sphericity", lambda i: f"{known['sphericity'][i]:.2f}"),
        ("axis x, y, z", lambda i: ", ".join(f"{c:+.2f}" for c in known["axis"][i])),
        ("spread [°]", lambda i: f"{known['spread_deg'][i]:.1f}"),
    ]
    if "electron_density" in known:
        columns.append(("e/Å³", lambda i: f"{known['electron_density'][i]:.3f}"))
    order = np.argsort(-np.asarray(known["voxels"]), kind="stable")[:LARGEST_GRAINS]
    rows = [[cell(int(i)) for _, cell in columns] for i in order]
    return table([name for name, _ in columns], rows)


def resolution(data: ResultData) -> str:
    """Fourier shell correlation."""
    if not data.resolution:
        return ""
    curves = result_curves(data)
    return picture(
        figures.shell_correlation(data.resolution),
        "Fourier shell correlation curves",
        "Fourier shell correlation of two reconstructions with half of the projections each. The "
        "resolution (half period) is where the curve meets the half-bit threshold. Data: "
        + ", ".join(
            _curve(curves[f"resolution-{name}"], f"resolution-{name}") for name in data.resolution
        ),
    )


def projections(data: ResultData) -> str:
    """A few projections of each series, raw and aligned."""
    if not data.previews:
        return ""
    pictures = "".join(
        f"<div><h3>{escape(name)}</h3>"
        + picture(figures.projections(preview), f"Raw and aligned projections of series {name}")
        + "</div>"
        for name, preview in data.previews.items()
    )
    return (
        "<p>A few projections of each series: above the phase as it was read, wrapped and with its "
        "ramp; below the same projection with air at zero, in its place.</p>"
        f'<div class="row">{pictures}</div>'
    )


def _axis_row(name: str, series: SeriesAlignment) -> list[str]:
    """Cells of the table of rotation axes; what the angles cannot tell is said so."""
    tilt, lean = "not determined", "not determined"
    if np.isfinite(series.axis_tilt_deg):
        tilt = f"{series.axis_tilt_deg:+.3f}"
    if np.isfinite(series.axis_pitch_deg):
        lean = f"{series.axis_pitch_deg:+.2f} ± {series.axis_pitch_error_deg:.2f}"
    out = ", ".join(
        f"{angle:.1f}°" for angle in series.angles_deg[: len(series.left_out)][series.left_out]
    )
    settled = "yes" if series.converged else "no: more rounds, or see the pictures"
    return [escape(name), tilt, lean, settled, out or "none"]


def alignment(data: ResultData) -> str:
    """Shifts, their convergence, and the mountings."""
    if not data.alignment:
        return ""
    parts = [
        '<div class="row">',
        picture(
            figures.shifts(data.alignment),
            "Shifts of every series against the rotation angle",
            "Shift that was added to each projection. "
            + _rows(alignment_table(data.alignment), "shifts"),
        ),
    ]
    if any(series.updates_px.size for series in data.alignment.values()):
        parts.append(
            picture(
                figures.convergence(data.alignment),
                "Size of the updates of the shifts against the iteration",
                "Update of the shifts in each round of reconstruction, projection and "
                "registration; steps upwards are changes to a finer binning. "
                + _rows(update_table(data.alignment), "updates"),
            )
        )
        parts.append(
            picture(
                figures.convergence_of_projections(data.alignment),
                "Update of every projection in every round",
                "The same for each projection: a bright column is one that does not settle.",
            )
        )
    if any(series.joint_px.size for series in data.alignment.values()):
        parts.append(
            picture(
                figures.joint_shifts(data.alignment),
                "Part of the shifts that was found with the dichroism in the model",
                "What dichroism had passed for a shift between partners: found with one field that "
                "explains all their differences in the model, and added to the shifts, half to "
                "each partner. " + _rows(joint_table(data.alignment), "joint-shifts"),
            )
        )
    parts.append("</div>")
    parts.append("<h3>Rotation axis and convergence</h3>")
    header = ["series", "axis tilt [degree]", "lean along the beam [degree]", "settled", "left out"]
    rows = [_axis_row(name, series) for name, series in data.alignment.items()]
    parts.append(table(header, rows))
    if data.mountings:
        rows = [
            [
                escape(name),
                f"{mounting.correlation:.4f}",
                f"{mounting.turned_deg:.2f}",
                ", ".join(f"{value:+.2f}" for value in mounting.shift_px),
            ]
            for name, mounting in data.mountings.items()
        ]
        parts.append("<h3>Mountings in the sample frame</h3>")
        header = ["mounting", "correlation", "from nominal [degree]", "shift x, y, z [voxel]"]
        parts.append(table(header, rows))
    return "".join(parts)


def residuals(data: ResultData) -> str:
    """Convergence of the reconstructions."""
    curves = {name: values for name, values in data.residuals.items() if len(values)}
    known = result_curves(data)
    if not curves:
        return ""
    return picture(
        figures.residuals(curves),
        "Relative residual of each reconstruction against the iteration",
        "Difference of measured and calculated projections, relative to the measured ones. Data: "
        + ", ".join(_curve(known[f"residual-{name}"], f"residual-{name}") for name in curves),
    )
