"""The result file: NeXus that resolves, whole or absent, and the same when read back."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import nexus_write
from pipeline.io.quality import read_quality, save_quality
from pipeline.io.results import (
    AngleRefinement,
    DensityMap,
    Figure,
    GrainMap,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResolutionCurve,
    ResultData,
    ScalarMap,
    SeriesAlignment,
    SeriesPreview,
    SeriesQuality,
    read_result,
    write_result,
    write_summary,
)
from schemas.provenance import Provenance

SHAPE = (5, 7, 6)


def _provenance() -> Provenance:
    return Provenance(
        software_version="0.1.0",
        python_version="3.12",
        packages={"numpy": "2.0"},
        device="cpu",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 2, tzinfo=UTC),
        beamtime="{}",
        recipe="{}",
        inputs=[],
        steps=[],
    )


def _full(rng: np.random.Generator) -> ResultData:
    def volume(*lead: int) -> np.ndarray:
        return rng.standard_normal((*lead, *SHAPE)).astype(np.float32)

    support = volume() > 0
    curve = np.linspace(1.0, 0.0, 4)
    return ResultData(
        sample="pillar Å",
        pixel_size_m=31e-9,
        orientation=OrientationMap(
            volume(6),
            volume(3),
            volume(),
            volume(),
            support,
            uncertainty_deg=volume(),
            magnitude_error=volume(),
        ),
        magnetisation=MagnetisationMap(volume(3), support, "rad/voxel"),
        scalar=ScalarMap(volume(), support, "rad/voxel"),
        density=DensityMap(
            volume(),
            (volume() > 0).astype(np.uint8),
            ("V2O5",),
            np.array([[0.74, 0.9]]),
            keep=support,
            noise=0.01,
        ),
        grains=GrainMap(
            rng.integers(0, 3, SHAPE).astype(np.int32),
            rng.integers(0, 2, SHAPE).astype(np.uint8),
            {"label": np.array([1, 2]), "axis": np.eye(3)[:2], "spread_deg": np.array([1.0, 2.0])},
            31e-9,
        ),
        resolution={"density": ResolutionCurve(curve, curve, curve, curve, 4e-8, np.nan)},
        alignment={
            "tilt1_lh": SeriesAlignment(
                np.ones((3, 2)),
                np.arange(3.0),
                np.ones((2, 3)),
                np.full((3, 2), 0.1),
                np.array([False, True, False]),
                axis_tilt_deg=0.2,
                axis_pitch_deg=0.5,
                axis_pitch_error_deg=0.1,
                converged=False,
            ),
            "offres": SeriesAlignment(np.ones((3, 2)), np.arange(3.0), np.ones((2, 3))),
        },
        quality={
            "tilt1_lh": SeriesQuality(
                angles_deg=np.arange(3.0),
                indices=np.array([0, 2, 3]),
                measures=rng.random((3, 5)),
                scores=rng.random((3, 5)),
                outliers=np.array([False, True, False]),
                reasons=("", "blur 4, neighbours 2", ""),
                excluded=(1,),
                notes=("Cut to rows 1 to 9.",),
            ),
            "tilt1_lv": SeriesQuality(
                np.zeros(1),
                np.zeros(1, int),
                np.ones((1, 5)),
                np.ones((1, 5)),
                np.zeros(1, bool),
                ("",),
            ),
        },
        mountings={"tilt1": Mounting(np.eye(3), np.zeros(3), 1.0, 2.5)},
        doubts=("agreement: 0.84 (tilt3), look at it",),
        angles={
            "tilt1": AngleRefinement(
                np.eye(3)[None], np.eye(3)[None], np.ones((1, 3)), np.full((1, 3), 0.1)
            )
        },
        residuals={"orientation": np.array([1.0, 0.5])},
        previews={
            "tilt1_lh": SeriesPreview(
                np.ones((1, 4, 4), np.float32), np.ones((1, 4, 4), np.float32), np.zeros(1), 31e-9
            )
        },
        figures={"electron_density_v2o5": Figure(0.82, "e/angstrom^3", 0.004, "interior")},
        provenance=_provenance(),
    )


def _same(a: object, b: object) -> bool:
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        fields = (f.name for f in dataclasses.fields(a))
        return all(_same(getattr(a, name), getattr(b, name)) for name in fields)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b or (isinstance(a, float) and np.isnan(a) and np.isnan(b))


def test_reads_back_what_was_written(tmp_path):
    data = _full(np.random.default_rng(0))
    write_result(tmp_path / "result.nxs", data)
    assert _same(data, read_result(tmp_path / "result.nxs"))


def test_no_uncertainty_is_not_a_number_in_the_file(tmp_path):
    data = _full(np.random.default_rng(0))
    uncertainty = np.array(data.orientation.uncertainty_deg)
    uncertainty[0] = 0.0
    orientation = dataclasses.replace(data.orientation, uncertainty_deg=uncertainty)
    data = dataclasses.replace(data, orientation=orientation)
    write_result(tmp_path / "result.nxs", data)
    with h5py.File(tmp_path / "result.nxs") as file:
        stored = file["entry/orientation/uncertainty_deg"][()]
    assert np.isnan(stored[0]).all()
    assert np.isfinite(stored[1:]).all()
    assert _same(data, read_result(tmp_path / "result.nxs"))


def test_quality_between_two_steps(tmp_path):
    for quality in _full(np.random.default_rng(0)).quality.values():
        save_quality(tmp_path / "quality.npz", quality)
        assert _same(quality, read_quality(tmp_path / "quality.npz"))


def _nxdata(group: h5py.Group) -> list[h5py.Group]:
    found = []

    def visit(_: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Group) and item.attrs.get("NX_class") == "NXdata":
            found.append(item)

    group.visititems(visit)
    return found


def test_every_nxdata_resolves(tmp_path):
    write_result(tmp_path / "result.nxs", _full(np.random.default_rng(0)))
    with h5py.File(tmp_path / "result.nxs") as file:
        default = file[file.attrs["default"]]
        assert default.attrs["NX_class"] == "NXentry"
        assert default[default.attrs["default"]].attrs["NX_class"] == "NXdata"
        groups = _nxdata(file)
        assert len(groups) > 10
        for group in groups:
            signal = group[group.attrs["signal"]]
            axes = group.attrs["axes"]
            assert len(axes) == signal.ndim
            for n, axis in zip(signal.shape, axes, strict=True):
                assert axis == "." or group[axis].shape == (n,)
            for name in group.attrs.get("auxiliary_signals", []):
                assert group[name].shape == signal.shape


def test_every_number_has_a_unit_and_every_map_is_compressed(tmp_path):
    write_result(tmp_path / "result.nxs", _full(np.random.default_rng(0)))

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            assert "units" in item.attrs, name
            if item.ndim >= 3:
                assert item.compression == "gzip", name

    with h5py.File(tmp_path / "result.nxs") as file:
        file.visititems(visit)
        z = file["entry/orientation/z"]
        assert z[SHAPE[0] // 2] == 0.0
        assert z[1] - z[0] == pytest.approx(31e-9)


def test_absent_products_leave_no_group(tmp_path):
    rng = np.random.default_rng(0)
    support = np.ones(SHAPE, bool)
    vector = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    data = ResultData("m", 1e-9, magnetisation=MagnetisationMap(vector, support))
    write_result(tmp_path / "result.nxs", data)
    with h5py.File(tmp_path / "result.nxs") as file:
        assert set(file["entry"]) == {"title", "sample", "pixel_size", "magnetisation"}
        assert file["entry"].attrs["default"] == "magnetisation"
    assert read_result(tmp_path / "result.nxs").orientation is None


def test_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "result.nxs"
    data = _full(np.random.default_rng(0))
    write_result(path, data)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(nexus_write, "_write_provenance", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        write_result(path, data)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["result.nxs"]


def test_bad_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "result.nxs"
    with pytest.raises(InputError, match=r"result\.nxs: file does not exist"):
        read_result(path)
    path.write_bytes(b"not hdf5")
    with pytest.raises(InputError, match=r"result\.nxs: cannot be read as HDF5"):
        read_result(path)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["entry/data"] = 1
    with pytest.raises(InputError, match=r"/entry: expected a result of dichrotomo"):
        read_result(path)
    with h5py.File(path, "w") as file:
        file["entry/sample/name"], file["entry/pixel_size"] = "m", 1e-9
        file["entry/density/electron_density"] = np.zeros((2, 2, 2))
    with pytest.raises(InputError, match=r"cannot be read as a result: .*materials"):
        read_result(path)


def link_away(file: h5py.File) -> None:
    file["entry/scalar/more"] = h5py.ExternalLink("other.h5", "/entry")


def values_elsewhere(file: h5py.File) -> None:
    del file["entry/pixel_size"]
    layout = h5py.VirtualLayout((1,), np.float64)
    layout[...] = h5py.VirtualSource("other.h5", "pixel_size", (1,))
    file.create_virtual_dataset("entry/pixel_size", layout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (link_away, "/entry/scalar/more: is an external HDF5 link, which is not followed"),
        (values_elsewhere, "/entry/pixel_size: keeps its values in another file"),
    ],
)
def test_a_result_that_leads_to_other_files_is_refused(tmp_path, change, words):
    write_result(tmp_path / "result.nxs", _full(np.random.default_rng(0)))
    with h5py.File(tmp_path / "result.nxs", "a") as file:
        file["entry/again"] = h5py.SoftLink("/entry/scalar")  # within the file: no harm
        file["entry/scalar/up"] = file["entry"]
    read_result(tmp_path / "result.nxs")
    with h5py.File(tmp_path / "result.nxs", "a") as file:
        change(file)
    with pytest.raises(InputError, match=words):
        read_result(tmp_path / "result.nxs")


def test_summary_is_plain_json(tmp_path):
    figures = {"a": Figure(1.5, "nm", 0.5, "length"), "b": Figure(float("nan"), "")}
    write_summary(tmp_path / "summary.json", figures)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["a"] == {
        "value": 1.5,
        "unit": "nm",
        "uncertainty": 0.5,
        "description": "length",
    }
    assert content["b"]["value"] is None
