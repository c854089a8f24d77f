"""The uncertainty from a twin and the noise from two halves against what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.uncertainty import half_set_noise, orientation_uncertainty, reliability
from pipeline.errors import InputError

SHAPE = (20, 20, 20)


def _noisy(axis: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noisy = axis + sigma * rng.standard_normal(axis.shape)
    return (noisy / np.linalg.norm(noisy, axis=0)).astype(np.float32)


def test_rms_angle_between_a_result_and_its_twin():
    """Sigma in both directions perpendicular to the axis: an rms angle of sigma times sqrt 2."""
    rng = np.random.default_rng(0)
    axis = np.empty((3, *SHAPE), np.float32)
    axis[:] = np.array([0.36, 0.48, 0.8])[:, None, None, None]
    twin = _noisy(axis, np.radians(4.0), rng)
    flip = rng.choice([-1, 1], SHAPE).astype(np.float32)
    mask = np.ones(SHAPE, bool)
    mask[:5] = False
    found = orientation_uncertainty(axis, twin * flip, mask)
    assert np.sqrt(np.mean(found[mask] ** 2)) == pytest.approx(
        4.0 * 2**0.5, rel=0.05
    )  # medians of 125
    assert found.dtype == np.float32
    assert not found[~mask].any()
    # The average over a neighbourhood does not mix in what lies outside of the mask.
    assert found[5].mean() == pytest.approx(4.0 * 2**0.5, rel=0.1)


def test_a_twin_that_agrees_has_no_uncertainty():
    axis = np.ones((3, *SHAPE), np.float32)
    mask = np.ones(SHAPE, bool)
    assert orientation_uncertainty(axis, -axis, mask).max() < 1e-3


def test_reliability_finds_what_is_overconfident():
    rng = np.random.default_rng(3)
    stated = rng.uniform(1.0, 6.0, 20000)
    honest = np.hypot(*(stated / 2**0.5 * rng.standard_normal((2, 20000))))
    curve = reliability(honest, stated.astype(np.float32), bins=4)
    assert np.allclose(curve.ratio, 1.0, atol=0.06)  # medians of 5000
    assert np.all(np.diff(curve.stated_deg) > 0.0)
    assert curve.voxels.sum() == 20000
    wrong = reliability(np.where(stated > 4.75, 2.0, 1.0) * honest, stated, bins=4)
    assert wrong.ratio[:3] == pytest.approx(1.0, abs=0.06)
    assert wrong.ratio[3] == pytest.approx(2.0, rel=0.06)
    with pytest.raises(InputError, match="expected at least 4 stated uncertainties, found 3"):
        reliability(honest, np.where(np.arange(20000) < 3, stated, 0.0), bins=4)


def test_shapes_must_agree():
    axis = np.ones((3, *SHAPE), np.float32)
    with pytest.raises(InputError, match=r"expected axes \(3, z, y, x\) on the mask"):
        orientation_uncertainty(axis, axis[:, 1:], np.ones(SHAPE, bool))


def test_noise_of_the_full_data_from_its_halves():
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((2, 6, 5000)).astype(np.float32)
    measured = np.sqrt(np.mean((halves.mean(axis=0)) ** 2))
    assert half_set_noise(*halves) == pytest.approx(measured, rel=0.02)
    assert half_set_noise(halves[0, :, :0], halves[1, :, :0]) == 0.0
