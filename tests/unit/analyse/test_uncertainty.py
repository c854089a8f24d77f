"""The uncertainty from a twin and the noise from two halves against what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.uncertainty import (
    MOST_UNDERSTATED,
    half_set_noise,
    local_median,
    magnitude_error,
    orientation_uncertainty,
    reliability,
    understatement,
)
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
    )  # medians of 729
    assert found.dtype == np.float32
    assert not found[~mask].any()
    # The average over a neighbourhood does not mix in what lies outside of the mask.
    assert found[5].mean() == pytest.approx(4.0 * 2**0.5, rel=0.1)


def test_a_stated_error_grows_by_what_the_twin_lacks():
    rng = np.random.default_rng(0)
    axis = np.zeros((3, *SHAPE), np.float32)
    axis[2] = 1.0
    mask = np.ones(SHAPE, bool)
    twin = _noisy(axis, 0.02, rng)
    plain = orientation_uncertainty(axis, twin, mask)
    assert np.allclose(orientation_uncertainty(axis, twin, mask, factor=1.5), 1.5 * plain)


def test_local_median_knows_only_the_mask():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((5, 6, 7)).astype(np.float32)
    mask = rng.uniform(size=values.shape) < 0.7
    mask[2, 2, 2], mask[0, 0, 0] = True, False
    found = local_median(values, mask, 1)
    near = (slice(1, 4),) * 3
    assert found[2, 2, 2] == pytest.approx(np.median(values[near][mask[near]]))
    assert np.array_equal(np.isnan(found), ~mask)
    only = np.zeros_like(mask)
    only[2, 2, 2] = True
    assert np.nansum(local_median(values, mask, 1, only)) == found[2, 2, 2]


def _magnitudes(sigma: float, twin_sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a result, of what its twin was made of, and of the twin; density changes along x."""
    rng = np.random.default_rng(4)
    slow = 1.0 + 0.2 * np.arange(SHAPE[2]) / SHAPE[2] * np.ones(SHAPE)
    result = slow + sigma * rng.standard_normal(SHAPE)
    twin = result + twin_sigma * rng.standard_normal(SHAPE)
    return result.astype(np.float32), result.astype(np.float32), twin.astype(np.float32)


def test_magnitude_error_is_a_standard_deviation():
    _, made_of, twin = _magnitudes(0.03, 0.02)
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    found = magnitude_error(made_of, twin, mask, factor=1.5)
    assert np.median(found[mask]) == pytest.approx(0.03, rel=0.05)  # medians of 729
    assert not found[~mask].any()
    assert found.dtype == np.float32


@pytest.mark.parametrize(("sigma", "expected"), [(0.03, 1.5), (0.01, 1.0), (0.2, MOST_UNDERSTATED)])
def test_the_scatter_of_the_magnitude_says_what_the_twin_lacks(sigma, expected):
    """Neither a slow change of the density nor voxels at the surface count."""
    result, made_of, twin = _magnitudes(sigma, 0.02)
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2] = True
    surface = mask & ~np.pad(mask[3:-3, 3:-3], ((3, 3), (3, 3), (0, 0)))
    result[surface] *= 0.4
    # A density that changes by a hundredth a voxel adds little to the scatter.
    assert understatement(result, made_of, twin, mask) == pytest.approx(expected, rel=0.1)


def test_nothing_to_tell_an_understatement_from():
    values = np.ones(SHAPE, np.float32)
    assert understatement(values, values, values, np.zeros(SHAPE, bool)) == 1.0
    assert understatement(values, values, values, np.ones(SHAPE, bool)) == 1.0
    with pytest.raises(InputError, match="expected magnitudes of the mask's shape"):
        understatement(values[1:], values, values, np.ones(SHAPE, bool))


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
