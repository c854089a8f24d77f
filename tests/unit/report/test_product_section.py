"""The section of a product: every map, curve, table and body on the page, with its data."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.io.product import Curve, Lines, Map, Product, Surface, Table
from pipeline.io.products import Figure
from pipeline.report.markup import download
from pipeline.report.plots import decimate
from pipeline.report.products import product_section

PIXEL = 31e-9
SHAPE = (12, 14, 10)


def sphere(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a sphere, n rings."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, n), np.linspace(0, 2 * np.pi, n), indexing="ij")
    ring = np.sin(theta)
    points = np.stack([ring * np.cos(phi), ring * np.sin(phi), np.cos(theta)], -1).reshape(-1, 3)
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    both = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return points, both.reshape(-1, 3)


def product() -> Product:
    rng = np.random.default_rng(0)
    axis = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    points, triangles = sphere(12)
    return Product(
        "defects",
        "Defects <b>",
        "Lines & points.",
        maps={
            "signed": Map(axis[0], "rad", "scalar", PIXEL, "signed"),
            "angle": Map(np.abs(axis[0]), "degree", "scalar", PIXEL, "angle"),
            "few": Map(rng.integers(0, 4, SHAPE), "", "label", PIXEL, "few"),
            "many": Map(rng.integers(0, 90, SHAPE), "", "label", PIXEL, "many"),
            "axis": Map(axis, "", "axis", PIXEL, "axis"),
            "vector": Map(axis, "", "vector", PIXEL, "vector"),
            "empty": Map(np.full(SHAPE, np.nan), "", "scalar", PIXEL, "nothing here"),
        },
        tables={
            "rows": Table(
                {"kind": np.array(["a<b"] * 40), "position_m": np.full((40, 3), 1.5e-7)},
                {"position_m": "m"},
                "A line",
            ),
            "none": Table({"a": np.zeros(0)}, {}, "Pairs"),
        },
        curves={
            "c": Curve(
                np.arange(9.0), {"one": np.arange(9.0), "two": np.ones(9)}, "x", "y", "Line"
            ),
            "b": Curve(np.arange(9.0), {"n": np.arange(9.0)}, "x", "y", "Bars", "bars"),
        },
        surfaces={"s": Surface(points * 1e-6, triangles, {"v": triangles[:, 0] * 0.5}, "A ball")},
        lines={
            "l": Lines(
                points[:60] * 1e-6, np.array([0, 30, 59, 60]), {"q": np.array([1, -1, 1])}, "L"
            )
        },
        figures={"number_of_lines": Figure(3, "", None, "All.")},
        notes=("Mind the <gap>.",),
    )


@pytest.fixture(scope="module")
def text() -> str:
    return product_section(product())


def test_everything_is_shown_once_and_escaped(text):
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
    assert len(pictures) == 6 + 1 + 2
    for data, alt in pictures:
        assert len(alt) > 3
        assert imread(io.BytesIO(base64.b64decode(data))).std() > 0.02
    assert "Mind the &lt;gap&gt;." in text
    assert "<b>" not in text
    assert "nothing here: nothing to show, every voxel is empty." in text
    assert "12 of 40 rows." in text
    assert 'position <span class="u">[nm]</span>' in text
    assert "150, 150, 150" in text
    assert "None was found." in text


def test_the_data_of_every_plot_and_table_are_in_the_page(text):
    links = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', text))
    assert set(links) == {"defects-c.csv", "defects-b.csv", "defects-rows.csv"}
    rows = base64.b64decode(links["defects-rows.csv"]).decode().splitlines()
    assert len(rows) == 41
    assert rows[1] == "a<b,1.5e-07,1.5e-07,1.5e-07"


def test_a_long_table_is_cut_at_a_line_and_says_so():
    text = "a\n" + "".join(f"{k}\n" for k in range(1000))
    link = download(text, "f.csv", "data", most_bytes=100)
    inside = base64.b64decode(re.search(r'base64,([^"]+)"', link)[1]).decode()
    assert len(inside) <= 100
    assert inside.endswith("\n")
    rows = len(inside.splitlines()) - 1
    assert f"(the first {rows} rows; all of them:" in link
    assert text.startswith(inside)


def test_an_empty_product_is_words_only():
    text = product_section(Product("p", "t", "Nothing.", notes=("No grain.",)))
    assert text == '<p>Nothing.</p><p class="note">No grain.</p>'


def test_fewer_triangles_keep_the_shape():
    points, triangles = sphere(120)
    fewer, left, chosen = decimate(points, triangles, 3000)
    assert 500 < len(left) <= 3000
    assert len(chosen) == len(left)
    assert np.abs(np.linalg.norm(fewer, axis=1) - 1.0).max() < 0.1
    corners = fewer[left]
    area = (
        np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        ).sum()
        / 2
    )
    assert abs(area / (4 * np.pi) - 1.0) < 0.1
    same, all_of_them, _ = decimate(points, triangles, len(triangles))
    assert same is points
    assert all_of_them is triangles
