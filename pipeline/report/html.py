"""The report: one HTML file that opens anywhere, without a network.

Each part of the page is made from one product of `result.nxs` and left out where the product is
absent. Style sheet and pictures are inside the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analyse.density import Materials, material_densities
from pipeline.io.products import DensityMap, Figure, GrainMap, ResultData
from pipeline.io.results import read_result, whole_or_nothing
from pipeline.report import figures, slices
from pipeline.report.markup import format_number, picture, pretty, table, words
from pipeline.report.products import product_section
from pipeline.report.quality import quality_section
from pipeline.report.style import STYLE
from pipeline.report.viewer import viewer_section

LARGEST_GRAINS = 12
"""Rows of the table of grains."""

POLICY = "default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'"
"""What a browser may do with the page: nothing that leaves it."""

HEADLINES = (
    "orientation_error_median_deg",
    "orientation_within_10deg_percent",
    "orientation_uncertainty",
    "dichroic_contrast",
    "correlation_x",
    "correlation_y",
    "correlation_z",
    "magnetisation_magnitude",
    "electron_density_",
    "alignment_residual_px",
    "grains",
    "grain_diameter",
    "resolution_density",
    "voxel_size",
)
"""Figures for the head of the page, by name or beginning of the name, most telling ones first."""


def write_report(
    report_path: Path, result_path: Path, score: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write the report of a result.

    Parameters
    ----------
    report_path : file to write; it appears when it is whole.
    result_path : `result.nxs`.
    score : errors against known truth, as from `pipeline.analyse.score.score_result`.

    Raises
    ------
    InputError
        If the result cannot be read.
    """
    page = render_report(read_result(result_path), score)
    with whole_or_nothing(report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_report(data: ResultData, score: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The report as one HTML document.

    Parameters
    ----------
    data : the result.
    score : errors against known truth, if there is any.
    """
    quoted = dict(data.figures)
    errors = {
        name: Figure(float(entry["value"]), entry["unit"], None, entry.get("description", ""))
        for name, entry in (score or {}).items()
    }
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("truth", "Errors against the known truth", lambda: _score(errors)),
        ("viewer", "Look inside", lambda: viewer_section(data)),
        ("orientation", "Crystal orientation", lambda: _orientation(data)),
        ("magnetisation", "Magnetisation", lambda: _magnetisation(data)),
        ("grains", "Grains", lambda: _grains(data)),
        ("density", "Electron density and materials", lambda: _density(data)),
        ("scalar", "Scalar tomogram", lambda: _scalar(data)),
        *(
            (name, product.title, partial(product_section, product))
            for name, product in data.products.items()
        ),
        ("resolution", "Resolution", lambda: _resolution(data)),
        ("projections", "Projections", lambda: _projections(data)),
        ("quality", "Quality of the projections", lambda: quality_section(data.quality)),
        ("alignment", "Alignment", lambda: _alignment(data)),
        ("convergence", "Convergence of the reconstructions", lambda: _residuals(data)),
        ("numbers", "All numbers", lambda: _numbers(quoted)),
        ("provenance", "How this was made", lambda: _provenance(data)),
    ]
    sections = [(key, title, content) for key, title, make in parts if (content := make())]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>'
        for key, title, content in sections
    )
    made = "" if data.provenance is None else f"{data.provenance.finished:%Y-%m-%d %H:%M} UTC"
    version = "" if data.provenance is None else data.provenance.software_version
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(data.sample)}: dichroic tomography</title>"
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(data.sample)}</h1>"
        f'<p class="sub">Dichroic tomography{": " + made if made else ""}</p>'
        f"{_tiles(_headlines({**errors, **quoted}))}<nav>{links}</nav></header>"
        f"<main>{body}</main>"
        f"<footer>Made by dichrotomo {escape(version)}. The numbers and volumes are in "
        "<code>result.nxs</code> beside this page.</footer></body></html>"
    )


def _headlines(known: Mapping[str, Figure], most: int = 10) -> dict[str, Figure]:
    chosen: dict[str, Figure] = {}
    for wanted in HEADLINES:
        for name, figure in known.items():
            # Noise and errors of a quantity are numbers for the tables.
            beginning = wanted.endswith("_") and name.startswith(wanted)
            secondary = name.endswith(("_noise", "_error_percent"))
            if (name == wanted or (beginning and not secondary)) and math.isfinite(figure.value):
                chosen.setdefault(name, figure)
    return dict(list(chosen.items())[:most])


def _tiles(chosen: Mapping[str, Figure]) -> str:
    tiles = []
    for name, figure in chosen.items():
        value, _, error = format_number(figure.value, figure.uncertainty).partition(" ± ")
        behind = " ".join(part for part in (f"± {error}" if error else "", figure.unit) if part)
        tiles.append(
            f'<div class="tile" title="{escape(figure.description)}"><b>{value} '
            f"<small>{escape(behind)}</small></b><span>{words(name)}</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _numbers(known: Mapping[str, Figure]) -> str:
    rows = [
        [
            words(name),
            format_number(figure.value, figure.uncertainty),
            escape(figure.unit),
            escape(figure.description),
        ]
        for name, figure in known.items()
    ]
    return table(["", "value", "unit", "what it is"], rows, (2, 3)) if rows else ""


def _score(errors: Mapping[str, Figure]) -> str:
    if not errors:
        return ""
    return (
        "<p>The data were simulated from, or published with, a known sample. What was "
        "reconstructed is compared with it here; nothing but a translation is fitted away.</p>"
        + _numbers(errors)
    )


def _orientation(data: ResultData) -> str:
    maps = data.orientation
    if maps is None:
        return ""
    inside = maps.support & (np.linalg.norm(maps.axis, axis=0) > 0.5)
    if not inside.any():
        return "<p>No voxel carries an orientation.</p>"
    parts = [
        picture(
            slices.orientation_slices(maps.axis, inside, data.pixel_size_m),
            "Slices of the crystal axis in colour, with the colour key",
            "Direction of the crystal axis. An axis has no sign, so opposite directions share a "
            "colour: along x blue, along y yellow, along z magenta, the diagonals between x and y "
            "light and dark. The disc is the key: all axes seen along z.",
        ),
        '<div class="row">',
        picture(
            figures.pole_figure(maps.axis[:, inside]),
            "Pole figure of the crystal axes",
            "Pole figure: how often each direction occurs, in multiples of a sample without "
            "preferred direction (equal-area projection along z).",
        ),
    ]
    if maps.uncertainty_deg is not None:
        # Zero stands for voxels whose uncertainty was not asked for.
        values = maps.uncertainty_deg[inside & (maps.uncertainty_deg > 0)]
        typical = float(np.median(values)) if values.size else 0.0
        parts.append(
            picture(
                figures.histogram(
                    values,
                    "uncertainty of the axis [degree]",
                    lines=[(typical, f"median {typical:.2f}°")],
                ),
                "Histogram of the uncertainty of the axis",
                "Uncertainty (rms angle) of each voxel's axis, from a twin of the data that was "
                "made of this result and reconstructed alike: noise, prior and resolution.",
            )
        )
    parts.append("</div>")
    parts.append(
        picture(
            slices.volume_slices(
                np.where(inside, maps.magnitude * 1e3, np.nan),
                inside,
                data.pixel_size_m,
                "dichroic contrast [mrad/voxel]",
            ),
            "Slices of the dichroic contrast",
            "Strength of the dichroism, which is the same everywhere in one material; it falls "
            "where grains meet within a voxel.",
        )
    )
    return "".join(parts)


def _magnetisation(data: ResultData) -> str:
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
        "Magnitude inside the support.",
    )


def _scalar(data: ResultData) -> str:
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


def _density(data: ResultData) -> str:
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
        '<div class="wide-right">',
        picture(
            figures.histogram(
                maps.electron_density,
                "electron density [e/Å³]",
                bands=bands,
                log=True,
                limits=(low - 0.1 * high, 1.2 * high),
            ),
            "Histogram of the electron density with the windows of the materials",
            "All voxels; the peak at zero is air"
            + (f", whose rms is {maps.noise:.3f} e/Å³." if maps.noise > 0 else "."),
        ),
        f"<div>{_material_table(maps)}</div></div>",
    ]
    return "".join(parts)


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


def _grains(data: ResultData) -> str:
    maps = data.grains
    if maps is None:
        return ""
    n = len(maps.table["voxels"]) if "voxels" in maps.table else 0
    if n == 0:
        return "<p>No grain was found.</p>"
    diameter = np.asarray(maps.table["equivalent_diameter_m"]) * 1e9
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
                "Diameter of the ball of equal volume.",
            ),
            f"<div><h3>The largest grains</h3>{_grain_table(maps)}</div>",
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


def _resolution(data: ResultData) -> str:
    if not data.resolution:
        return ""
    return picture(
        figures.shell_correlation(data.resolution),
        "Fourier shell correlation curves",
        "Fourier shell correlation of two reconstructions with half of the projections each. The "
        "resolution (half period) is where the curve meets the half-bit threshold.",
    )


def _projections(data: ResultData) -> str:
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


def _alignment(data: ResultData) -> str:
    if not data.alignment:
        return ""
    parts = [
        '<div class="row">',
        picture(
            figures.shifts(data.alignment),
            "Shifts of every series against the rotation angle",
            "Shift that was added to each projection.",
        ),
    ]
    if any(series.updates_px.size for series in data.alignment.values()):
        parts.append(
            picture(
                figures.convergence(data.alignment),
                "Size of the updates of the shifts against the iteration",
                "Update of the shifts in each round of reconstruction, projection and "
                "registration; steps upwards are changes to a finer binning.",
            )
        )
    if any(series.joint_px.size for series in data.alignment.values()):
        parts.append(
            picture(
                figures.joint_shifts(data.alignment),
                "Part of the shifts that was found with the dichroism in the model",
                "What dichroism had passed for a shift between partners: found with one field that "
                "explains all their differences in the model, and added to the shifts, half to "
                "each partner.",
            )
        )
    parts.append("</div>")
    if data.mountings:
        rows = [
            [
                escape(name),
                f"{mounting.correlation:.4f}",
                ", ".join(f"{value:+.2f}" for value in mounting.shift_px),
            ]
            for name, mounting in data.mountings.items()
        ]
        parts.append("<h3>Mountings in the sample frame</h3>")
        parts.append(table(["mounting", "correlation", "shift x, y, z [voxel]"], rows))
    return "".join(parts)


def _residuals(data: ResultData) -> str:
    curves = {name: values for name, values in data.residuals.items() if len(values)}
    if not curves:
        return ""
    return picture(
        figures.residuals(curves),
        "Relative residual of each reconstruction against the iteration",
        "Difference of measured and calculated projections, relative to the measured ones.",
    )


def _provenance(data: ResultData) -> str:
    record = data.provenance
    if record is None:
        return ""
    seconds = (record.finished - record.started).total_seconds()
    packages = ", ".join(f"{name} {version}" for name, version in record.packages.items())
    facts = [
        ["software", escape(f"dichrotomo {record.software_version}")],
        ["Python and packages", escape(f"{record.python_version}; {packages}")],
        ["device", escape(record.device)],
        ["time", f"{record.started:%Y-%m-%d %H:%M:%S} UTC, {format_number(round(seconds, 1))} s"],
        ["input files", f"{len(record.inputs)}, each with its SHA-256 in result.nxs"],
    ]
    steps = [
        [escape(step.name), f"{step.seconds:.1f}", f"<code>{escape(step.key[:12])}</code>"]
        for step in record.steps
    ]
    folded = [
        ("Steps", table(["step", "seconds", "key"], steps, (2,)) if steps else ""),
        ("Recipe: every setting", pretty(record.recipe)),
        ("Beamtime", pretty(record.beamtime)),
    ]
    details = "".join(
        f"<details><summary>{title}</summary>{content}</details>"
        for title, content in folded
        if content
    )
    return table(["", ""], facts, (1,)) + details
