"""A product is the same after a step's files and after the result file, and viewers resolve it."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from pipeline.io.csv_text import curve_csv, table_csv
from pipeline.io.product import Curve, Lines, Map, Product, Surface, Table
from pipeline.io.product_files import load_product, save_product
from pipeline.io.products import Figure, ResultData
from pipeline.io.results import read_result, write_result

PIXEL = 31e-9


def full() -> Product:
    rng = np.random.default_rng(1)
    shape = (4, 5, 6)
    return Product(
        name="boundaries",
        title="Grain boundaries & more",
        summary="Faces between grains.",
        maps={
            "axis": Map(rng.random((3, *shape)).astype(np.float32), "", "axis", PIXEL, "axis"),
            "angle": Map(rng.random(shape).astype(np.float32), "degree", "scalar", PIXEL, "angle"),
            "inside": Map(rng.random(shape) > 0.5, "", "label", PIXEL, "inside"),
            "coarse": Map(np.arange(8, dtype=np.int32).reshape(2, 2, 2), "", "label", 6e-8, "c"),
        },
        tables={
            "angle": Table(
                {
                    "name": np.array(["tilt", "twist Å"]),
                    "area": np.array([1.5, 2.5]),
                    "centre": np.arange(6.0).reshape(2, 3),
                    "twin": np.array([True, False]),
                    "e/Å³": np.ones(2),
                },
                {"area": "m^2", "centre": "m"},
                "A boundary",
            ),
            "none": Table({"name": np.array([], np.str_), "a": np.zeros(0)}, {}, "Nothing"),
        },
        curves={
            "areas": Curve(
                np.arange(3.0), {"b": np.ones(3), "a": np.zeros(3)}, "angle [degree]", "n", "t"
            ),
            "bars": Curve(np.arange(2.0), {"n": np.ones(2)}, "x", "y", "t", "bars"),
            "dots": Curve(np.arange(2.0), {"n": np.ones(2)}, "x", "y", "t", "points"),
        },
        surfaces={
            "faces": Surface(
                np.eye(3), np.array([[0, 1, 2]]), {"class": np.array([3])}, "Faces in 3D"
            ),
            "none": Surface(np.zeros((0, 3)), np.zeros((0, 3), np.int64), {}, "None"),
        },
        lines={
            "defects": Lines(
                np.arange(9.0).reshape(3, 3), np.array([0, 2, 3]), {"charge": np.ones(2)}, "Lines"
            )
        },
        figures={
            "boundary_area": Figure(1.25, "µm²", None, "All of them."),
            "comets (+1/2)": Figure(3.0, "", 0.5, "Of one half."),
        },
        notes=("One.", "Two."),
    )


def same(a: object, b: object) -> bool:
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


def test_between_two_steps_nothing_is_lost(tmp_path):
    save_product(tmp_path, full())
    assert {item.name for item in tmp_path.iterdir()} == {"product.npz", "product.json"}
    assert same(load_product(tmp_path), full())
    save_product(tmp_path, Product("empty", "Empty", "Nothing was found."))
    assert same(load_product(tmp_path), Product("empty", "Empty", "Nothing was found."))


def test_the_same_product_gives_the_same_bytes(tmp_path):
    before = {}
    for _ in range(2):
        save_product(tmp_path, full())
        after = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
        assert before in ({}, after)
        before = after


def test_objects_are_refused(tmp_path):
    table = Table({"who": np.array([None, {}], dtype=object)}, {}, "t")
    with pytest.raises(ValueError, match="'bad': an array of object holds objects"):
        save_product(tmp_path, Product("bad", "t", "s", tables={"t": table}))


def test_the_result_file_gives_it_back(tmp_path):
    path = tmp_path / "result.nxs"
    products = {"boundaries": full(), "empty": Product("empty", "E", "S", notes=("None.",))}
    write_result(path, ResultData("s", PIXEL, products=products))
    assert same(read_result(path).products, products)


def test_viewers_find_signal_axes_and_units(tmp_path):
    path = tmp_path / "result.nxs"
    write_result(path, ResultData("s", PIXEL, products={"boundaries": full()}))
    with h5py.File(path) as file:
        entry = file["entry"]
        assert entry.attrs["default"] == "boundaries"
        group = entry["boundaries"]
        assert (group.attrs["NX_class"], group.attrs["signal"]) == ("NXdata", "angle")
        assert list(group.attrs["auxiliary_signals"]) == ["inside"]
        assert group["angle"].shape == (4, 5, 6)
        assert group["angle"].attrs["units"] == "degree"
        found = []

        def visit(name, item):
            if isinstance(item, h5py.Group) and item.attrs.get("NX_class") == "NXdata":
                found.append(name)
                signal, axes = item[item.attrs["signal"]], item.attrs["axes"]
                assert [item[axis].shape for axis in axes] == [(n,) for n in signal.shape]
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                assert "units" in item.attrs, name

        file.visititems(visit)
        views = ["boundaries", "boundaries/axis_components", "boundaries/coarse_view"]
        curves = ["boundaries/curves/areas", "boundaries/curves/bars", "boundaries/curves/dots"]
        assert sorted(found) == sorted(f"entry/{name}" for name in [*views, *curves])
        assert entry["boundaries/coarse_view/z"][0] == pytest.approx(-6e-8)
        assert entry["boundaries/curves/areas/x"].attrs["units"] == "degree"


def test_a_product_without_scalar_maps_opens_at_its_curve(tmp_path):
    path = tmp_path / "result.nxs"
    only = Product("c", "t", "s", curves=full().curves)
    axes = Product("a", "t", "s", maps={"axis": full().maps["axis"]})
    write_result(path, ResultData("s", PIXEL, products={"c": only, "a": axes}))
    with h5py.File(path) as file:
        for name, default in (("c", "curves/areas"), ("a", "axis_components")):
            group = file["entry"][name]
            assert (group.attrs["NX_class"], group.attrs["default"]) == ("NXprocess", default)
            assert group[default].attrs["NX_class"] == "NXdata"


def test_names_that_are_taken_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the name 'sample' is taken"):
        write_result(
            tmp_path / "r.nxs", ResultData("s", 1.0, products={"sample": Product("sample", "", "")})
        )
    shown = full().maps["angle"]
    wrong = Product("p", "", "", maps={"tables": shown})
    with pytest.raises(ValueError, match="a map cannot be called 'tables'"):
        write_result(tmp_path / "r.nxs", ResultData("s", 1.0, products={"p": wrong}))
    slash = Product("p", "", "", curves={"a/b": full().curves["areas"]})
    with pytest.raises(ValueError, match="'p': the name 'a/b' has a slash"):
        write_result(tmp_path / "r.nxs", ResultData("s", 1.0, products={"p": slash}))
    assert list(tmp_path.iterdir()) == []


def test_csv_has_units_and_every_digit():
    text = table_csv(full().tables["angle"])
    assert text.splitlines() == [
        "name,area [m^2],centre_x [m],centre_y [m],centre_z [m],twin,e/Å³",
        "tilt,1.5,0.0,1.0,2.0,True,1.0",
        "twist Å,2.5,3.0,4.0,5.0,False,1.0",
    ]
    assert curve_csv(full().curves["areas"]).splitlines()[:2] == [
        "angle [degree],b,a",
        "0.0,1.0,0.0",
    ]
    third = Table({"a": np.array([1 / 3], np.float32), "b": np.array([1 / 3])}, {}, "t")
    assert table_csv(third).splitlines()[1] == "0.33333334,0.3333333333333333"
