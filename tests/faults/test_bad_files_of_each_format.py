"""The same faults in every format: one line each, with the file and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.io.ptychoshelves import write_projection
from pipeline.io.raw import read_series
from schemas.series import Series

ONES = np.ones((32, 32), np.complex64)
Writer = Callable[[Path, np.ndarray], None]


def write_ptychoshelves(path: Path, frame: np.ndarray) -> None:
    write_projection(path, ONES, pixel_size_m=3e-8, energy_ev=700.0, angle_deg=0.0)
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        file["reconstruction/object"] = frame


def write_ptypy(path: Path, frame: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["content/obj/S/data"] = frame[None]
        file["content/obj/S/_psize"] = [3e-8, 3e-8]


def write_cxi(path: Path, frame: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["entry_1/image_1/data"] = frame


def write_nxtomo(path: Path, frame: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["entry/instrument/detector/data"] = frame[None]


def write_dataexchange(path: Path, frame: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["exchange/data"] = frame[None]


def write_tiff(path: Path, frame: np.ndarray) -> None:
    tifffile.imwrite(path, frame)


FORMATS: dict[str, tuple[Writer, str | None]] = {
    "ptychoshelves": (write_ptychoshelves, "reconstruction/object"),
    "ptypy": (write_ptypy, "content/obj/S/data"),
    "cxi": (write_cxi, "entry_1/image_1/data"),
    "nxtomo": (write_nxtomo, "entry/instrument/detector/data"),
    "dataexchange": (write_dataexchange, "exchange/data"),
    "tiff": (write_tiff, None),
}
IN_HDF5 = [name for name, (_, dataset) in FORMATS.items() if dataset is not None]


def series(name: str, **changes: object) -> Series:
    base = {"name": "s", "format": name, "files": ["*.dat"], "tilt": {"name": "t"}}
    more = {"energy": {"energy_ev": 700.0}, "angles_deg": [0.0, 0.0, 0.0]}
    return Series.model_validate(base | more | changes)


def prepare(folder: Path, name: str) -> Path:
    """Three good files, of which the second is given back to be damaged."""
    for index in range(3):
        FORMATS[name][0](folder / f"{index}.dat", ONES)
    assert len(list(read_series(series(name), folder))) == 3
    return folder / "1.dat"


def line(name: str, path: Path, **changes: object) -> str:
    with pytest.raises(InputError) as caught:
        list(read_series(series(name, **changes), path.parent))
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


@pytest.mark.parametrize("name", FORMATS)
def test_truncated(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = line(name, path)
    assert "truncated" in said or "cannot be read" in said


@pytest.mark.parametrize("name", FORMATS)
def test_empty(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    path.write_bytes(b"")
    assert "file is empty (0 bytes), expected " in line(name, path)


@pytest.mark.parametrize("name", FORMATS)
def test_text(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    path.write_text("scan 12 was aborted\n" * 50)
    assert "cannot be read as " in line(name, path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, name: str, value: float) -> None:
    path = prepare(tmp_path, name)
    frame = ONES.copy()
    frame[3, 4:8] = value
    FORMATS[name][0](path, frame)
    assert "frame 1 of series 's' holds 4 non-finite values" in line(name, path)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_in_the_wrong_order(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    FORMATS[name][0](path, ONES.byteswap())
    said = line(name, path)
    assert "frame 1 of series 's' holds numbers such as " in said
    assert "its bytes are in the wrong order" in said


@pytest.mark.parametrize("name", FORMATS)
def test_not_complex(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    FORMATS[name][0](path, ONES.real)
    said = line(name, path)
    assert "complex" in said
    assert "found real numbers" in said or "float32" in said


@pytest.mark.parametrize("name", FORMATS)
def test_other_shape(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    FORMATS[name][0](path, ONES[:30])
    assert "expected shape (32, 32) as in 0.dat, found (30, 32)" in line(name, path)


@pytest.mark.parametrize("name", IN_HDF5)
def test_no_pixels(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    FORMATS[name][0](path, ONES[:0])
    assert "holds no pixels" in line(name, path)


@pytest.mark.parametrize("name", IN_HDF5)
def test_text_in_place_of_the_data(tmp_path: Path, name: str) -> None:
    path, dataset = prepare(tmp_path, name), FORMATS[name][1]
    with h5py.File(path, "a") as file:
        del file[dataset]
        file[dataset] = "none"
    assert "complex" in line(name, path) or "numbers" in line(name, path)


@pytest.mark.parametrize("name", IN_HDF5)
@pytest.mark.parametrize(
    ("link", "text"),
    [
        (h5py.ExternalLink("0.dat", "/x"), "is an external HDF5 link, which is not followed"),
        (h5py.SoftLink("/nowhere"), "expected"),
    ],
)
def test_links_that_cannot_be_followed(tmp_path: Path, name: str, link: object, text: str) -> None:
    path, dataset = prepare(tmp_path, name), FORMATS[name][1]
    with h5py.File(path, "a") as file:
        del file[dataset]
        file[dataset] = link
    assert text in line(name, path)


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_dataset(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    said = line(name, path.with_name("0.dat"), dataset="elsewhere")
    assert "elsewhere" in said
