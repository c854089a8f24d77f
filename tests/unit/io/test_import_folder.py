"""Folders of files become beamtimes that load, with a note for all that is not known."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime, series_angles, series_files
from pipeline.io.import_folder import import_folder
from pipeline.io.ptychoshelves import write_projection
from pipeline.io.raw import inspect_series, read_series

FRAME = np.exp(1j * np.random.default_rng(0).normal(size=(8, 8))).astype(np.complex64)
REAL_CXI = Path(__file__).parents[3] / "../shared/data/als-cosmic-856ev"
REAL_PTYR = Path(__file__).parents[3] / "../shared/data/ptypy-ptyr"


def shelves(path: Path, angle: float = 0.0, energy: float = 5468.0) -> None:
    write_projection(path, FRAME, pixel_size_m=3e-8, energy_ev=energy, angle_deg=angle)


def test_a_folder_for_each_series(tmp_path: Path) -> None:
    data = tmp_path / "data [1]"
    for name in ("tilt1_LH", "tilt1_LV", "tilt2_LH", "tilt2_LV", "offres"):
        for index in range(3):
            ev = 5400.0 if name == "offres" else 5468.0 + 1e-4 * index
            shelves(data / name / f"S{index:05}_recons.h5", 60.0 * index, ev)
    path, notes = import_folder("ptychoshelves", [data], tmp_path / "out")
    loaded = load_beamtime(path)
    found = {s.name: s for s in loaded.beamtime.series}
    assert sorted(found) == ["offres", "tilt1_LH", "tilt1_LV", "tilt2_LH", "tilt2_LV"]
    assert [(a.name, b.name) for a, b in loaded.beamtime.pairs()] == [
        ("tilt1_LH", "tilt1_LV"),
        ("tilt2_LH", "tilt2_LV"),
    ]
    assert found["tilt1_LH"].tilt.name == "tilt1"
    assert found["offres"].polarisation.kind == "unpolarised"
    assert len(found["offres"].files) == 1
    for series in found.values():
        assert series_angles(series, loaded.folder).tolist() == [0.0, 60.0, 120.0]
    assert inspect_series(found["offres"], loaded.folder).energy_ev == 5400.0
    text = "\n".join(notes)
    assert "series[1].polarisation: LH at tilt 'tilt1' is read off the name 'tilt1_LH'" in text
    assert "series[0].polarisation: nothing says it for 'offres'" in text
    assert "series[*].tilt: tilt_deg and pre_rotation_deg are in no file" in text
    assert path.read_text().startswith("# series[")
    assert "series[*].rows: which way the rows run is in no file and left at 'up'" in text
    assert len(notes) == 7


def test_series_told_by_the_names_in_one_folder(tmp_path: Path) -> None:
    for polarisation in ("lh", "lv"):
        for index in range(12):
            shelves(tmp_path / "d" / f"s_{polarisation}_{index}_recons.h5", 15.0 * index)
    path, _ = import_folder("ptychoshelves", [tmp_path / "d"], tmp_path / "out")
    loaded = load_beamtime(path)
    first, second = loaded.beamtime.series
    assert {first.polarisation.label, second.polarisation.label} == {"LH", "LV"}
    assert first.tilt.name == second.tilt.name
    # Unpadded numbers do not sort by name, so the files are listed in their natural order.
    names = [file.name for file in series_files(first, loaded.folder)]
    assert names == [f"s_lh_{index}_recons.h5" for index in range(12)]


def test_a_partner_that_is_missing(tmp_path: Path) -> None:
    shelves(tmp_path / "tilt1_lh" / "a1.h5")
    shelves(tmp_path / "tilt1_lh" / "a2.h5")
    path, notes = import_folder("ptychoshelves", [tmp_path / "tilt1_lh"], tmp_path / "out")
    (series,) = load_beamtime(path).beamtime.series
    assert series.polarisation.kind == "unpolarised"
    assert any("LH at tilt 'tilt1' has no single partner LV" in note for note in notes)
    assert any("say the same angle" in note for note in notes)


def test_ptypy_needs_energy_and_angles_from_a_person(tmp_path: Path) -> None:
    for index in range(2):
        with h5py.File(tmp_path / f"scan{index}.ptyr", "w") as file:
            file["content/obj/S/data"] = FRAME[None]
    out = tmp_path / "out"
    path, notes = import_folder("ptypy", [tmp_path], out)
    (series,) = load_beamtime(path).beamtime.series
    assert (series.format, series.energy.energy_ev, series.pixel_size_m) == ("ptypy", 1000.0, None)
    text = "\n".join(notes)
    name = tmp_path.name
    assert f"series[0].energy.energy_ev: the files of '{name}' do not say it; 1000 eV is" in text
    assert f"series[0].pixel_size_m: the files of '{name}' do not say it" in text
    assert f"series[0].angles_deg: the files of '{name}' hold no angles; give 2 of them" in text
    table = tmp_path / "angles.txt"
    table.write_text("0\n90\n")
    path, notes = import_folder(
        "ptypy",
        [tmp_path],
        tmp_path / "again",
        energy_ev=6200.0,
        pixel_size_m=6e-8,
        angles_file=table,
    )
    loaded = load_beamtime(path)
    (series,) = loaded.beamtime.series
    assert series_angles(series, loaded.folder).tolist() == [0.0, 90.0]
    assert len(list(read_series(series, loaded.folder))) == 2
    assert not any("energy_ev:" in note or "pixel_size_m:" in note for note in notes)


def test_stacks_are_series_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.nx", "w") as file:
            file["entry/instrument/detector/data"] = np.ones((3, 8, 8), np.float32)
            file["entry/sample/rotation_angle"] = [0.0, 60.0, 120.0]
            file["entry/instrument/beam/incident_energy"] = 0.7
            file["entry/instrument/beam/incident_energy"].attrs["units"] = "keV"
            stokes = [1.0, 0.0, 0.0, 0.9 if name == "a" else -0.9]
            file["entry/instrument/beam/incident_polarization_stokes"] = stokes
    path, notes = import_folder("nxtomo", [tmp_path], tmp_path / "out")
    first, second = load_beamtime(path).beamtime.series
    assert (first.state, first.quantity, first.energy.energy_ev) == ("raw", "intensity", 700.0)
    # The polarisation of two files, but nothing that says they are of one mounting.
    assert first.polarisation.kind == second.polarisation.kind == "unpolarised"
    text = "\n".join(notes)
    assert "series[0].polarisation: C+ at tilt 'a' has no single partner C-" in text
    assert "series[0].quantity: the frames of 'a' are real and taken as intensities" in text


def test_tiff_phase_is_told_by_its_sign(tmp_path: Path) -> None:
    for index in range(3):
        tifffile.imwrite(tmp_path / f"p{index:02}.tif", -np.ones((8, 8), np.float32))
    path, notes = import_folder("tiff", [tmp_path], tmp_path / "out", energy_ev=700.0)
    (series,) = load_beamtime(path).beamtime.series
    assert (series.state, series.quantity) == ("phase", "phase")
    assert any("are taken as phase images" in note for note in notes)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \*\.cxi files, found none"):
        import_folder("cxi", [tmp_path], tmp_path / "out")
    with pytest.raises(InputError, match="file or folder does not exist"):
        import_folder("cxi", [tmp_path / "gone"], tmp_path / "out")
    with pytest.raises(InputError, match=r"format: expected one of .*, found 'png'"):
        import_folder("png", [tmp_path], tmp_path / "out")
    with pytest.raises(InputError, match="dataset: does not apply to the format 'resire-v'"):
        import_folder("resire-v", [tmp_path], tmp_path / "out", dataset="x")
    (tmp_path / "bad.cxi").write_text("x" * 3000)
    with pytest.raises(InputError, match=r"bad.cxi: cannot be read as HDF5"):
        import_folder("cxi", [tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "folder", "ev"), [("cxi", REAL_CXI, 855.905629), ("ptypy", REAL_PTYR, 6200.0)]
)
def test_real_files(tmp_path: Path, name: str, folder: Path, ev: float) -> None:
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{folder.name}")
    path, _ = import_folder(name, [folder], tmp_path / "out")
    (series,) = load_beamtime(path).beamtime.series
    assert series.energy.energy_ev == pytest.approx(ev, rel=1e-8)
