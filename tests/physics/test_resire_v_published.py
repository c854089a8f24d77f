"""Vector reconstruction of the published RESIRE-V simulation, against its model.

Correlations as the published script takes them: over the whole volume, without removing means.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat

from pipeline.reconstruct.vector import reconstruct_vector
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.geometry import euler_rotations
from schemas.recipe import ProjectionSettings, VectorSettings

DATA = Path(__file__).parents[2] / "../shared/data/resire-v-metalattice"

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


def test_one_magnitude_is_worth_knowing(published):
    stack, support, truth = published
    settings = VectorSettings(constant_magnitude=True)
    result = reconstruct_vector(stack, support, settings)
    length = np.linalg.norm(result.vector, axis=0)[support]
    assert np.ptp(length) < 1e-4 * length.mean()
    assert length.mean() == pytest.approx(1.0, abs=0.02)
    assert np.all(_correlations(result.vector, truth) >= [0.989, 0.989, 0.998])


def test_the_published_descent_gives_the_published_correlations(published):
    stack, support, truth = published
    result = reconstruct_vector(stack, support, VectorSettings(method="gradient-descent"))
    assert len(result.residuals) == 150
    assert np.all(np.abs(_correlations(result.vector, truth) - [0.941, 0.938, 0.991]) <= 0.01)
