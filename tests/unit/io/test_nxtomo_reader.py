"""NXtomo and DataExchange stacks: keys, angles, units, flat fields."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.io.flatfield import FlatField

NX, DX = reader_for("nxtomo"), reader_for("dataexchange")
N, NY, NX_ = 4, 5, 6


@pytest.fixture
def transmission() -> np.ndarray:
    return np.random.default_rng(4).uniform(0.2, 1.0, (N, NY, NX_))


def counts(transmission: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Darks, flats of 1000, projections under a beam that decays, flats of 900; and the keys."""
    beam = np.interp(np.arange(4, 4 + N), [2.5, 8.5], [1000.0, 900.0])
    stack = [np.full((2, NY, NX_), 100.0), np.full((2, NY, NX_), 1100.0)]
    stack += [100.0 + transmission * beam[:, None, None], np.full((2, NY, NX_), 1000.0)]
    return np.concatenate(stack), np.array([2, 2, 1, 1, 0, 0, 0, 0, 1, 1])


def write(path: Path, data: np.ndarray, keys: np.ndarray, entry: str = "entry0000") -> Path:
    with h5py.File(path, "a") as file:
        group = file.create_group(entry)
        group.attrs["NX_class"] = "NXentry"
        detector = group.create_group("instrument/detector")
        detector["data"] = data
        detector["image_key"] = keys
        detector["x_pixel_size"] = 5.0
        detector["y_pixel_size"] = 5.0
        for axis in "xy":
            detector[f"{axis}_pixel_size"].attrs["units"] = "um"
        detector["magnification"] = 100.0
        angles = np.full(len(data), -1.0)
        angles[keys == 0] = np.arange(np.count_nonzero(keys == 0)) * 45.0
        group["sample/rotation_angle"] = angles
        group["instrument/beam/incident_energy"] = 5.4
        group["instrument/beam/incident_energy"].attrs["units"] = "keV"
        group["instrument/source/energy"] = 6.0
        group["instrument/source/energy"].attrs["units"] = "GeV"
    return path


def test_projections_only_under_an_interpolated_flat(
    tmp_path: Path, transmission: np.ndarray
) -> None:
    path = write(tmp_path / "a.nx", *counts(transmission))
    info = NX.inspect(path)
    assert (info.n_frames, info.shape, info.complex) == (N, (NY, NX_), False)
    assert info.angles_deg == (0.0, 45.0, 90.0, 135.0)
    assert info.energy_ev == pytest.approx(5400.0)
    assert info.pixel_size_m == pytest.approx(5e-8)
    frames = np.stack(list(NX.frames(path)))
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, transmission, rtol=1e-5)


def test_pixel_of_the_sample_comes_first_and_the_ring_energy_does_not_count(
    tmp_path: Path, transmission: np.ndarray
) -> None:
    path = write(tmp_path / "a.nx", *counts(transmission))
    with h5py.File(path, "a") as file:
        file["entry0000/sample/x_pixel_size"] = 31e-9
        del file["entry0000/instrument/beam/incident_energy"]
    info = NX.inspect(path)
    assert info.pixel_size_m == pytest.approx(31e-9)
    assert info.energy_ev is None
    with h5py.File(path, "a") as file:
        file["entry0000/instrument/monochromator/wavelength"] = 2.2960
        file["entry0000/instrument/monochromator/wavelength"].attrs["units"] = "angstrom"
    assert NX.inspect(path).energy_ev == pytest.approx(5400.0, rel=1e-4)


def test_several_entries(tmp_path: Path, transmission: np.ndarray) -> None:
    path = write(tmp_path / "a.nx", *counts(transmission))
    write(path, transmission[:2].astype("<f4"), np.zeros(2), "entry0001")
    with pytest.raises(InputError, match="found entry0000, entry0001; choose one with `dataset`"):
        NX.inspect(path)
    assert NX.inspect(path, "entry0001").n_frames == 2
    with pytest.raises(InputError, match="expected the entry 'entry7' with"):
        NX.inspect(path, "entry7")


