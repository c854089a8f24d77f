"""Vector reconstruction: what is refused, what is masked, and what the stages do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.reconstruct.vector import projector_scheme, reconstruct_vector
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import VectorSettings


@pytest.fixture(scope="module")
def magnet():
    """Two domains in a ball, from two mountings, with noise: stack, support and truth."""
    z, y, x = np.indices((16, 16, 16)) - 8
    support = x**2 + y**2 + z**2 < 36
    truth = np.zeros((3, 16, 16, 16), dtype=np.float32)
    truth[2] = np.where(x < 0, 0.8, 0.0) * support
    truth[1] = np.where(x < 0, 0.6, -1.0) * support
    angles = np.arange(0.0, 180.0, 10.0)
    rotations = np.concatenate(
        [series_rotations(angles, 0.0, 0.0), series_rotations(angles, 90.0, 0.0)]
    )
    weights = circular_weights(rotations)
    data = Projector(support.shape, (16, 16), rotations, weights).forward(truth)
    data += np.random.default_rng(0).normal(scale=0.3, size=data.shape).astype(np.float32)
    return DifferencedStack(data, rotations, weights, "circular", 1e-9, 0.3), support, truth


def _error(result, truth):
    return np.linalg.norm(result.vector - truth) / np.linalg.norm(truth)


def test_edges_are_worth_their_stage(magnet):
    stack, support, truth = magnet
    seen = []
    smooth = reconstruct_vector(stack, support, VectorSettings(refine_iterations=0))
    sharp = reconstruct_vector(stack, support, VectorSettings(), progress=seen.append)
    assert not sharp.vector[:, ~support].any()
    assert sharp.vector.dtype == np.float32
    assert _error(sharp, truth) < 0.8 * _error(smooth, truth)
    assert (smooth.edge_preserving, sharp.edge_preserving) == (0.0, 1.5)
    assert {state.stage for state in seen} == {
        "vector: prior strength",
        "vector: conjugate gradients",
        "vector: edge-preserving",
    }


def test_one_magnitude_holds_exactly(magnet):
    stack, support, truth = magnet
    result = reconstruct_vector(stack, support, VectorSettings(constant_magnitude=True))
    length = np.linalg.norm(result.vector, axis=0)[support]
    assert np.ptp(length) < 1e-5
    assert length.mean() == pytest.approx(1.0, abs=0.05)
    assert _error(result, truth) < 0.15


def test_published_descent_makes_every_iteration(magnet):
    stack, support, _ = magnet
    settings = VectorSettings(method="gradient-descent", iterations=20)
    result = reconstruct_vector(stack, support, settings)
    assert len(result.residuals) == 20
    assert np.all(np.diff(result.residuals) < 0.0)
    assert (result.smoothness, result.edge_preserving) == (0.0, 0.0)
    assert projector_scheme(settings) == "four-subvoxel"
    assert projector_scheme(VectorSettings()) is None


def test_what_is_no_vector_problem_is_refused(magnet):
    stack, support, _ = magnet
    settings = VectorSettings()
    with pytest.raises(InputError, match="a vector field needs circular contrast, found linear"):
        reconstruct_vector(replace(stack, contrast="linear"), support, settings)
    with pytest.raises(InputError, match="the support is empty"):
        reconstruct_vector(stack, np.zeros_like(support), settings)
    with pytest.raises(InputError, match="the projections are all zero"):
        reconstruct_vector(replace(stack, data=0 * stack.data), support, settings)
    with pytest.raises(InputError, match=r"expected a stack of shape \(36, 16, 16\)"):
        reconstruct_vector(
            replace(stack, data=stack.data[:5]), support, VectorSettings(method="gradient-descent")
        )
