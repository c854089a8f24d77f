"""Rotations that are off by a degree, refined in a run that the recipe asks for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.ndimage import gaussian_filter

from pipeline.align.turns import misorientation_rms_deg, turned_rotations
from pipeline.io.results import read_result
from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.geometry import euler_angles_deg, euler_rotations
from pipeline.tomography.projector import Projector

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]

N = 24


def write_measurement(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A small data set in RESIRE-V's layout: the rotations it was made with, and those it says."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((N, N, N)) - N // 2
    body = ((x / 8) ** 2 + (z / 7) ** 2 < 1) & (np.abs(y) < 8) & (x + z < 7)
    seeds = rng.uniform(-9.0, 9.0, (8, 3))
    domain = ((np.stack([z, y, x], -1)[..., None, :] - seeds) ** 2).sum(-1).argmin(-1)
    vectors = rng.normal(size=(8, 3))
    field = np.moveaxis(vectors[domain], -1, 0) * body
    field = np.stack([gaussian_filter(part, 0.8) for part in field]).astype(np.float32)
    tilts = np.linspace(-66.0, 66.0, 18)
    euler = np.concatenate([np.stack([0 * tilts + a, tilts, 0 * tilts], 1) for a in (0.0, 90.0)])
    given = euler_rotations(euler)
    true = turned_rotations(given, np.deg2rad(rng.normal(0.0, 1.0, (len(given), 3))))
    projector = Projector((N,) * 3, (N, N), true, circular_weights(true), "fourier")
    folder.mkdir()
    images = projector.forward(field)
    scipy.io.savemat(folder / "proj.mat", {"p": images.transpose(2, 1, 0)})
    scipy.io.savemat(folder / "ang.mat", {"ang": euler})
    model = {f"m_{c}n": field[i].transpose(2, 1, 0) for i, c in enumerate("xyz")}
    density = gaussian_filter(body.astype(np.float32), 0.8) > 0.1
    model["model"] = 4.0 * density.transpose(2, 1, 0)
    scipy.io.savemat(folder / "model.mat", model)
    return true, given


def test_a_run_refines_rotations_and_reports_them(
    tmp_path: Path, prefect_api: str, cli: Call
) -> None:
    true, given = write_measurement(tmp_path / "source")
    beamtime, out, recipe = tmp_path / "beamtime", tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text(
        "angles: {enabled: true, rounds: 2}\nvector: {iterations: 10, refine_iterations: 0}\n"
    )
    for command in (
        ("import", "resire-v", tmp_path / "source", "--out", beamtime),
        ("run", beamtime / "beamtime.yaml", "--out", out, "--recipe", recipe, "--cluster", "none"),
    ):
        done = cli(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    result = read_result(out / "result.nxs")
    ((name, angles),) = result.angles.items()
    before, after = (misorientation_rms_deg(r, true)[0] for r in (given, angles.refined))
    assert np.allclose(angles.given, given)
    assert before > 1.5
    assert after < 0.4 * before
    # The reconstruction was made on the refined rotations.
    assert result.figures["residual_magnetisation"].value < 0.1
    summary = json.loads((out / "summary.json").read_text())
    assert summary[f"refined_turn_{name}"]["value"] == pytest.approx(before, rel=0.2)
    page = (out / "report.html").read_text()
    assert "Refined rotations" in page
    assert "standard error about x, y, z [degree]" in page
    euler = euler_angles_deg(angles.refined)
    assert np.abs(euler - euler_angles_deg(given)).max() < 8.0
