"""Public XLDOT layout, on files written here as MATLAB v7.3 would write them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime, series_angles
from pipeline.io.importers import import_xldot_public
from pipeline.io.raw import load_rotations, load_stack
from pipeline.io.xldot_public import XldotPublicReader, list_stacks
from schemas.series import Series

NX, NY, N = 7, 5, 4


def put(group: h5py.Group, name: str, matlab: np.ndarray) -> None:
    """Store an array as MATLAB does: axes reversed."""
    group[name] = np.ascontiguousarray(matlab.transpose())
    group[name].attrs["MATLAB_class"] = np.bytes_("double")


def matlab_struct(file: h5py.File, struct: str, kinds: tuple[str, ...], seed: int) -> dict:
    rng = np.random.default_rng(seed)
    group = file.create_group(struct)
    file.create_group("#refs#")
    stored = {}
    for kind in kinds:
        data = rng.normal(size=(NX, NY, N)).astype(np.float32)
        rotations = Rotation.random(N, random_state=rng).as_matrix()  # (n, 3, 3)
        put(group, f"data_{kind}_shift", data)
        put(group, f"R_{kind}", rotations.transpose(1, 2, 0))  # MATLAB [3, 3, n]
        put(group, f"theta_{kind}", np.linspace(0, 135, N)[None, :])
        stored[kind] = (data, rotations)
    return stored


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, dict]:
    source = tmp_path / "record"
    source.mkdir()
    stored = {}
    for tilt, struct in ((1, "aligned_r"), (2, "aligned_a")):
        with h5py.File(source / f"aligned_proj_tilt{tilt}.mat", "w") as file:
            stored[tilt] = matlab_struct(file, struct, ("lh", "lv"), tilt)
    with h5py.File(source / "off_resonance_projections.mat", "w") as file:
        stored["off"] = matlab_struct(file, "aligned_q", ("ch",), 9)
        file["factor_edensity"] = np.array([[50.0]])
    return source, stored


def test_axes_and_rotations(folder: tuple[Path, dict]) -> None:
    source, stored = folder
    path = source / "aligned_proj_tilt1.mat"
    data, rotations = stored[1]["lv"]
    reader = XldotPublicReader()
    info = reader.inspect(path, "aligned_r/data_lv_shift")
    assert (info.n_frames, info.shape, info.complex) == (N, (NY, NX), False)
    assert info.angles_deg == (0.0, 45.0, 90.0, 135.0)
    frames = np.stack(list(reader.frames(path, "aligned_r/data_lv_shift")))
    np.testing.assert_array_equal(frames, data.transpose(2, 1, 0))
    np.testing.assert_allclose(reader.rotations(path, "aligned_r/data_lv_shift"), rotations)


def test_stacks_are_found_whatever_the_struct(folder: tuple[Path, dict]) -> None:
    source, _ = folder
    assert list_stacks(source / "aligned_proj_tilt2.mat") == [
        ("aligned_a/data_lh_shift", "lh"),
        ("aligned_a/data_lv_shift", "lv"),
    ]
    off = source / "off_resonance_projections.mat"
    assert XldotPublicReader().inspect(off).n_frames == N
    with pytest.raises(InputError, match="expected `dataset` to name one of the stacks"):
        XldotPublicReader().inspect(source / "aligned_proj_tilt2.mat")


def test_import(folder: tuple[Path, dict], tmp_path: Path) -> None:
    source, stored = folder
    path, notes = import_xldot_public([source], tmp_path / "out")
    loaded = load_beamtime(path)
    names = [series.name for series in loaded.beamtime.series]
    assert names == ["tilt1_lh", "tilt1_lv", "tilt2_lh", "tilt2_lv", "offres"]
    assert [(a.name, b.name) for a, b in loaded.beamtime.pairs()] == [
        ("tilt1_lh", "tilt1_lv"),
        ("tilt2_lh", "tilt2_lv"),
    ]
    assert [series.name for series in loaded.beamtime.scalar_series()] == ["offres"]
    assert loaded.beamtime.reference() == "tilt1"
    series = loaded.beamtime.series[2]
    assert (series.state, series.polarisation.degree) == ("aligned", 0.64)
    data, rotations = stored[2]["lh"]
    np.testing.assert_array_equal(load_stack(series, loaded.folder), data.transpose(2, 1, 0))
    np.testing.assert_allclose(load_rotations(series, loaded.folder), rotations)
    assert series_angles(series, loaded.folder).tolist() == [0.0, 45.0, 90.0, 135.0]
    assert any("with factor 50; energy and pixel size give 50.0" in note for note in notes)
    assert any("the files hold none" in note for note in notes)
    assert any("rows: up" in note for note in notes)


def test_import_of_half_a_pair(folder: tuple[Path, dict], tmp_path: Path) -> None:
    source, _ = folder
    with h5py.File(source / "aligned_proj_tilt2.mat", "a") as file:
        del file["aligned_a/data_lv_shift"]
    with pytest.raises(
        InputError, match=r"data_lh_shift: expected one LV stack beside it, found 0"
    ):
        import_xldot_public([source], tmp_path / "out")
    with pytest.raises(InputError, match=r"expected \*\.mat files, found none"):
        import_xldot_public([], tmp_path / "out")


def test_wrong_rotations(folder: tuple[Path, dict]) -> None:
    path = folder[0] / "off_resonance_projections.mat"
    with h5py.File(path, "a") as file:
        file["aligned_q/R_ch"][2] *= 1.1
    with pytest.raises(InputError, match="aligned_q/R_ch: matrix 2 is not a rotation"):
        XldotPublicReader().rotations(path)
    with h5py.File(path, "a") as file:
        del file["aligned_q/R_ch"]
    with pytest.raises(InputError, match=r"expected rotation matrices of shape \(4, 3, 3\)"):
        XldotPublicReader().rotations(path)
    with h5py.File(path, "a") as file:
        del file["aligned_q/theta_ch"]
        file["aligned_q/theta_ch"] = np.zeros((3, 1))
    with pytest.raises(InputError, match="theta_ch: expected 4 angles, found 3"):
        XldotPublicReader().inspect(path)


def test_a_stated_tilt_that_the_matrices_contradict(tmp_path: Path) -> None:
    path = tmp_path / "aligned_proj_tilt2.mat"
    turns = Rotation.from_euler("y", np.linspace(0, 135, N)[:, None], degrees=True)
    matrices = (turns * Rotation.from_euler("z", 29.0, degrees=True)).as_matrix()
    with h5py.File(path, "w") as file:
        matlab_struct(file, "aligned_a", ("ch",), 1)
        del file["aligned_a/R_ch"]
        put(file["aligned_a"], "R_ch", matrices.transpose(1, 2, 0))
    base = {
        "name": "s",
        "state": "aligned",
        "format": "xldot-public",
        "files": [path.name],
        "energy": {"energy_ev": 5468.0},
    }
    for tilt in (0.0, 30.0, -28.0):
        series = Series.model_validate(base | {"tilt": {"name": "t", "tilt_deg": tilt}})
        assert load_stack(series, tmp_path).shape == (N, NY, NX)
    series = Series.model_validate(base | {"tilt": {"name": "t", "tilt_deg": 45.0}})
    with pytest.raises(
        InputError,
        match=r"tilt2.mat: series 's': tilt.tilt_deg: 45 degree, but the matrices of the "
        "files say 29; leave it at 0",
    ):
        load_stack(series, tmp_path)
