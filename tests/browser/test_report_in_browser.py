"""The report in a real browser without a network: no complaint, every picture, a viewer that works.

The colours that the viewer computes are compared with those of the static pictures.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.analyse.axes import axis_tensor
from pipeline.analyse.materials import material_statistics
from pipeline.analyse.summary import summarise
from pipeline.io.products import DensityMap, GrainMap, MagnetisationMap, OrientationMap, ResultData
from pipeline.report.colours import axis_colours, vector_colours
from pipeline.report.html import render_report

pytestmark = pytest.mark.browser

PIXEL = 31e-9
SHAPE = (24, 40, 30)
READY = "document.getElementById('slices').dataset.ready !== undefined"
CURSOR = "document.getElementById('slices').dataset.cursor"
PIXEL_AT = """
(row, plane, across, up) => {
  const canvas = document.querySelectorAll('.planes')[row].querySelectorAll('canvas.slice')[plane];
  const data = canvas.getContext('2d').getImageData(
    Math.floor(across * canvas.width), Math.floor((1 - up) * canvas.height), 1, 1).data;
  return [data[0], data[1], data[2]];
}
"""


def result() -> ResultData:
    rng = np.random.default_rng(0)
    support = np.ones(SHAPE, bool)
    axis = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    x = np.arange(SHAPE[2], dtype=np.float32)
    density = np.broadcast_to(x / 10, SHAPE).astype(np.float32).copy()
    density[3] = np.nan
    labels = np.broadcast_to(1 + (x > 14), SHAPE).astype(np.uint8)
    dense = DensityMap(
        np.nan_to_num(density), labels, ("left", "right <i>"), np.array([[0.0, 1.4], [1.4, 3.0]])
    )
    table = {
        "label": np.array([1, 2]),
        "voxels": np.array([9, 9]),
        "volume_m3": np.array([1e-21, 1e-21]),
        "equivalent_diameter_m": np.array([1e-7, 2e-7]),
        "sphericity": np.array([0.7, 0.8]),
        "axis": np.eye(3)[:2],
        "spread_deg": np.array([1.0, 2.0]),
    }
    data = ResultData(
        "pillar",
        PIXEL,
        orientation=OrientationMap(
            axis_tensor(axis),
            axis,
            np.full(SHAPE, 1e-3, np.float32),
            np.ones(SHAPE, np.float32),
            support,
        ),
        magnetisation=MagnetisationMap(axis * 2, support),
        density=dense,
        grains=GrainMap(labels.astype(np.int32), np.zeros(SHAPE, np.uint8), table, PIXEL),
        products={"materials": material_statistics(dense, PIXEL).as_product()},
    )
    return dataclasses.replace(data, figures=summarise(data))


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(result()), encoding="utf-8")
    browser.open(path)
    browser.wait(READY)
    return browser


def test_opens_offline_without_a_complaint_and_every_picture_has_something_in_it(page):
    pictures = page.evaluate(
        "Promise.all([...document.images].map(async (i) => {await i.decode();"
        "const c = document.createElement('canvas'); c.width = i.naturalWidth;"
        "c.height = i.naturalHeight; const p = c.getContext('2d'); p.drawImage(i, 0, 0);"
        "const d = p.getImageData(0, 0, c.width, c.height).data;"
        "return new Set(new Uint32Array(d.buffer)).size}))"
    )
    assert len(pictures) >= 9
    assert min(pictures) > 20
    assert page.complaints() == []
    assert page.evaluate("document.querySelector('i') === null")


def test_the_viewer_is_there_within_three_seconds(page):
    assert float(page.evaluate("document.getElementById('slices').dataset.ready")) < 3000


def test_a_click_moves_the_cursor_in_all_planes_and_the_values_follow(page):
    page.click("canvas[data-plane='x-y']", (20 + 0.5) / 30, 1 - (10 + 0.5) / 40)
    assert page.evaluate(CURSOR) == "12,10,20"
    text = page.evaluate("document.querySelector('.readout').innerText")
    # x = (20 - 15) voxels of 31 nm, y = (10 - 20) voxels; the density there is 20 / 10.
    assert "x 0.155, y -0.310, z 0.000 µm" in text
    density = text.split("electron density")[1].split("e/Å³")[0]
    assert float(density) == pytest.approx(2.0, abs=3.0 / 1022)
    assert "right <i>" in text
    page.click("canvas[data-plane='z-y']", (5 + 0.5) / 24, 1 - (30 + 0.5) / 40)
    assert page.evaluate(CURSOR) == "5,30,20"
    page.click("canvas[data-plane='x-z']", (7 + 0.5) / 30, 1 - (22 + 0.5) / 24)
    assert page.evaluate(CURSOR) == "22,30,7"
    assert page.complaints() == []


def test_the_keyboard_moves_it_too_and_it_stays_inside(page):
    page.click("canvas[data-plane='x-y']", (20 + 0.5) / 30, 1 - (10 + 0.5) / 40)
    page.evaluate("document.querySelector(\"canvas[data-plane='x-y']\").focus()")
    z = int(page.evaluate(CURSOR).split(",")[0])
    for key in ("ArrowRight", "ArrowUp", "PageUp"):
        page.press(key)
    assert page.evaluate(CURSOR) == f"{min(z + 1, 23)},11,21"
    for _ in range(12):
        page.press("ArrowRight")
    assert page.evaluate(CURSOR).split(",")[2] == "29"


def _choose(page, row: int, title: str) -> None:
    page.evaluate(
        f"(() => {{const s = document.querySelectorAll('#slices select')[{row}];"
        f"s.value = [...s.options].findIndex((o) => o.text === '{title}');"
        "s.dispatchEvent(new Event('change'))})()"
    )


def _colour(page, row: int, plane: int, across: float, up: float) -> list[int]:
    return page.evaluate(f"({PIXEL_AT})({row}, {plane}, {across}, {up})")


def test_directions_have_the_colours_of_the_pictures(page):
    data = result()
    page.click("canvas[data-plane='x-y']", (20 + 0.5) / 30, 1 - (10 + 0.5) / 40)
    z, _, x = (int(part) for part in page.evaluate(CURSOR).split(","))
    _choose(page, 1, "crystal axis")
    for at_y, at_x in ((13, 4), (33, 26), (25, 12)):
        seen = _colour(page, 1, 0, (at_x + 0.5) / 30, (at_y + 0.5) / 40)
        wanted = 255 * axis_colours(data.orientation.axis[:, z, at_y, at_x][:, None])[0]
        assert seen == pytest.approx(wanted, abs=4)
    _choose(page, 1, "magnetisation")
    top = float(np.linalg.norm(data.magnetisation.vector, axis=0).max())
    for at_y, at_z in ((3, 4), (33, 20)):
        seen = _colour(page, 1, 1, (at_z + 0.5) / 24, (at_y + 0.5) / 40)
        vector = data.magnetisation.vector[:, at_z, at_y, x] / top
        wanted = 255 * vector_colours(vector[2:], vector[1:2], vector[:1])[0]
        assert seen == pytest.approx(wanted, abs=4)
    _choose(page, 1, "crystal axis")


def test_labels_have_their_names_and_slices_can_be_saved(page):
    _choose(page, 0, "material")
    assert _colour(page, 0, 0, 2.5 / 30, 37.5 / 40) == [0, 114, 178]
    assert _colour(page, 0, 0, 27.5 / 30, 37.5 / 40) == [213, 94, 0]
    _choose(page, 0, "electron density")
    saved = page.evaluate(
        "new Promise((done) => {const old = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => {blob.text().then(done); return old(blob)};"
        "document.querySelector('#slices button').click(); URL.createObjectURL = old})"
    )
    lines = saved.splitlines()
    assert lines[0] == 'slice,x [µm],y [µm],z [µm],"electron density [e/Å³]"'
    assert len(lines) == 1 + 30 * 40 + 24 * 40 + 30 * 24
    assert lines[1].startswith("x-y,-0.465,-0.620,")


def test_downloads_are_whole(page):
    texts = page.evaluate(
        "[...document.querySelectorAll('a[download]')].map((a) => [a.download,"
        "atob(a.getAttribute('href').split(',')[1])])"
    )
    names = [name for name, _ in texts]
    assert "materials-materials.csv" in names
    assert len(names) == len(set(names))
    assert all(text.count("\n") >= 2 for _, text in texts)
