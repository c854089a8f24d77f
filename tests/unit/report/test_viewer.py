"""What the viewer is given: the right voxels, averaged as their kind asks, within the limit."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest

from pipeline.analyse.axes import axis_tensor
from pipeline.io.product import Map, Product
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, OrientationMap, ResultData, ScalarMap
from pipeline.report.viewer import Grid, viewer_section

PIXEL = 20e-9


def unpack(text: str) -> tuple[dict, list[np.ndarray]]:
    """Description and values of the layers of a viewer."""
    meta = json.loads(re.search(r'id="slices-meta">([^<]+)<', text)[1])
    packed = re.findall(r'id="layer-\d+">([^<]+)<', text)
    layers = []
    for layer, data in zip(meta["layers"], packed, strict=True):
        raw = np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8)
        planes = raw.reshape(-1, *meta["shape"])
        if layer["kind"] in ("axis", "vector"):
            layers.append(planes.view(np.int8) / 127 * layer["top"])
            continue
        steps = planes[0] + 256.0 * planes[1]
        if layer["kind"] == "scalar":
            scale = (layer["high"] - layer["low"]) / (layer["levels"] - 1)
            steps = np.where(steps > 0, layer["low"] + (steps - 1) * scale, np.nan)
        layers.append(steps)
    return meta, layers


def test_every_voxel_of_a_small_result():
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((9, 8, 7)).astype(np.float32)
    support = np.ones(volume.shape, bool)
    meta, (scalar,) = unpack(
        viewer_section(ResultData("s", PIXEL, scalar=ScalarMap(volume, support)))
    )
    assert scalar == pytest.approx(volume, abs=0.6 * float(np.ptp(volume)) / 1022)
    assert meta["shape"] == [9, 8, 7]
    assert meta["first"] == pytest.approx([-3 * PIXEL, -4 * PIXEL, -4 * PIXEL])
    assert (meta["unit"], meta["scale"], meta["step"]) == ("nm", 1e9, PIXEL)
    assert meta["layers"][0]["window"][0] == -meta["layers"][0]["window"][1]


def test_a_large_result_is_averaged_until_it_fits():
    rng = np.random.default_rng(0)
    shape = (32, 40, 32)
    support = np.ones(shape, bool)
    axis = np.zeros((3, *shape), np.float32)
    # Alternating signs of one axis: the mean of components would vanish.
    axis[1] = rng.choice([-1.0, 1.0], shape)
    axis[:, :8] = 0.0
    maps = OrientationMap(axis_tensor(axis), axis, np.abs(axis[1]), axis[1], support)
    label = Map(np.arange(axis[0].size).reshape(shape) % 50000, "", "label", PIXEL, "label")
    noise = Map(rng.random(shape).astype(np.float32), "", "scalar", PIXEL, "noise")
    coarse = Map(np.ones((16, 20, 16), np.float32), "", "scalar", 2 * PIXEL, "coarse")
    product = Product("p", "", "", maps={"l": label, "n": noise, "c": coarse})
    data = ResultData("s", PIXEL, orientation=maps, products={"p": product})
    limit = 30_000
    text = viewer_section(data, limit)
    assert sum(len(part) for part in re.findall(r'id="layer-\d+">([^<]+)<', text)) <= limit
    meta, layers = unpack(text)
    found = {layer["title"]: values for layer, values in zip(meta["layers"], layers, strict=True)}
    edge = round(meta["step"] / PIXEL)
    assert edge > 1
    assert f"the mean over {edge} × {edge} × {edge} voxels" in text
    nz, ny, nx = meta["shape"]
    blocks = noise.values[: nz * edge, : ny * edge, : nx * edge]
    means = blocks.reshape(nz, edge, ny, edge, nx, edge).mean((1, 3, 5))
    assert found["noise"] == pytest.approx(means, abs=1e-3)
    full = 8 // edge + 1
    assert np.abs(found["crystal axis"][1, full:]) == pytest.approx(1.0)
    assert not found["crystal axis"][:, : 8 // edge].any()
    inside = np.isin(found["label"], label.values)
    assert inside.all()
    assert np.nanmax(found["coarse"]) == 1.0
    assert meta["first"][2] == pytest.approx((-16 + (edge - 1) / 2) * PIXEL)


def test_other_grids_are_taken_at_the_same_place():
    values = np.zeros((6, 6, 6), np.float32)
    values[3, 3, 3] = 1.0  # at the origin
    coarse = Map(values, "", "scalar", 3 * PIXEL, "coarse")
    fine = ScalarMap(np.ones((15, 15, 15), np.float32), np.ones((15, 15, 15), bool))
    data = ResultData(
        "s", PIXEL, scalar=fine, products={"p": Product("p", "", "", maps={"c": coarse})}
    )
    _, (_, found) = unpack(viewer_section(data))
    expected = np.zeros((15, 15, 15))
    expected[6:9, 6:9, 6:9] = 1.0
    assert np.array_equal(np.nan_to_num(found), expected)


def test_lengths_are_voxels_where_their_size_is_unknown():
    fine = ScalarMap(np.ones((5, 5, 5), np.float32), np.ones((5, 5, 5), bool))
    meta, _ = unpack(viewer_section(ResultData("s", UNKNOWN_PIXEL_SIZE_M, scalar=fine)))
    assert (meta["unit"], meta["step"]) == ("voxel", 1.0)


def test_nothing_to_look_at_is_no_viewer():
    assert viewer_section(ResultData("s", PIXEL)) == ""


def test_names_cannot_end_the_script():
    evil = Map(np.ones((3, 3, 3), np.float32), "", "scalar", PIXEL, "</script><b>")
    text = viewer_section(
        ResultData("s", PIXEL, products={"p": Product("p", "", "", maps={"m": evil})})
    )
    assert "</script><b>" not in text
    assert unpack(text)[0]["layers"][0]["title"] == "</script><b>"


def test_centres_of_blocks():
    grid = Grid.over((10, 10, 10), (slice(2, 9),) * 3, 3, 1.0)
    assert grid.shape == (2, 2, 2)
    assert grid.centres_m(0).tolist() == [-2.0, 1.0]
