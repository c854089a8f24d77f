"""Vector reconstruction of the published RESIRE-V simulation, against its model and the README.

Correlations as the published script takes them: over the whole volume, without removing means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat
from typer.testing import CliRunner

from flows.cli import app
from pipeline.reconstruct.vector import reconstruct_vector
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.geometry import euler_rotations
from schemas.recipe import ProjectionSettings, VectorSettings

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data/resire-v-metalattice"
README = (ROOT / "README.md").read_text()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="needs the published data set in ../shared/data"),
]


@pytest.fixture(scope="module")
def published():
    """Stack, support and model; MATLAB's axes are reversed."""
    model = loadmat(DATA / "meta_lattice_model_randperturb.mat")
    names = ("m_xn", "m_yn", "m_zn")
    truth = np.stack([model[name].transpose(2, 1, 0) for name in names]).astype(np.float64)
    support = np.ascontiguousarray(model["model"].transpose(2, 1, 0) > 3)
    projections = loadmat(DATA / "proj_lattice_noisy.mat")["proj_gf"].transpose(2, 1, 0)
    rotations = euler_rotations(loadmat(DATA / "ang_lattice_noisy.mat")["ang"])
    stack = DifferencedStack(
        data=np.ascontiguousarray(projections, dtype=np.float32),
        rotations=rotations,
        weights=circular_weights(rotations),
        contrast="circular",
        pixel_size_m=1e-9,
        noise=0.0,
        point_spread_px=ProjectionSettings().point_spread_px,
    )
    return stack, support, truth


def _correlations(vector: NDArray[np.float32], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    found = vector.reshape(3, -1).astype(np.float64)
    model = truth.reshape(3, -1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(model, axis=1)
    return (found * model).sum(axis=1) / norms


def test_conjugate_gradients_alone_reach_the_floor(published):
    stack, support, truth = published
    result = reconstruct_vector(stack, support, VectorSettings(refine_iterations=0))
    assert np.all(_correlations(result.vector, truth) >= [0.975, 0.972, 0.995])


def test_the_published_descent_gives_the_published_correlations(published):
    stack, support, truth = published
    result = reconstruct_vector(stack, support, VectorSettings(method="gradient-descent"))
    assert len(result.residuals) == 150
    assert np.all(np.abs(_correlations(result.vector, truth) - [0.941, 0.938, 0.991]) <= 0.01)


def lattice_rows() -> dict[str, list[float]]:
    """Recipe of each row of the README's table of the published data, and its correlations."""
    rows = re.findall(r"^\| (.+?) \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \|$", README, re.MULTILINE)
    found = {}
    for name, *values in rows:
        recipe = re.search(r"`(.+)`", name)
        key = recipe.group(1) if recipe else "{}" if name == "empty recipe" else ""
        found[key] = [float(value) for value in values]
    return found


@pytest.fixture(scope="module")
def lattice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published data as a beamtime, with its truth."""
    folder = tmp_path_factory.mktemp("lattice") / "lattice"
    done = CliRunner().invoke(app, ["import", "resire-v", str(DATA), "--out", str(folder)])
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.parametrize("recipe", ["{}", "vector: {constant_magnitude: true}"])
def test_the_published_data_give_the_numbers_of_the_readme(
    recipe: str, lattice: Path, tmp_path: Path, prefect_api: str, cli: Callable[..., Any]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    result = tmp_path / "result"
    done = cli(
        "run", lattice / "beamtime.yaml", "--out", result, "--recipe", tmp_path / "recipe.yaml"
    )
    assert done.returncode == 0, done.stderr
    command = ["score", str(result), "--truth", str(lattice / "truth.h5"), "--json"]
    score = json.loads(CliRunner().invoke(app, command).stdout)
    found = [score[f"correlation_{axis}"]["value"] for axis in "xyz"]
    np.testing.assert_allclose(found, lattice_rows()[recipe], atol=0.002)
    assert all(np.array(found) >= (0.975, 0.972, 0.995))
    if "constant" in recipe:
        assert all(np.array(found) >= (0.989, 0.989, 0.998))
        with h5py.File(result / "result.nxs") as file:
            vector = file["entry/magnetisation/vector"][()]
            support = file["entry/magnetisation/support"][()] != 0
        length = np.linalg.norm(vector, axis=0)[support]
        assert np.ptp(length) < 1e-4 * length.mean()
        assert length.mean() == pytest.approx(1.0, abs=0.02)
