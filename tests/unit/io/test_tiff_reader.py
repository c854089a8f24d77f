"""TIFF stacks and single images, of both byte orders, and tables of angles beside them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.io.beamtime import series_angles
from pipeline.io.raw import read_series
from schemas.series import Series

READER = reader_for("tiff")


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(5).uniform(-2, 0, (3, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_stack(tmp_path: Path, stack: np.ndarray, byteorder: str, compression: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stack, byteorder=byteorder, compression=compression, photometric="minisblack"
    )
    info = READER.inspect(path)
    assert (info.n_frames, info.shape, info.complex) == (3, (6, 8), False)
    # The resolution tags of a plain file are dots per inch, not a measurement.
    assert (info.pixel_size_m, info.energy_ev, info.angles_deg) == (None, None, None)
    frames = np.stack(list(READER.frames(path)))
    assert frames.dtype == np.float32
    assert frames.dtype.isnative
    np.testing.assert_array_equal(frames, stack)


def test_single_complex_image(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    image = (stack[0] + 1j * stack[1]).astype(np.complex64)
    tifffile.imwrite(path, image)
    assert READER.inspect(path).complex
    (frame,) = READER.frames(path)
    np.testing.assert_array_equal(frame, image)


def test_imagej_and_ome_know_their_pixel(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stack, imagej=True, resolution=(1 / 0.03, 1 / 0.03), metadata={"unit": "um"}
    )
    assert READER.inspect(path).pixel_size_m == pytest.approx(30e-9, rel=1e-4)
    np.testing.assert_array_equal(np.stack(list(READER.frames(path))), stack)
    path = tmp_path / "a.ome.tif"
    sizes = {"axes": "ZYX", "PhysicalSizeX": 31.0, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(path, stack, metadata=sizes)
    assert READER.inspect(path).pixel_size_m == pytest.approx(31e-9)


def test_faults(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="expected grey values, found 3 x uint8 a pixel"):
        READER.inspect(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(stack, photometric="minisblack")
        writer.write(stack[0, :4], photometric="minisblack")
    with pytest.raises(InputError, match=r"found 0 \(3, 6, 8\), 1 \(4, 8\); choose it with"):
        READER.inspect(path)
    assert READER.inspect(path, "1").shape == (4, 8)
    with pytest.raises(InputError, match="dataset: expected the number of one of 2 image series"):
        READER.inspect(path, "two")


def series(**changes: object) -> Series:
    base = {"name": "s", "format": "tiff", "state": "phase", "files": ["*.tif"]}
    more = {"tilt": {"name": "t"}, "energy": {"energy_ev": 700.0}, "pixel_size_m": 1e-8}
    return Series.model_validate(base | more | changes)


def test_one_image_a_file_with_a_table_of_names(tmp_path: Path, stack: np.ndarray) -> None:
    for index, image in enumerate(stack):
        tifffile.imwrite(tmp_path / f"p{index}.tif", image)
    table = tmp_path / "angles.csv"
    table.write_text("# file, angle\np2.tif, 20\np0.tif, 0.0\np1, 10\nother.tif, 5\n")
    item = series(angles_file="angles.csv")
    assert series_angles(item, tmp_path).tolist() == [0.0, 10.0, 20.0]
    np.testing.assert_array_equal(np.stack(list(read_series(item, tmp_path))), stack)
    table.write_text("p0.tif 0\np1.tif 1\n")
    with pytest.raises(InputError, match=r"expected a line for 'p2.tif', found none"):
        series_angles(item, tmp_path)
    table.write_text("p0.tif 0\n1\n")
    with pytest.raises(InputError, match="some lines name a file and some do not"):
        series_angles(item, tmp_path)
    table.write_text("p0.tif 0\np0.tif 1\n")
    with pytest.raises(InputError, match=r"line 2: 'p0.tif' occurs twice"):
        series_angles(item, tmp_path)
