"""Exports, read back by something other than their writer: an XML parser, tifffile, bytes."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.io.export import FORMATS, export_result
from pipeline.io.export.ome_zarr import write_ome_zarr
from pipeline.io.export.tiff import write_tiff
from pipeline.io.product import Curve, Lines, Map, Product, Surface, Table
from pipeline.io.products import (
    UNKNOWN_PIXEL_SIZE_M,
    DensityMap,
    Figure,
    GrainMap,
    MagnetisationMap,
    ResolutionCurve,
    ResultData,
)

PIXEL = 30e-9
SHAPE = (4, 6, 5)
NUMPY = {"Float32": "<f4", "Float64": "<f8", "UInt8": "<u1", "Int32": "<i4", "Int64": "<i8"}


def result() -> ResultData:
    rng = np.random.default_rng(0)
    support = rng.random(SHAPE) > 0.3
    density = rng.random(SHAPE).astype(np.float32)
    labels = rng.integers(0, 300, SHAPE).astype(np.int32)
    curve = np.linspace(1, 0, 5)
    product = Product(
        "boundaries",
        "Boundaries",
        "",
        maps={"far": Map(density[:2, :2, :2], "m", "scalar", 2 * PIXEL, "far")},
        tables={"faces": Table({"class": np.array(["a, b", "c"]), "n": np.arange(2)}, {}, "t")},
        curves={"angles": Curve(curve, {"area": curve}, "angle [degree]", "area", "t")},
        surfaces={
            "faces": Surface(
                np.array([[0, 0, 0], [1e-6, 0, 0], [0, 2e-6, 0], [0, 0, 3e-6]]),
                np.array([[0, 1, 2], [0, 2, 3]]),
                {"angle": np.array([15.0, 60.0]), "class": np.array(["twist", "tilt"])},
                "Faces",
            )
        },
        lines={
            "defects": Lines(
                np.arange(15.0).reshape(5, 3) * 1e-9,
                np.array([0, 2, 5]),
                {"charge": np.array([1, -1], np.int32), "normal": np.eye(3)[:2]},
                "Lines",
            )
        },
    )
    return ResultData(
        "pillar",
        PIXEL,
        magnetisation=MagnetisationMap(
            rng.standard_normal((3, *SHAPE)).astype(np.float32), support
        ),
        density=DensityMap(density, support.astype(np.uint8), ("m",), np.array([[0.0, 1.0]])),
        grains=GrainMap(labels, support.astype(np.uint8), {"label": np.arange(3)}, PIXEL),
        resolution={"density": ResolutionCurve(curve, curve, curve, curve, 1e-8, 2e-8)},
        residuals={"magnetisation": curve},
        products={"boundaries": product},
        figures={"grains": Figure(3.0, "", None, "All.")},
    )


def read_vtk(path: Path) -> tuple[ET.Element, dict[str, np.ndarray]]:
    """XML and arrays of a VTK file with appended raw data, by the format's own description."""
    raw = path.read_bytes()
    head, mark, rest = raw.partition(b'<AppendedData encoding="raw">_')
    assert mark
    assert rest.endswith(b"</AppendedData></VTKFile>\n")
    tree = ET.fromstring(head + b"</VTKFile>")
    assert tree.attrib["header_type"] == "UInt64"
    arrays = {}
    for item in tree.iter("DataArray"):
        offset = int(item.attrib["offset"])
        size = int(np.frombuffer(rest[offset : offset + 8], "<u8")[0])
        values = np.frombuffer(rest[offset + 8 : offset + 8 + size], NUMPY[item.attrib["type"]])
        parts = int(item.attrib["NumberOfComponents"])
        arrays[item.attrib["Name"]] = values.reshape(-1, parts) if parts > 1 else values
    return tree, arrays


