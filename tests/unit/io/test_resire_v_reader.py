"""RESIRE-V files: written here, and the published ones where they are."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime, series_angles
from pipeline.io.importers import import_resire_v
from pipeline.io.raw import load_rotations, load_stack
from pipeline.io.resire_v import ResireVReader, load_euler
from schemas.tilt import Tilt

PUBLISHED = Path(__file__).parents[3] / "../shared/data/resire-v-metalattice"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    scipy.io.savemat(source / "proj.mat", {"p": rng.normal(size=(5, 4, 3)).astype(np.float32)})
    scipy.io.savemat(source / "ang.mat", {"ang": np.array([[0, -30, 0], [0, 0, 0], [90, 30, 0]])})
    model = {name: rng.normal(size=(5, 4, 6)).astype(np.float32) for name in ("m_xn", "m_yn")}
    model |= {"m_zn": np.zeros((5, 4, 6)), "model": rng.uniform(0, 6, (5, 4, 6))}
    scipy.io.savemat(source / "model.mat", model)
    return source


def test_axes_are_turned(folder: Path) -> None:
    stored = scipy.io.loadmat(folder / "proj.mat")["p"]
    info = ResireVReader().inspect(folder / "proj.mat")
    assert (info.n_frames, info.shape, info.complex) == (3, (4, 5), False)
    read = np.stack(list(ResireVReader().frames(folder / "proj.mat")))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, stored.transpose(2, 1, 0))


def test_import(folder: Path, tmp_path: Path) -> None:
    path, notes = import_resire_v([folder], tmp_path / "out")
    assert path == tmp_path / "out" / "beamtime.yaml"
    assert any("photon energy" in note for note in notes)
    assert any("pixel size" in note for note in notes)
    loaded = load_beamtime(path)
    (series,) = loaded.beamtime.series
    assert (series.state, series.contrast, series.polarisation.helicity) == (
        "differenced", "circular", 1,
    )  # fmt: skip
    assert load_stack(series, loaded.folder).shape == (3, 4, 5)
    assert series_angles(series, loaded.folder).tolist() == [-30.0, 0.0, 30.0]
    rotations = load_rotations(series, loaded.folder)
    assert rotations is not None
    np.testing.assert_allclose(rotations[1], np.eye(3), atol=1e-15)
    # (Rz(90) Ry(30))^T: its third row, the beam in the sample frame, is Rz(90) Ry(30) z.
    np.testing.assert_allclose(rotations[2][2], [0.0, 0.5, np.sqrt(0.75)], atol=1e-12)


def test_import_writes_support_and_truth(folder: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    import_resire_v(sorted(folder.iterdir()), tmp_path / "out", energy_ev=778.0, pixel_size_m=1e-8)
    model = scipy.io.loadmat(folder / "model.mat")
    with h5py.File(tmp_path / "out" / "support.h5") as file:
        np.testing.assert_array_equal(file["support"][()], model["model"].T > 3)
    with h5py.File(tmp_path / "out" / "truth.h5") as file:
        assert file.attrs["kind"] == "magnetisation"
        np.testing.assert_array_equal(file["magnetisation/vector"][1], model["m_yn"].T)
        assert file["magnetisation/support"].dtype == np.uint8


def test_import_without_model(folder: Path, tmp_path: Path) -> None:
    (folder / "model.mat").unlink()
    path, notes = import_resire_v([folder], tmp_path / "out", energy_ev=778.0, pixel_size_m=1e-8)
    assert notes == [
        "Rows are taken to run upwards (rows: up), as in the published set; no file says it.",
        "No model file: no support and no truth to score against.",
    ]
    loaded = load_beamtime(path)
    assert loaded.beamtime.support is None
    assert loaded.beamtime.series[0].energy.energy_ev == 778.0
    assert [entry.name for entry in path.parent.iterdir()] == ["beamtime.yaml"]


def test_a_tilt_beside_euler_angles_is_refused(folder: Path, tmp_path: Path) -> None:
    path, _ = import_resire_v([folder], tmp_path / "out")
    (series,) = load_beamtime(path).beamtime.series
    tilted = series.model_copy(update={"tilt": Tilt(name="euler", tilt_deg=30.0)})
    with pytest.raises(InputError, match="tilt_deg: 30 degree, but the Euler angles say the whole"):
        load_stack(tilted, path.parent)


def test_import_of_incomplete_data(folder: Path, tmp_path: Path) -> None:
    scipy.io.savemat(folder / "ang.mat", {"ang": np.zeros((2, 3))})
    with pytest.raises(InputError, match=r"ang.mat: expected 3 angles, .*, found 2"):
        import_resire_v([folder], tmp_path / "out")
    (folder / "ang.mat").unlink()
    with pytest.raises(InputError, match=r"expected one file with Euler angles .*, found none"):
        import_resire_v([folder], tmp_path / "out")
    with pytest.raises(InputError, match="file or folder does not exist"):
        import_resire_v([tmp_path / "gone"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_files(folder: Path) -> None:
    path = folder / "proj.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as MATLAB v5"):
        list(ResireVReader().frames(path))
    scipy.io.savemat(folder / "ang.mat", {"ang": np.array([[0, 0, 0], [0, np.nan, 0]])})
    with pytest.raises(InputError, match="ang: angle 1 is not finite"):
        load_euler(folder / "ang.mat")


def test_published_set(tmp_path: Path) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("needs ../shared/data/resire-v-metalattice")
    path, _ = import_resire_v([PUBLISHED], tmp_path / "out")
    loaded = load_beamtime(path)
    (series,) = loaded.beamtime.series
    assert load_stack(series, loaded.folder).shape == (90, 100, 100)
    rotations = load_rotations(series, loaded.folder)
    assert rotations is not None
    assert rotations.shape == (90, 3, 3)
