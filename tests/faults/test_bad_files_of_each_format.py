"""The same faults in every format: one line each, with the file and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
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


def write_resire_v(path: Path, frame: np.ndarray) -> None:
    frame = frame if frame.dtype.kind == "O" else frame.real
    scipy.io.savemat(path, {"proj": np.stack([frame.T] * 2, axis=2)}, appendmat=False)


def write_xldot(path: Path, frame: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["aligned_q/data_ch_shift"] = frame.real[None]


FORMATS: dict[str, tuple[Writer, str | None]] = {
    "ptychoshelves": (write_ptychoshelves, "reconstruction/object"),
    "ptypy": (write_ptypy, "content/obj/S/data"),
    "cxi": (write_cxi, "entry_1/image_1/data"),
    "nxtomo": (write_nxtomo, "entry/instrument/detector/data"),
    "dataexchange": (write_dataexchange, "exchange/data"),
    "tiff": (write_tiff, None),
}
REAL: dict[str, tuple[Writer, str | None]] = {
    "resire-v": (write_resire_v, None),
    "xldot-public": (write_xldot, "aligned_q/data_ch_shift"),
}
"""Formats of later states, which hold real numbers."""

ALL = FORMATS | REAL
IN_HDF5 = [name for name, (_, dataset) in ALL.items() if dataset is not None]


def series(name: str, **changes: object) -> Series:
    base = {"name": "s", "format": name, "files": ["*.dat"], "tilt": {"name": "t"}}
    more: dict[str, object] = {"energy": {"energy_ev": 700.0}, "angles_deg": [0.0, 0.0, 0.0]}
    if name in REAL:
        more |= {"state": "aligned"}
    if name == "resire-v":
        more |= {"angles_deg": [0.0] * 6}
    return Series.model_validate(base | more | changes)


def prepare(folder: Path, name: str) -> Path:
    """Three good files, of which the second is given back to be damaged."""
    for index in range(3):
        ALL[name][0](folder / f"{index}.dat", ONES)
    assert len(list(read_series(series(name), folder))) == (6 if name == "resire-v" else 3)
    return folder / "1.dat"


def line(name: str, path: Path, **changes: object) -> str:
    with pytest.raises(InputError) as caught:
        list(read_series(series(name, **changes), path.parent))
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


@pytest.mark.parametrize("name", ALL)
def test_truncated(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = line(name, path)
    assert "truncated" in said or "cannot be read" in said


@pytest.mark.parametrize("name", ALL)
def test_empty(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    path.write_bytes(b"")
    assert "file is empty (0 bytes), expected " in line(name, path)


@pytest.mark.parametrize("name", ALL)
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
    said = line(name, path)
    assert "frame 1 of series 's' holds 4 non-finite values, the first at row 3, column 4" in said
    # A border that was not scanned is no fault; a frame that is nothing else is.
    frame = ONES.copy()
    frame[:3], frame[:, 30:] = value, value
    FORMATS[name][0](path, frame)
    _, found, _ = read_series(series(name), path.parent)
    np.testing.assert_array_equal(found, np.where(np.isfinite(frame), ONES, 0.0))
    FORMATS[name][0](path, np.full_like(ONES, value))
    assert "holds 1024 non-finite values, the first at row 0, column 0" in line(name, path)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wide", [False, True])
def test_bytes_in_the_wrong_order(tmp_path: Path, name: str, wide: bool) -> None:
    path = prepare(tmp_path, name)
    rng = np.random.default_rng(0)
    frame = ONES * rng.uniform(0.5, 1.5, ONES.shape) + 0.1j * rng.normal(size=ONES.shape)
    frame = frame.astype(np.complex128 if wide else np.complex64)
    ALL[name][0](path, frame.byteswap())
    said = line(name, path)
    index = 2 if name == "resire-v" else 1
    assert f"frame {index} of series 's' holds numbers such as " in said
    assert "its bytes are in the wrong order" in said


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_in_real_data(tmp_path: Path, name: str, value: float) -> None:
    path = prepare(tmp_path, name)
    frame = ONES.copy()
    # Real numbers have no value for what was not measured: not at the border either.
    frame[0, 4:8] = value
    ALL[name][0](path, frame)
    said = line(name, path)
    assert "holds 4 non-finite values, the first at row 0, column 4; exclude: [" in said


@pytest.mark.parametrize("name", REAL)
def test_complex_numbers_where_real_ones_are_due(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    if name == "resire-v":
        scipy.io.savemat(path, {"proj": np.ones((32, 32, 2)) * 1j}, appendmat=False)
        assert "expected a numeric array" in line(name, path)
        return
    with h5py.File(path, "w") as file:
        file["aligned_q/data_ch_shift"] = ONES[None]
    assert "expected real numbers of shape (n, ny, nx), found complex64" in line(name, path)


@pytest.mark.parametrize("name", FORMATS)
def test_not_complex(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    FORMATS[name][0](path, ONES.real)
    said = line(name, path)
    assert "complex" in said
    assert "found real numbers" in said or "float32" in said


@pytest.mark.parametrize("name", ALL)
def test_other_shape(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    ALL[name][0](path, ONES[:30])
    assert "expected shape (32, 32) as in 0.dat, found (30, 32)" in line(name, path)


@pytest.mark.parametrize("name", IN_HDF5)
def test_no_pixels(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    ALL[name][0](path, ONES[:0])
    assert "holds no pixels" in line(name, path)


@pytest.mark.parametrize("name", IN_HDF5)
def test_text_in_place_of_the_data(tmp_path: Path, name: str) -> None:
    path, dataset = prepare(tmp_path, name), ALL[name][1]
    with h5py.File(path, "a") as file:
        del file[dataset]
        file[dataset] = "none"
    said = line(name, path)
    assert "complex" in said or "numbers" in said


@pytest.mark.parametrize("name", IN_HDF5)
@pytest.mark.parametrize(
    ("link", "text"),
    [
        (h5py.ExternalLink("0.dat", "/x"), "is an external HDF5 link, which is not followed"),
        (h5py.SoftLink("/nowhere"), "expected"),
    ],
)
def test_links_that_cannot_be_followed(tmp_path: Path, name: str, link: object, text: str) -> None:
    path, dataset = prepare(tmp_path, name), ALL[name][1]
    with h5py.File(path, "a") as file:
        del file[dataset]
        file[dataset] = link
    assert text in line(name, path)


@pytest.mark.parametrize("name", ALL)
def test_wrong_dataset(tmp_path: Path, name: str) -> None:
    path = prepare(tmp_path, name)
    said = line(name, path.with_name("0.dat"), dataset="elsewhere")
    assert "elsewhere" in said


SAYS: dict[str, dict[str, tuple[str, object, str | None]]] = {
    "ptychoshelves": {
        "pixel_size_m": ("reconstruction/p/dx_spec", [3e-8, 3e-8], None),
        "energy": ("reconstruction/p/energy", 0.7, None),
        "angle": ("reconstruction/p/angle", 20.0, None),
    },
    "ptypy": {
        "pixel_size_m": ("content/obj/S/_psize", [3e-8, 3e-8], None),
        "energy": ("content/obj/S/_energy", 0.7, None),
    },
    "cxi": {
        "pixel_size_m": ("entry_1/image_1/x_pixel_size", 3e-8, "m"),
        "energy": ("entry_1/instrument_1/source_1/energy", 700.0, "eV"),
        "angle": ("entry_1/sample_1/rotation_angle", 20.0, None),
        "polarisation": (
            "entry_1/instrument_1/beam_1/incident_polarization_stokes",
            [1.0, -1.0, 0.0, 0.0],
            None,
        ),
    },
    "nxtomo": {
        "pixel_size_m": ("entry/sample/x_pixel_size", 3e-8, "m"),
        "energy": ("entry/instrument/beam/incident_energy", 700.0, "eV"),
        "angle": ("entry/sample/rotation_angle", [20.0], "degree"),
        "polarisation": (
            "entry/instrument/beam/incident_polarization_stokes",
            [1.0, -1.0, 0.0, 0.0],
            None,
        ),
    },
    "dataexchange": {
        "pixel_size_m": (
            "measurement/instrument/detection_system/objective/resolution",
            30.0,
            "nm",
        ),
        "energy": ("measurement/instrument/monochromator/energy", 0.7, "keV"),
        "angle": ("exchange/theta", [20.0], None),
    },
    "xldot-public": {"angle": ("aligned_q/theta_ch", [20.0], None)},
}
"""What each format can say, where and in which unit: 30 nm, 700 eV, 20 degree, LV."""

CONTRADICTIONS: dict[str, tuple[dict[str, object], str]] = {
    "pixel_size_m": (
        {"pixel_size_m": 3.2e-8},
        "pixel size 3e-08 m, but the beamtime file says 3.2e-08 m",
    ),
    "energy": ({"energy": {"energy_ev": 705.0}}, "700 eV, but the beamtime file says 705 eV"),
    "angle": (
        {"angles_deg": [20.0, 25.0, 20.0]},
        "angle 20 degree of projection 1, but the beamtime file says 25 degree",
    ),
    "polarisation": (
        {"polarisation": {"kind": "linear", "angle_deg": 0.0}},
        "polarisation LV, but the beamtime file says LH",
    ),
}


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name, said in SAYS.items() for what in said]
)
def test_contradictions_show_both(tmp_path: Path, name: str, what: str) -> None:
    prepare(tmp_path, name)
    dataset, value, unit = SAYS[name][what]
    for path in tmp_path.glob("*.dat"):
        with h5py.File(path, "a") as file:
            if dataset in file:
                del file[dataset]
            file[dataset] = value
            if unit is not None:
                file[dataset].attrs["units"] = unit
    agreed = series(name, angles_deg=[20.0] * 3) if what == "angle" else series(name)
    assert len(list(read_series(agreed, tmp_path))) == 3
    changes, text = CONTRADICTIONS[what]
    path = tmp_path / ("1.dat" if what == "angle" else "0.dat")
    assert text in line(name, path, **changes)


@pytest.mark.parametrize("name", IN_HDF5)
def test_soft_links_inside_the_file_are_followed(tmp_path: Path, name: str) -> None:
    path, dataset = prepare(tmp_path, name), ALL[name][1]
    with h5py.File(path, "a") as file:
        file["store"] = file[dataset][()]
        del file[dataset]
        file[dataset] = h5py.SoftLink("/store")
    assert len(list(read_series(series(name), tmp_path))) == 3