def test_paraview_image_has_every_map_with_its_place(tmp_path):
    data = result()
    written = export_result(tmp_path / "new", data, "paraview")
    assert [path.name for path in written] == [
        "maps.vti",
        "maps-2.vti",
        "boundaries-faces.vtp",
        "boundaries-defects.vtp",
    ]
    tree, arrays = read_vtk(written[0])
    image = tree.find("ImageData")
    assert image.attrib["WholeExtent"] == "0 4 0 5 0 3"
    assert [float(n) for n in image.attrib["Origin"].split()] == pytest.approx([-60, -90, -60])
    assert [float(n) for n in image.attrib["Spacing"].split()] == pytest.approx([30] * 3)
    assert tree.find(".//PointData").attrib == {
        "Vectors": "magnetisation_vector [rad/voxel]",
        "Scalars": "density_electron_density [e/angstrom^3]",
    }
    vector = arrays["magnetisation_vector [rad/voxel]"].reshape(*SHAPE, 3)
    assert np.array_equal(np.moveaxis(vector, -1, 0), data.magnetisation.vector)
    assert np.array_equal(arrays["grains_label"].reshape(SHAPE), data.grains.label)
    assert arrays["grains_label"].dtype == np.int32
    support = arrays["magnetisation_support"].reshape(SHAPE)
    assert np.array_equal(support, data.magnetisation.support)
    _, other = read_vtk(written[1])
    assert list(other) == ["boundaries_far [m]"]


