"""Commands about a finished result: export, view."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.command import viewing
from flows.command.viewing import napari_layers
from pipeline.io.export.content import result_maps
from pipeline.io.products import MagnetisationMap, ResultData, ScalarMap
from pipeline.io.results import write_result

SHAPE = (6, 7, 8)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    support = np.ones(SHAPE, bool)
    data = ResultData(
        "magnet",
        2e-8,
        magnetisation=MagnetisationMap(
            rng.standard_normal((3, *SHAPE)).astype(np.float32), support
        ),
        scalar=ScalarMap(rng.random(SHAPE).astype(np.float32), support),
    )
    write_result(tmp_path / "result.nxs", data)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


def test_export_tells_its_files(folder):
    done = run("export", folder, "--to", "ovf", "--json")
    assert done.exit_code == 0, done.output
    path = folder / "export/ovf/magnetisation-vector.ovf"
    assert json.loads(done.stdout) == {"files": [str(path)]}
    assert path.read_bytes().startswith(b"# OOMMF OVF 2.0\n")
    done = run("export", folder / "result.nxs", "--to", "tiff", "--out", folder / "mine")
    assert done.exit_code == 0
    assert (folder / "mine/scalar-volume.tif").is_file()


def test_export_refuses_in_one_line(folder, tmp_path):
    assert run("export", folder, "--to", "stl").exit_code == 2
    (folder / "file").touch()
    done = run("export", folder, "--to", "csv", "--out", folder / "file")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "exists and is not a folder" in done.stderr
    done = run("export", folder / "absent", "--to", "csv")
    assert done.exit_code == 1
    assert "absent: file does not exist" in done.stderr


def test_view_prints_the_report_or_opens_it(folder, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(viewing, "has_napari", lambda: False)
    done = run("view", folder, "--no-browser")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").stat().st_size > 10_000
    assert opened == []
    assert run("view", folder).exit_code == 0
    assert opened == [(folder / "report.html").resolve().as_uri()]
    done = run("view", folder, "--napari")
    assert done.exit_code == 1
    assert "napari is not installed" in done.stderr


def test_view_opens_napari_where_it_is(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(viewing, "has_napari", lambda: True)
    monkeypatch.setattr(viewing, "open_napari", opened.append)
    assert run("view", folder).exit_code == 0
    assert opened == [folder / "result.nxs"]
    assert run("view", folder, "--report", "--no-browser").exit_code == 0
    assert len(opened) == 1


def test_layers_for_napari_have_their_place(folder):
    from pipeline.io.results import read_result

    layers = napari_layers(result_maps(read_result(folder / "result.nxs")))
    kinds = {str(layer["name"]): kind for kind, layer in layers}
    assert kinds["scalar volume"] == "image"
    assert kinds["scalar support"] == "labels"
    for _, layer in layers:
        assert layer["scale"] == pytest.approx([0.02] * 3)
        assert layer["translate"] == pytest.approx([-0.06, -0.06, -0.08])
