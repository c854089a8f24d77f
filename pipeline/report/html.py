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

from pipeline.analyse.score_uncertainty import curve_of_scores
from pipeline.io.products import Figure, ResultData
from pipeline.io.results import read_result, whole_or_nothing
from pipeline.report import figures, sections
from pipeline.report.geometry import refined_rotations
from pipeline.report.markup import format_number, picture, pretty, table, words
from pipeline.report.products import product_section
from pipeline.report.quality import quality_section
from pipeline.report.style import STYLE
from pipeline.report.viewer import viewer_section

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
        ("viewer", "Look inside", lambda: viewer_section(data)),
        ("truth", "Errors against the known truth", lambda: _score(errors)),
        ("orientation", "Crystal orientation", lambda: sections.orientation(data)),
        ("magnetisation", "Magnetisation", lambda: sections.magnetisation(data)),
        ("grains", "Grains", lambda: sections.grains(data)),
        ("density", "Electron density and materials", lambda: sections.density(data)),
        ("scalar", "Scalar tomogram", lambda: sections.scalar(data)),
        *(
            (name, product.title, partial(product_section, product))
            for name, product in data.products.items()
        ),
        ("resolution", "Resolution", lambda: sections.resolution(data)),
        ("projections", "Projections", lambda: sections.projections(data)),
        ("quality", "Quality of the projections", lambda: quality_section(data.quality)),
        ("alignment", "Alignment", lambda: sections.alignment(data)),
        ("angles", "Refined rotations", lambda: refined_rotations(data)),
        ("convergence", "Convergence of the reconstructions", lambda: sections.residuals(data)),
        ("numbers", "All numbers", lambda: _numbers(quoted)),
        ("provenance", "How this was made", lambda: _provenance(data)),
    ]
    shown = [(key, title, content) for key, title, make in parts if (content := make())]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown)
    body = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>'
        for key, title, content in shown
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
        f"{_tiles(_headlines({**errors, **quoted}))}{_doubts(data)}<nav>{links}</nav></header>"
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


def _doubts(data: ResultData) -> str:
    """What went beyond the limits, where nobody can miss it."""
    if not data.doubts:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in data.doubts)
    return f'<div class="doubts"><b>Look at this first</b><ul>{lines}</ul></div>'


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
        + _reliability(errors)
        + _numbers(errors)
    )


def _reliability(errors: Mapping[str, Figure]) -> str:
    curve = curve_of_scores({name: figure.value for name, figure in errors.items()})
    if curve is None:
        return ""
    return picture(
        figures.reliability_curve(curve),
        "Reliability curve of the stated uncertainties of the axis",
        "Are stated uncertainties true? Voxels are sorted by what they state, in five equal parts; "
        "each shows its median error against the one that it states. On the line they are equal, "
        "in the band within a quarter; above it the result claims too much.",
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
