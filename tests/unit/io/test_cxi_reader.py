"""CXI files: where pixel size and energy come from, and raw diffraction that is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import constants

from pipeline.errors import InputError
from pipeline.io import reader_for

READER = reader_for("cxi")
REAL = Path(__file__).parents[3] / "../shared/data/als-cosmic-856ev/ptycho-scan-856eV.cxi"
JOULES = 856.0 * constants.e


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.normal(size=(6, 8)) + 1j * rng.normal(size=(6, 8))).astype(np.complex64)


def write(path: Path, **values: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        for name, value in values.items():
            file[f"entry_1/{name.replace('__', '/')}"] = value
    return path


def test_image_with_its_own_pixel_size(tmp_path: Path, image: np.ndarray) -> None:
    path = write(
        tmp_path / "a.cxi",
        image_1__data=image,
        image_1__x_pixel_size=5e-9,
        image_1__y_pixel_size=5e-9,
        instrument_1__source_1__energy=JOULES,
    )
    info = READER.inspect(path)
    assert (info.n_frames, info.shape, info.complex) == (1, (6, 8), True)
    assert info.pixel_size_m == pytest.approx(5e-9)
    assert info.energy_ev == pytest.approx(856.0, rel=1e-9)
    (frame,) = READER.frames(path)
    np.testing.assert_array_equal(frame, image)


def test_pixel_size_from_the_geometry(tmp_path: Path, image: np.ndarray) -> None:
    path = write(
        tmp_path / "a.cxi",
        image_1__data=image,
        instrument_1__source_1__energy=JOULES,
        instrument_1__detector_1__corner_position=[0.01, 0.01, 0.1],
    )
    wavelength = constants.h * constants.c / JOULES
    assert READER.inspect(path).pixel_size_m == pytest.approx(wavelength * 0.1 / 0.02)


def test_pixel_size_from_the_extent(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "a.cxi", image_1__data=image, image_1__image_size=[8e-8, 6e-8])
    assert READER.inspect(path).pixel_size_m == pytest.approx(1e-8)


def test_big_endian_and_units(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "a.cxi", image_1__data=image.astype(">c16"), source_1__energy=0.856)
    with h5py.File(path, "a") as file:
        file["entry_1/source_1/energy"].attrs["units"] = "keV"
    assert READER.inspect(path).energy_ev == pytest.approx(856.0)
    (frame,) = READER.frames(path)
    assert frame.dtype == np.complex64
    np.testing.assert_array_equal(frame, image)


def test_the_same_image_under_two_names_is_one(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "a.cxi", object__data=image)
    with h5py.File(path, "a") as file:
        file["entry_1/image_1"] = h5py.SoftLink("/entry_1/object")
        file["entry_last"] = h5py.SoftLink("/entry_1")
    assert READER.inspect(path).shape == (6, 8)


def test_several_images_are_chosen_by_name(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "a.cxi", image_1__data=image, image_2__data=2 * image)
    with pytest.raises(InputError, match=r"entry_1/image_2/data; choose one with `dataset`"):
        READER.inspect(path)
    (frame,) = READER.frames(path, "entry_1/image_2")
    np.testing.assert_array_equal(frame, 2 * image)
    with pytest.raises(InputError, match=r"entry_1/image_3: no such dataset"):
        READER.inspect(path, "entry_1/image_3")


def test_raw_diffraction_is_no_reconstruction(tmp_path: Path) -> None:
    counts = np.ones((4, 6, 8), np.uint16)
    path = write(tmp_path / "a.cxi", data_1__data=counts, image_1__data=counts)
    with pytest.raises(InputError) as caught:
        READER.inspect(path)
    assert str(caught.value) == (
        f"{path}: holds no reconstruction: expected complex 'entry_1/image_1/data', found "
        "entry_1/data_1/data uint16, entry_1/image_1/data uint16"
    )


def test_energy_in_electronvolts_without_a_unit(tmp_path: Path, image: np.ndarray) -> None:
    path = write(tmp_path / "a.cxi", image_1__data=image, source_1__energy=856.0)
    with pytest.raises(InputError, match="expected a photon energy in joules of 10 to 200000 eV"):
        READER.inspect(path)


def test_polarisation_from_stokes_parameters(tmp_path: Path, image: np.ndarray) -> None:
    for stokes, label, degree in (
        ([1.0, 0.9, 0.0, 0.1], "LH", 0.9),
        ([1.0, -1.0, 0.0, 0.0], "LV", 1.0),
        ([2.0, 0.0, 0.0, 1.8], "C+", 0.9),
        ([1.0, 0.0, 0.0, -1.0], "C-", 1.0),
        ([1.0, 0.0, 1.0, 0.0], "L45", 1.0),
        ([1.0, 0.0, 0.0, 0.0], "none", 1.0),
    ):
        name = "instrument_1__beam_1__incident_polarization_stokes"
        path = write(tmp_path / "a.cxi", image_1__data=image, **{name: stokes})
        found = READER.inspect(path).polarisation
        assert found is not None
        assert (found.label, found.degree) == (label, pytest.approx(degree))


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data/als-cosmic-856ev")
def test_real_file() -> None:
    info = READER.inspect(REAL)
    assert (info.n_frames, info.shape, info.complex) == (1, (285, 285), True)
    assert info.energy_ev == pytest.approx(855.9056, abs=1e-4)
    assert info.pixel_size_m == pytest.approx(6.0e-9, rel=1e-3)
    (frame,) = READER.frames(REAL)
    assert frame[0, 0] == pytest.approx(22.220898 + 2.6847017j, abs=1e-5)
    assert np.isfinite(frame).all()
