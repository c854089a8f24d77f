"""PtyPy files: storages, layers, and the real one where it is at hand."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import reader_for

READER = reader_for("ptypy")
REAL = Path(__file__).parents[3] / "../shared/data/ptypy-ptyr/scan_scan1.ptyr"


@pytest.fixture
def layers() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(3, 5, 7)) + 1j * rng.normal(size=(3, 5, 7))).astype(np.complex64)


def write(path: Path, objects: dict[str, np.ndarray], psize=(2e-8, 2e-8), energy=6.2) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in objects.items():
            file[f"content/obj/{name}/data"] = data
            file[f"content/obj/{name}/_psize"] = np.asarray(psize)
            file[f"content/obj/{name}/_energy"] = energy
        file["content/probe/S/data"] = np.ones((1, 4, 4), np.complex64)
    return path


def test_one_storage_of_one_layer(tmp_path: Path, layers: np.ndarray) -> None:
    path = write(tmp_path / "a.ptyr", {"SMFG00": layers[:1]})
    info = READER.inspect(path)
    assert (info.n_frames, info.shape, info.complex, info.angles_deg) == (1, (5, 7), True, None)
    assert info.pixel_size_m == pytest.approx(2e-8, rel=1e-12)
    assert info.energy_ev == pytest.approx(6200.0, rel=1e-12)
    (frame,) = READER.frames(path)
    assert frame.dtype == np.complex64
    np.testing.assert_array_equal(frame, layers[0])


@pytest.mark.parametrize(
    ("dataset", "layer"),
    [("S1:2", 2), ("content/obj/S1:0", 0), ("/content/obj/S1/data:1", 1)],
)
def test_choice(tmp_path: Path, layers: np.ndarray, dataset: str, layer: int) -> None:
    path = write(tmp_path / "a.ptyr", {"S0": layers[:1], "S1": layers})
    (frame,) = READER.frames(path, dataset)
    np.testing.assert_array_equal(frame, layers[layer])


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (None, "content/obj: expected one object, found S0, S1; choose it with `dataset`"),
        ("S2", "content/obj: expected an object 'S2', found S0, S1"),
        ("S1", "holds 3 layers of one object, expected one; choose it with `dataset`, for"),
        ("S1:3", "layer 3 was asked for, the dataset has 3"),
        ("S1:x", "dataset: expected NAME or NAME:LAYER with a number, found 'S1:x'"),
    ],
)
def test_unclear_choice(tmp_path: Path, layers: np.ndarray, dataset: str | None, text: str) -> None:
    path = write(tmp_path / "a.ptyr", {"S0": layers[:1], "S1": layers})
    with pytest.raises(InputError) as caught:
        READER.inspect(path, dataset)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_raw_data_file_has_no_reconstruction(tmp_path: Path) -> None:
    path = tmp_path / "a.ptyd"
    with h5py.File(path, "w") as file:
        file["chunks/0/data"] = np.ones((2, 4, 4))
    with pytest.raises(InputError, match="holds no reconstruction: expected 'content/obj', found"):
        READER.inspect(path)


def test_bad_values(tmp_path: Path, layers: np.ndarray) -> None:
    oblong = write(tmp_path / "a.ptyr", {"S": layers[:1]}, psize=(1e-8, 2e-8))
    with pytest.raises(InputError, match="_psize: expected one value for both axes"):
        READER.inspect(oblong)
    real = write(tmp_path / "b.ptyr", {"S": layers[:1].real})
    with pytest.raises(InputError, match="expected complex values, found float32"):
        READER.inspect(real)


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data/ptypy-ptyr")
def test_real_file() -> None:
    info = READER.inspect(REAL)
    assert (info.n_frames, info.shape) == (1, (402, 416))
    assert info.pixel_size_m == pytest.approx(63.58e-9, rel=1e-4)
    assert info.energy_ev == pytest.approx(6200.0)
    (frame,) = READER.frames(REAL)
    # The fill value that the file itself states, in the corner that was never scanned.
    assert frame[0, 0] == pytest.approx(-0.8352499 - 0.54986995j, abs=1e-6)
    assert np.median(np.abs(frame)) == pytest.approx(0.9456, abs=1e-3)