def test_complex_projections_and_links(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(3, 4, 4)) + 1j).astype(np.complex64)
    path = tmp_path / "a.nxs"
    with h5py.File(path, "w") as file:
        file["store"] = data
        file["entry/tomo_entry/data/data"] = h5py.SoftLink("/store")
        file["entry/tomo_entry/data/rotation_angle"] = np.radians([0.0, 30.0, 60.0])
        file["entry/tomo_entry/data/rotation_angle"].attrs["units"] = "rad"
    info = NX.inspect(path)
    assert info.complex
    assert info.angles_deg == pytest.approx((0.0, 30.0, 60.0))
    np.testing.assert_array_equal(np.stack(list(NX.frames(path))), data)


def damage(path: Path, name: str, value: object, units: str | None = None) -> None:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
        if units is not None:
            file[name].attrs["units"] = units


@pytest.mark.parametrize(
    ("name", "value", "units", "text"),
    [
        ("sample/rotation_angle", [0.0], None, "expected 10 angles, one for each frame, found 1"),
        ("sample/rotation_angle", [np.nan] * 10, None, "angle 0 is not finite"),
        ("sample/rotation_angle", [0.0] * 10, "furlong", "found 'furlong'"),
        ("instrument/detector/image_key", [0], None, "expected 10 keys, one for each frame"),
        ("instrument/detector/data", np.ones((4, 4)), None, "of shape (n, ny, nx), found float64"),
        ("instrument/detector/data", None, None, "found none in entry0000"),
        ("instrument/detector/y_pixel_size", 7.0, "um", "expected square pixels, found x 5e-06 m"),
    ],
)
def test_faults(
    tmp_path: Path, transmission: np.ndarray, name: str, value: object, units: str, text: str
) -> None:
    path = write(tmp_path / "a.nx", *counts(transmission))
    damage(path, f"entry0000/{name}", value, units)
    with pytest.raises(InputError) as caught:
        NX.inspect(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_blind_pixels_transmit_nothing() -> None:
    flat = FlatField(np.full((1, 2), 5.0, np.float32), (np.array([[10.0, 5.0]], "f4"),), (0.0,))
    np.testing.assert_array_equal(flat.correct(np.array([[7.5, 6.0]]), 3.0), [[0.5, 0.0]])


def test_chunks_over_several_frames_are_read_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(1, 2, (7, 4, 4)).astype("f4")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("exchange/data", data=data, chunks=(3, 4, 4), compression="gzip")
    np.testing.assert_array_equal(np.stack(list(DX.frames(path))), data)


def test_dataexchange(tmp_path: Path, transmission: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = (10.0 + 1000.0 * transmission).astype(">u2")
        file["exchange/data_white"] = np.full((3, NY, NX_), 1010, np.uint16)
        file["exchange/data_dark"] = np.full((2, NY, NX_), 10, np.uint16)
        file["exchange/theta"] = np.arange(N) * 45.0
        place = "measurement/instrument"
        file[f"{place}/monochromator/energy"] = 8.0
        file[f"{place}/monochromator/energy"].attrs["units"] = "keV"
        file[f"{place}/detection_system/objective/resolution"] = 0.65
        file[f"{place}/detection_system/objective/resolution"].attrs["units"] = "microns"
    info = DX.inspect(path)
    assert (info.n_frames, info.shape) == (N, (NY, NX_))
    assert info.angles_deg == (0.0, 45.0, 90.0, 135.0)
    assert (info.energy_ev, info.pixel_size_m) == (8000.0, pytest.approx(0.65e-6))
    np.testing.assert_allclose(np.stack(list(DX.frames(path))), transmission, atol=1.1e-3)
    damage(path, f"{place}/monochromator/energy", 8.0)
    # Without a unit it could be keV or eV, so it does not count.
    assert DX.inspect(path).energy_ev is None
    damage(path, "exchange/theta", [0.0])
    with pytest.raises(InputError, match="expected 4 angles, one for each frame, found 1"):
        DX.inspect(path)
    damage(path, "exchange/data", None)
    with pytest.raises(InputError, match="expected a dataset 'exchange/data', found exchange"):
        DX.inspect(path)
