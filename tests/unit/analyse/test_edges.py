"""Widths of edges against planted Gaussian blurs of known width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import erf

from pipeline.analyse.edges import (
    FWHM,
    TEN_TO_NINETY,
    as_product,
    fit_edges,
    grain_edges,
    label_faces,
    material_edges,
)
from pipeline.errors import InputError
from schemas.recipe import EdgeSettings

N = 44
Z, Y, X = np.indices((N, N, N)) - float(N // 2)
FEW = EdgeSettings(max_profiles=600)


def step(depth: np.ndarray, sigma: float) -> np.ndarray:
    return 0.5 * (1 + erf(depth / (math.sqrt(2) * sigma)))


def planes() -> np.ndarray:
    """Depth below an oblique plane [voxel]."""
    return (0.6 * X + 0.36 * Y + math.sqrt(1 - 0.36 - 0.1296) * Z) + 0.3


def test_the_constants_are_those_of_the_error_function():
    assert pytest.approx(2.5631, abs=1e-4) == TEN_TO_NINETY
    assert pytest.approx(2.3548, abs=1e-4) == FWHM


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.2])
def test_a_planted_blur_is_measured_on_planes_and_spheres(sigma):
    rng = np.random.default_rng(0)
    for depth in (planes(), 16.3 - np.sqrt((X - 0.3) ** 2 + Y**2 + (Z + 0.2) ** 2)):
        volume = (0.8 * step(depth, sigma) + 0.03 * rng.standard_normal(X.shape)).astype("f4")
        (found,) = material_edges(volume, (depth > 0).astype(np.uint8), ["oxide"], 10e-9, FEW)
        assert found.name == "oxide / none"
        assert len(found.width_m) > 300
        assert np.median(found.width_m) / 10e-9 == pytest.approx(2.563 * sigma, rel=0.04)
        assert np.median(found.fwhm_m) / 10e-9 == pytest.approx(2.355 * sigma, rel=0.04)
        assert found.mean_width_m / 10e-9 == pytest.approx(2.563 * sigma, rel=0.05)
        assert found.mean_fwhm_m / 10e-9 == pytest.approx(2.355 * sigma, rel=0.1)
        assert np.median(found.height) == pytest.approx(0.8, rel=0.03)


def test_edges_are_placed_between_voxels():
    depth = planes()
    volume = step(depth, 1.2).astype(np.float32)
    (found,) = material_edges(volume, (depth > 0).astype(np.uint8), ["oxide"], 1.0, FEW)
    normal = np.array([0.6, 0.36, math.sqrt(1 - 0.36 - 0.1296)])
    off = found.position_m @ normal + 0.3
    assert np.abs(off).max() < 0.05
    assert (found.normal @ normal).min() > 0.99


def test_a_boundary_of_perpendicular_grains_is_measured_and_others_are_left_out():
    rng = np.random.default_rng(1)
    sigma = 1.4
    axes = np.array([[1.0, 0, 0], [0, 1.0, 0], [0.9, 0.436, 0]])
    depth = planes()
    labels = np.where(X < -8, 3, np.where(depth > 0, 2, 1)).astype(np.int32)
    share = step(depth, sigma)
    third = step(-8.5 - X, sigma)
    parts = [(1 - third) * (1 - share), (1 - third) * share, third]
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    tensor = np.stack(
        [
            sum(part * a[i] * a[j] for part, a in zip(parts, axes, strict=True))
            + 0.02 * rng.standard_normal(X.shape)
            for i, j in pairs
        ]
    ).astype(np.float32)
    for sign in (1, -1):
        (found,) = grain_edges(sign * tensor, labels, 1.0, FEW)
        assert np.median(found.width_m) == pytest.approx(2.563 * sigma, rel=0.05)
        assert np.median(found.height) == pytest.approx(1.0, rel=0.1)
        assert found.position_m[:, 0].min() > -8
    assert grain_edges(tensor, np.where(labels == 2, 0, labels), 1.0, FEW) == []


def test_the_fit_recovers_noise_free_edges_of_either_sign():
    rng = np.random.default_rng(2)
    distance = np.arange(-6, 6.1, 0.25)
    shift, sigma = rng.uniform(-1.5, 1.5, 40), rng.uniform(0.4, 2.5, 40)
    low, height = rng.uniform(-2, 2, 40), rng.choice([-1, 1], 40) * rng.uniform(0.1, 5, 40)
    scaled = (distance - shift[:, None]) / (math.sqrt(2) * sigma[:, None])
    profiles = low[:, None] + 0.5 * height[:, None] * (1 + erf(scaled))
    fit = fit_edges(profiles, distance)
    np.testing.assert_allclose(fit.shift, shift, atol=1e-4)
    np.testing.assert_allclose(fit.sigma, sigma, rtol=1e-3)
    np.testing.assert_allclose(fit.height, height, rtol=1e-3)
    np.testing.assert_allclose(fit.low, low, atol=1e-2)
    assert fit.good(6.0).all()


def test_no_edge_and_nothing_at_all_are_empty_and_say_so():
    volume = np.ones((12, 12, 12), np.float32)
    assert material_edges(volume, np.zeros((12, 12, 12), np.uint8), ["oxide"], 1.0) == []
    assert grain_edges(np.ones((6, 5, 5, 5), "f4"), np.ones((5, 5, 5), np.int32), 1.0) == []
    labels = np.zeros((1, 1, 2), np.uint8)
    labels[..., 1] = 1
    assert material_edges(np.ones((1, 1, 2), "f4"), labels, ["oxide"], 1.0) == []
    product = as_product([])
    assert product.notes == (
        "No two materials or perpendicular grains meet over a smooth surface.",
    )
    assert not product.figures
    with pytest.raises(InputError, match=r"expected labels on the volume \(12, 12, 12\), found"):
        material_edges(volume, labels, ["oxide"], 1.0)


def test_a_field_with_nan_loses_those_profiles_only():
    depth = planes()
    volume = step(depth, 1.2).astype(np.float32)
    volume[10] = np.nan
    (found,) = material_edges(volume, (depth > 0).astype(np.uint8), ["oxide"], 1.0, FEW)
    assert len(found.width_m) > 50
    assert np.median(found.width_m) == pytest.approx(2.563 * 1.2, rel=0.03)


def test_the_product_shows_the_distribution():
    depth = planes()
    volume = step(depth, 1.2).astype(np.float32)
    found = material_edges(volume, (depth > 0).astype(np.uint8), ["oxide"], 10e-9, FEW)
    product = as_product(found)
    figure = product.figures["width_oxide_none"]
    assert figure.unit == "nm"
    assert figure.value == pytest.approx(25.63 * 1.2, rel=0.03)
    table = product.tables["edges_oxide_none"]
    assert table.columns.keys() == table.units.keys()
    bars = product.curves["widths_oxide_none"]
    assert bars.style == "bars"
    assert bars.lines["edges"].sum() == len(found[0].width_m)
    profile = product.curves["profile_oxide_none"]
    assert np.nanmin(np.diff(profile.lines["mean"])) > -0.02


def test_faces_are_between_voxels_of_two_labels():
    labels = np.zeros((2, 2, 3), np.int32)
    labels[:, :, 0], labels[:, :, 1] = 5, 2
    faces, pairs = label_faces(labels)
    assert pairs.tolist() == [[2, 5]] * 4
    assert set(faces[:, 2]) == {0.5}
