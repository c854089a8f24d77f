"""The report: one file, nothing from outside, and nothing about products that are absent."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.analyse.axes import axis_tensor
from pipeline.analyse.grains import segment_grains
from pipeline.analyse.resolution import fourier_shell_correlation
from pipeline.analyse.summary import summarise
from pipeline.errors import InputError
from pipeline.io.products import (
    UNKNOWN_PIXEL_SIZE_M,
    DensityMap,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResultData,
    ScalarMap,
    SeriesAlignment,
    SeriesPreview,
    SeriesQuality,
)
from pipeline.io.results import write_result
from pipeline.report.html import render_report, write_report
from pipeline.report.markup import format_number
from pipeline.report.quality import quality_section
from schemas.provenance import Provenance, StepRecord
from schemas.recipe import GrainSettings

SHAPE = (20, 26, 22)
PIXEL = 31e-9
SECTIONS = (
    "viewer",
    "truth",
    "orientation",
    "magnetisation",
    "grains",
    "density",
    "scalar",
    "resolution",
    "projections",
    "quality",
    "alignment",
    "convergence",
    "numbers",
    "provenance",
)


class _Page(HTMLParser):
    """What the page refers to, and whether its tags close."""

    def __init__(self, text: str):
        super().__init__()
        self.images: list[tuple[str, str]] = []
        self.references: list[str] = []
        self.sections: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)
        if tag == "img":
            self.images.append((known["src"], known["alt"]))
        if tag == "section":
            self.sections.append(known["id"])
        self.references += [known[key] for key in ("src", "href") if key in known]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _quality() -> SeriesQuality:
    scores = np.zeros((5, 5))
    scores[3, 2] = 9.0
    reasons = ("", "", "", "blur 4.1 <b>, neighbours 2.4", "")
    return SeriesQuality(
        np.arange(5.0) * 36,
        np.arange(5) + 1,
        np.ones((5, 5)),
        scores,
        scores.max(axis=1) > 6,
        reasons,
        (0,),
        ("Cut to rows 1 to 9 & more.",),
    )


def _orientation_result() -> ResultData:
    rng = np.random.default_rng(0)
    z, _, x = np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij")
    support = z**2 + x**2 < 9**2
    axis = np.where(x < 0, 1.0, 0.0) * np.array([1.0, 0, 0])[:, None, None, None]
    axis = axis + np.where(x >= 0, 1.0, 0.0) * np.array([0, 0.6, 0.8])[:, None, None, None]
    axis = (axis * support).astype(np.float32)
    density = (0.82 * support + 0.02 * rng.standard_normal(SHAPE)).astype(np.float32)
    uncertainty = np.where(support, 2.0 + rng.random(SHAPE), 0).astype(np.float32)
    magnitude = (1.8e-3 * support).astype(np.float32)
    curve = fourier_shell_correlation(density, density + 0.1 * rng.standard_normal(SHAPE), PIXEL)
    image = rng.standard_normal((2, 12, 14)).astype(np.float32)
    data = ResultData(
        sample="pillar <b> & Å",
        pixel_size_m=PIXEL,
        orientation=OrientationMap(
            axis_tensor(axis), axis, magnitude, magnitude, support, uncertainty
        ),
        density=DensityMap(
            density, support.astype(np.uint8), ("V2O5",), np.array([[0.74, 0.9]]), support, 0.02
        ),
        grains=segment_grains(axis, support, GrainSettings(), pixel_size_m=PIXEL),
        resolution={"density": curve},
        alignment={
            "tilt1_lh": SeriesAlignment(
                np.ones((5, 2)),
                np.arange(5.0),
                np.ones((3, 5)),
                np.full((5, 2), 0.1),
                np.arange(5) == 3,
                axis_tilt_deg=-0.125,
                converged=False,
            )
        },
        mountings={"tilt1": Mounting(np.eye(3), np.zeros(3), 0.99)},
        doubts=("agreement: 0.84 (tilt3, a < b)",),
        residuals={"orientation": np.array([1.0, 0.5, 0.25])},
        quality={"tilt1_lh": _quality()},
        previews={"tilt1_lh": SeriesPreview(image, image, np.array([0.0, 90.0]), PIXEL)},
        provenance=Provenance(
            software_version="0.1.0",
            python_version="3.12",
            packages={"numpy": "2.0"},
            device="two cores",
            started=datetime(2026, 1, 1, tzinfo=UTC),
            finished=datetime(2026, 1, 1, 0, 5, tzinfo=UTC),
            beamtime='{"sample": {"name": "pillar"}}',
            recipe='{"seed": 7}',
            inputs=[],
            steps=[StepRecord(name="align tilt1_lh", key="ab" * 32, seconds=1.5)],
        ),
    )
    return dataclasses.replace(data, figures=summarise(data))


@pytest.fixture(scope="module")
def page_text(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    write_result(folder / "result.nxs", _orientation_result())
    score = {
        "orientation_error_median_deg": {"value": 1.1, "unit": "degree", "description": "median"}
    }
    for part in range(1, 6):
        for name in ("stated", "found"):
            entry = {"value": 0.3 * part, "unit": "degree", "description": "reliability"}
            score[f"uncertainty_fifth_{part}_{name}_deg"] = entry
    write_report(folder / "report.html", folder / "result.nxs", score)
    assert {item.name for item in folder.iterdir()} == {"result.nxs", "report.html"}
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_whole_and_needs_nothing_from_outside(page_text):
    page = _Page(page_text)
    assert page.open == []
    for reference in page.references:
        assert reference.startswith(("data:", "#")), reference[:80]
    words = re.sub(r"[A-Za-z0-9+/]{80,}", "", page_text)  # without what is packed
    assert "http:" not in words
    assert "https:" not in words
    assert "url(" not in words
    assert "default-src 'none'" in words
    assert re.findall(r"<script[^>]*\bsrc=", words) == []


def test_every_product_has_its_section_and_every_link_a_target(page_text):
    page = _Page(page_text)
    expected = [name for name in SECTIONS if name not in {"magnetisation", "scalar"}]
    assert page.sections == expected
    targets = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert targets == set(expected)


def test_bad_projections_are_named_with_the_line_to_paste(page_text):
    page = _Page(page_text)
    assert "Unlike their neighbours: 1 of 5. They were used" in page.text
    assert "blur 4.1 <b>, neighbours 2.4" in page.text
    assert "exclude: [0, 4]" in page.text
    assert "Cut to rows 1 to 9 & more." in page.text
    clean = dataclasses.replace(_quality(), outliers=np.zeros(5, bool), scores=np.zeros((5, 5)))
    text = quality_section({"a": clean})
    assert "No projection is unlike its neighbours." in text
    assert "exclude:" not in text
    assert quality_section({}) == ""


def test_the_data_of_every_plot_are_in_the_page(page_text):
    links = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', page_text))
    names = "pole-figure orientation-uncertainty grain-diameters grains electron-density "
    names += "resolution-density shifts joint-shifts updates residual-orientation quality"
    assert set(links) == {f"{name}.csv" for name in names.split()}
    for text in links.values():
        assert len(base64.b64decode(text).decode().splitlines()) >= 2
    pole = np.loadtxt(
        io.BytesIO(base64.b64decode(links["pole-figure.csv"])), delimiter=",", skiprows=1
    )
    assert np.linalg.norm(pole[:, :3], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert pole[:, 3].mean() == pytest.approx(1.0, abs=0.05)


def test_every_picture_shows_something_and_has_a_text(page_text):
    page = _Page(page_text)
    assert len(page.images) >= 12
    for source, alt in page.images:
        assert len(alt) > 10
        pixels = imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert pixels.std() > 0.02


def test_what_the_joint_round_found_is_shown_where_there_was_one(page_text):
    shown = "Part of the shifts that was found with the dichroism in the model"
    assert shown in [alt for _, alt in _Page(page_text).images]
    plain = ResultData(
        sample="s",
        pixel_size_m=PIXEL,
        alignment={"a": SeriesAlignment(np.ones((5, 2)), np.arange(5.0), np.ones((3, 5)))},
    )
    page = _Page(render_report(plain))
    assert len(page.images) >= 2
    assert shown not in [alt for _, alt in page.images]


def test_the_rotation_axis_and_projections_left_out_are_told(page_text):
    page = _Page(page_text)
    assert "Update of every projection in every round" in [alt for _, alt in page.images]
    for words in ("-0.125", "not determined", "no: more rounds", "3.0°"):
        assert words in page.text


def test_what_is_doubtful_stands_above_everything_else(page_text):
    at = page_text.index("agreement: 0.84 (tilt3, a &lt; b)")
    assert at < page_text.index("<nav>") < page_text.index("<main>")
    assert "Look at this first" not in render_report(ResultData("sample", 3e-8))


def test_names_are_escaped_and_settings_are_shown(page_text):
    assert "pillar &lt;b&gt; &amp; Å" in page_text
    page = _Page(page_text)
    assert '"seed": 7' in page.text
    assert "align tilt1_lh" in page.text
    assert "orientation error median" in page.text
    assert re.search(r"0\.82\d*.{0,60}e/Å³", page.text)


def test_magnetisation_alone_makes_a_report():
    rng = np.random.default_rng(0)
    support = np.ones(SHAPE, bool)
    vector = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    data = ResultData(
        "lattice", UNKNOWN_PIXEL_SIZE_M, magnetisation=MagnetisationMap(vector, support)
    )
    page = _Page(render_report(dataclasses.replace(data, figures=summarise(data))))
    assert page.sections == ["viewer", "magnetisation", "numbers"]
    assert len(page.images) == 2
    assert "voxel size" not in page.text


def test_empty_products_are_said_to_be_empty():
    nothing = np.zeros(SHAPE, bool)
    zero = np.zeros(SHAPE, np.float32)
    data = ResultData(
        "nothing",
        PIXEL,
        orientation=OrientationMap(
            np.zeros((6, *SHAPE), np.float32),
            np.zeros((3, *SHAPE), np.float32),
            zero,
            zero,
            nothing,
        ),
        magnetisation=MagnetisationMap(np.zeros((3, *SHAPE), np.float32), nothing),
        scalar=ScalarMap(zero, nothing),
        grains=segment_grains(
            np.zeros((3, *SHAPE), np.float32), nothing, GrainSettings(), pixel_size_m=PIXEL
        ),
    )
    page = _Page(render_report(dataclasses.replace(data, figures=summarise(data))))
    assert page.sections == [
        "viewer",
        "orientation",
        "magnetisation",
        "grains",
        "scalar",
        "numbers",
    ]
    assert "No voxel carries an orientation." in page.text
    assert "The support is empty" in page.text
    assert "No grain was found." in page.text


def test_empty_density_is_drawn():
    zero = np.zeros(SHAPE, np.float32)
    maps = DensityMap(zero, zero.astype(np.uint8), (), np.zeros((0, 2)))
    page = _Page(render_report(ResultData("empty", PIXEL, density=maps)))
    assert page.sections == ["viewer", "density"]


def test_a_result_that_cannot_be_read_leaves_no_report(tmp_path):
    (tmp_path / "result.nxs").write_bytes(b"no")
    with pytest.raises(InputError, match=r"result\.nxs: cannot be read as HDF5"):
        write_report(tmp_path / "report.html", tmp_path / "result.nxs")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("value", "uncertainty", "expected"),
    [
        (0.8204, 0.0031, "0.820 ± 0.003"),
        (0.8204, 0.0014, "0.8204 ± 0.0014"),
        (451.3, 161.0, "451 ± 161"),
        (14200.0, None, "14 200"),
        (98.914, None, "98.9"),
        (0.08, None, "0.08"),
        (1.1234, None, "1.12"),
        (2.5e-9, None, "2.5e-09"),
        (0.0, None, "0"),
        (1.5, float("nan"), "1.5"),
        (float("nan"), None, "n/a"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(value, uncertainty, expected):
    assert format_number(value, uncertainty) == expected


def test_reliability_curve_is_shown_where_truth_is_known(page_text):
    assert "Reliability curve of the stated uncertainties" in page_text
    assert "Reliability curve" not in render_report(_orientation_result())