def test_paraview_surfaces_and_lines(tmp_path):
    written = {path.name: path for path in export_result(tmp_path, result(), "paraview")}
    tree, arrays = read_vtk(written["boundaries-faces.vtp"])
    assert tree.find(".//Piece").attrib == {"NumberOfPoints": "4", "NumberOfPolys": "2"}
    assert arrays["points [nm]"][3] == pytest.approx([0, 0, 3000])
    assert arrays["connectivity"].tolist() == [0, 1, 2, 0, 2, 3]
    assert arrays["offsets"].tolist() == [3, 6]
    assert arrays["angle"].tolist() == [15.0, 60.0]
    assert arrays["class (tilt, twist)"].tolist() == [1, 0]
    tree, arrays = read_vtk(written["boundaries-defects.vtp"])
    assert tree.find(".//Piece").attrib == {"NumberOfPoints": "5", "NumberOfLines": "2"}
    assert arrays["connectivity"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["offsets"].tolist() == [2, 5]
    assert arrays["charge"].tolist() == [1, -1]
    assert arrays["normal"].shape == (2, 3)


def test_csv_has_every_table_curve_and_number(tmp_path):
    written = export_result(tmp_path, result(), "csv")
    assert sorted(path.name for path in written) == [
        "boundaries-angles.csv",
        "boundaries-faces.csv",
        "figures.csv",
        "grains.csv",
        "residual-magnetisation.csv",
        "resolution-density.csv",
    ]
    with (tmp_path / "boundaries-faces.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["class", "n"], ["a, b", "0"], ["c", "1"]]
    assert (tmp_path / "figures.csv").read_text().splitlines()[1] == "grains,3.0,nan,,All."


def test_tiff_keeps_voxels_axes_and_size(tmp_path):
    data = result()
    written = {path.name: path for path in export_result(tmp_path, data, "tiff")}
    with tifffile.TiffFile(written["density-electron_density.tif"]) as file:
        series = file.series[0]
        assert series.axes == "ZYX"
        assert np.array_equal(series.asarray(), data.density.electron_density)
        assert file.imagej_metadata["unit"] == "um"
        assert file.imagej_metadata["spacing"] == pytest.approx(0.03)
        top, bottom = file.pages[0].tags["XResolution"].value
        assert top / bottom == pytest.approx(1 / 0.03, rel=1e-5)
    with tifffile.TiffFile(written["magnetisation-vector.tif"]) as file:
        assert file.series[0].axes == "ZCYX"
        found = np.moveaxis(file.series[0].asarray(), 1, 0)
        assert np.array_equal(found, data.magnetisation.vector)
    labels = tifffile.imread(written["grains-label.tif"])
    assert labels.dtype == np.uint16
    assert np.array_equal(labels, data.grains.label)


def test_tiff_of_a_volume_beyond_imagej_says_its_size_in_ome(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_tiff(tmp_path / "a.ome.tif", Map(values, "rad", "scalar", PIXEL, "t"), imagej=False)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_bigtiff
        pixels = ET.fromstring(file.ome_metadata).find(".//{*}Pixels").attrib
        assert np.array_equal(file.asarray(), values)
    assert float(pixels["PhysicalSizeZ"]) == pytest.approx(0.03)
    assert pixels["PhysicalSizeXUnit"] == "µm"


def test_ovf_can_be_read_by_its_description(tmp_path):
    data = result()
    (path,) = export_result(tmp_path, data, "ovf")
    raw = path.read_bytes()
    head, mark, body = raw.partition(b"# Begin: Data Binary 4\n")
    lines = head.decode().splitlines()
    assert mark
    assert lines[0] == "# OOMMF OVF 2.0"
    words = dict(re.fullmatch(r"# (\w+): ?(.*)", line).groups() for line in lines[4:-1])
    assert [words[f"{axis}nodes"] for axis in "xyz"] == ["5", "6", "4"]
    assert float(words["xbase"]) == pytest.approx(-2 * PIXEL)
    assert float(words["xmin"]) == pytest.approx(-2.5 * PIXEL)
    assert float(words["zmax"]) == pytest.approx(1.5 * PIXEL)
    assert float(words["ystepsize"]) == pytest.approx(PIXEL)
    assert words["valuedim"] == "3"
    assert len(words["valuelabels"].split()) == len(words["valueunits"].split()) == 3
    numbers = np.frombuffer(body[: 4 * (1 + 3 * 120)], "<f4")
    assert numbers[0] == 1234567.0
    field = np.moveaxis(numbers[1:].reshape(*SHAPE, 3), -1, 0)
    assert np.array_equal(field, data.magnetisation.vector)
    assert body[4 * 361 :] == b"\n# End: Data Binary 4\n# End: Segment\n"


def read_zarr(folder: Path) -> np.ndarray:
    """A Zarr array of format 2, chunk by chunk."""
    head = json.loads((folder / ".zarray").read_text())
    out = np.full(head["shape"], head["fill_value"], head["dtype"])
    for chunk in folder.rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            index = [int(part) for part in chunk.relative_to(folder).parts]
            block = np.frombuffer(zlib.decompress(chunk.read_bytes()), head["dtype"])
            cut = tuple(
                slice(k * n, (k + 1) * n) for k, n in zip(index, head["chunks"], strict=True)
            )
            fits = out[cut].shape
            out[cut] = block.reshape(head["chunks"])[tuple(slice(n) for n in fits)]
    return out


def test_ome_zarr_has_levels_in_their_places(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.random((70, 9, 130)).astype(np.float32)
    path = tmp_path / "a.ome.zarr"
    for _ in range(2):  # the second time in place of the first
        write_ome_zarr(path, Map(volume, "e", "scalar", PIXEL, "density"))
    assert json.loads((path / ".zgroup").read_text()) == {"zarr_format": 2}
    image = json.loads((path / ".zattrs").read_text())["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert [level["path"] for level in image["datasets"]] == ["0", "1", "2"]
    assert np.array_equal(read_zarr(path / "0"), volume)
    half = read_zarr(path / "1")
    assert half.shape == (35, 5, 65)
    assert half[3, 1, 7] == pytest.approx(volume[6:8, 2:4, 14:16].mean())
    scale, start = image["datasets"][1]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([0.06] * 3)
    # Voxel 0 of the half is the mean of voxels 0 and 1, whose middle is half a voxel further.
    assert start["translation"] == pytest.approx([0.03 * (0.5 - n // 2) for n in volume.shape])
    labels = rng.integers(0, 9, (3, 4, 5)).astype(np.int32)
    write_ome_zarr(path, Map(labels, "", "label", UNKNOWN_PIXEL_SIZE_M, "label"))
    assert np.array_equal(read_zarr(path / "0"), labels)
    assert sorted(item.name for item in path.iterdir()) == [".zattrs", ".zgroup", "0"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_result_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(InputError, match=f"the result has nothing that {name} could hold"):
        export_result(tmp_path, ResultData("s", PIXEL), name)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--to: expected one of paraview, csv, .* found 'stl'"):
        export_result(tmp_path, result(), "stl")


def test_empty_surfaces_and_lines_are_valid_files(tmp_path):
    nothing = Product(
        "p",
        "",
        "",
        surfaces={"s": Surface(np.zeros((0, 3)), np.zeros((0, 3), np.int64), {}, "")},
        lines={"l": Lines(np.zeros((0, 3)), np.zeros(1, np.int64), {"q": np.zeros(0)}, "")},
    )
    written = export_result(tmp_path, ResultData("s", PIXEL, products={"p": nothing}), "paraview")
    for path in written:
        tree, arrays = read_vtk(path)
        assert tree.find(".//Piece").attrib["NumberOfPoints"] == "0"
        assert len(arrays["offsets"]) == 0
