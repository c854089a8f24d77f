"""PtychoShelves files in every spelling met in the field."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.io.ptychoshelves import PtychoShelvesReader, write_projection

READER = PtychoShelvesReader()


@pytest.fixture
def frame() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=(5, 7)) + 1j * rng.normal(size=(5, 7))).astype(np.complex64)


def compound(frame: np.ndarray, names: tuple[str, str]) -> np.ndarray:
    out = np.empty(frame.shape, [(names[0], "f4"), (names[1], "f4")])
    out[names[0]], out[names[1]] = frame.real, frame.imag
    return out


def test_what_is_written_is_read(tmp_path: Path, frame: np.ndarray) -> None:
    path = tmp_path / "scan_recons.h5"
    write_projection(path, frame, pixel_size_m=30.91e-9, energy_ev=5468.0, angle_deg=12.5)
    info = READER.inspect(path)
    assert (info.n_frames, info.shape, info.complex) == (1, (5, 7), True)
    assert info.pixel_size_m == pytest.approx(30.91e-9, rel=1e-12)
    assert info.energy_ev == pytest.approx(5468.0, rel=1e-12)
    assert info.angles_deg == (12.5,)
    (read,) = READER.frames(path)
    assert read.dtype == np.complex64
    np.testing.assert_array_equal(read, frame)


@pytest.mark.parametrize("prefix", ["reconstruction/", ""])
@pytest.mark.parametrize("names", [("real", "imag"), ("r", "i")])
@pytest.mark.parametrize("suffix", [".h5", ".mat"])
def test_spellings(
    tmp_path: Path, frame: np.ndarray, prefix: str, names: tuple[str, str], suffix: str
) -> None:
    path = tmp_path / f"scan_recons{suffix}"
    stored = frame.T if suffix == ".mat" else frame
    with h5py.File(path, "w") as file:
        file[f"{prefix}object"] = compound(stored, names)
        file[f"{prefix}p/dx_spec"] = np.full((2, 1), 2e-8)
        file[f"{prefix}p/energy"] = np.array([[6.2]])
    info = READER.inspect(path)
    assert info.shape == (5, 7)
    assert info.pixel_size_m == pytest.approx(2e-8)
    assert info.energy_ev == pytest.approx(6200.0)
    (read,) = READER.frames(path)
    np.testing.assert_array_equal(read, frame)


def test_matlab_attribute_reverses_axes_of_h5(tmp_path: Path, frame: np.ndarray) -> None:
    path = tmp_path / "scan_recons.h5"
    with h5py.File(path, "w") as file:
        file["object"] = frame.T[None]
        file["object"].attrs["MATLAB_class"] = np.bytes_("single")
    (read,) = READER.frames(path)
    np.testing.assert_array_equal(read, frame)


def test_metadata_may_be_absent(tmp_path: Path, frame: np.ndarray) -> None:
    path = tmp_path / "scan_recons.h5"
    with h5py.File(path, "w") as file:
        file["object"] = frame[None]
    info = READER.inspect(path)
    assert (info.shape, info.pixel_size_m, info.energy_ev, info.angles_deg) == (
        (5, 7), None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("dx_spec", -1e-9, "dx_spec: expected a positive number, found [-1e-09]"),
        ("dx_spec", [1e-9, 2e-9], "dx_spec: expected one value for both axes"),
        ("energy", np.nan, "energy: expected a positive number, found [nan]"),
    ],
)
def test_bad_metadata(tmp_path: Path, name: str, value: object, text: str) -> None:
    path = tmp_path / "scan_recons.h5"
    with h5py.File(path, "w") as file:
        file["object"] = np.ones((4, 4), np.complex64)
        file[f"p/{name}"] = value
    with pytest.raises(InputError) as caught:
        READER.inspect(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_format() -> None:
    with pytest.raises(InputError, match=r"format: expected one of .*, found 'bmp'"):
        reader_for("bmp")
