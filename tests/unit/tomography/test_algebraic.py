"""ART and SIRT: where they converge to, a ball in closed form, and each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ConvergenceError, GeometryError
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.stacks import DifferencedStack
from pipeline.tomography.algebraic import kaczmarz, sirt, visiting_order
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import ScalarSettings

N, RADIUS, DENSITY = 24, 7.5, 0.02
CENTRE = np.array([2.0, -1.0, -3.0])
ANGLES_DEG = np.arange(0.0, 180.0, 6.0)


def rays(angles_rad, n):
    """Matrix of linear interpolation, (angles · n, n · n): voxels in the order z, x."""
    z, x = (line.ravel() - n // 2 for line in np.indices((n, n)))
    columns = np.arange(n)[:, None] - n // 2
    away = [np.abs(np.cos(a) * x + np.sin(a) * z - columns) for a in angles_rad]
    return np.maximum(1.0 - np.concatenate(away), 0.0)


def ball(rotations, noise=0.0):
    """Chords through a ball off the axis."""
    y, x = np.meshgrid(*[np.arange(N) - N // 2] * 2, indexing="ij")
    images = []
    for rotation in rotations:
        u, v, _ = rotation @ CENTRE
        images.append(2.0 * np.sqrt(np.maximum(RADIUS**2 - (x - u) ** 2 - (y - v) ** 2, 0.0)))
    data = DENSITY * np.array(images)
    data += noise * np.random.default_rng(0).standard_normal(data.shape)
    return DifferencedStack(
        data.astype(np.float32), rotations, scalar_weights(len(rotations)), "scalar", 1e-8, noise
    )


def inside(share):
    z, y, x = np.meshgrid(*[np.arange(N) - N // 2] * 3, indexing="ij")
    away = np.sqrt((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (z - CENTRE[2]) ** 2)
    return away < share * RADIUS


def test_sweeps_are_kaczmarz_from_ray_to_ray():
    n, angles = 6, np.array([0.1, 0.8, 1.5, 2.2])
    matrix = rays(angles, n)
    data = np.random.default_rng(1).random((len(angles), 3, n)).astype(np.float32)
    found, _ = kaczmarz(data, angles, sweeps=3, relaxation=0.4)
    x = np.zeros((n * n, 3))
    for _ in range(3):
        for m in visiting_order(angles):
            for u, row in enumerate(matrix[m * n : (m + 1) * n]):
                if row.any():
                    x += 0.4 * np.outer(row, data[m, :, u] - row @ x) / (row @ row)
    assert np.allclose(found, x.reshape(n, n, 3).transpose(0, 2, 1), atol=1e-5)
    assert sorted(visiting_order(angles)) == [0, 1, 2, 3]


@pytest.mark.parametrize("relaxation", [1.0, 0.4])
def test_kaczmarz_ends_at_the_smallest_field_that_explains_every_ray(relaxation):
    n, angles = 6, np.array([0.0, np.pi / 2])
    matrix = rays(angles, n)
    truth = np.random.default_rng(1).random((n * n, 3))
    data = (matrix @ truth).reshape(len(angles), n, 3).transpose(0, 2, 1).astype(np.float32)
    found, residuals = kaczmarz(data, angles, sweeps=40, relaxation=relaxation)
    expected = (np.linalg.pinv(matrix) @ (matrix @ truth)).reshape(n, n, 3).transpose(0, 2, 1)
    assert np.allclose(found, expected, atol=1e-4)
    assert residuals[-1] < 1e-4 < residuals[0]


def test_one_visit_of_one_ray_is_kaczmarz_formula():
    matrix = rays(np.array([0.3]), 5)
    data = np.zeros((1, 1, 5), np.float32)
    data[0, 0, 2] = 2.0
    measured = np.zeros(data.shape, bool)
    measured[0, 0, 2] = True
    found, _ = kaczmarz(data, np.array([0.3]), sweeps=1, relaxation=0.5, measured=measured)
    row = matrix[2]
    assert np.allclose(found[:, 0].ravel(), 0.5 * 2.0 * row / (row @ row), atol=1e-6)


def test_sirt_ends_where_the_weighted_gradient_vanishes():
    rotations = series_rotations(np.arange(0.0, 180.0, 30.0))
    projector = Projector((8, 6, 8), (6, 8), rotations, scalar_weights(6))
    rng = np.random.default_rng(2)
    data = projector.forward(rng.random((1, 8, 6, 8)).astype(np.float32))
    data += 0.1 * rng.standard_normal(data.shape).astype(np.float32)
    weights = rng.random(data.shape).astype(np.float32)
    first, _ = sirt(projector, data, iterations=1, relaxation=1.0, pixel_weights=weights)
    found, residuals = sirt(projector, data, iterations=400, relaxation=1.0, pixel_weights=weights)
    sums = projector.forward(np.ones((1, 8, 6, 8), np.float32))
    rows = np.where(sums > 1e-3 * sums.max(), weights / sums, 0.0).astype(np.float32)
    start = np.linalg.norm(projector.adjoint(rows * data))
    left = projector.adjoint(rows * (data - projector.forward(found[None])))
    assert np.linalg.norm(left) < 5e-3 * start
    assert np.all(np.diff(residuals) < 1e-4)
    assert first.shape == (8, 6, 8)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ["art", "sirt"])
def test_a_ball_has_its_density(method, sign):
    stack = ball(series_rotations(ANGLES_DEG), noise=0.01)
    stack = replace(stack, data=np.float32(sign) * stack.data)
    settings = ScalarSettings(method=method, iterations=60)
    found = reconstruct_scalar(stack, None, settings, volume_shape=(N, N, N))
    values = sign * found.volume / DENSITY
    assert values[inside(0.7)].mean() == pytest.approx(1.0, abs=0.03)
    assert values.min() >= 0.0
    assert values[~inside(1.5)].mean() < 0.02
    assert found.residuals[-1] < found.residuals[0]


def test_art_sirt_and_resire_agree():
    stack = ball(series_rotations(ANGLES_DEG), noise=0.01)
    volumes = [
        reconstruct_scalar(
            stack, None, ScalarSettings(method=method, iterations=60), volume_shape=(N, N, N)
        ).volume.ravel()
        for method in ("art", "sirt", "resire")
    ]
    assert np.corrcoef(volumes).min() > 0.97


def test_rays_that_were_not_measured_do_not_count():
    stack = ball(series_rotations(ANGLES_DEG))
    valid = np.ones(stack.data.shape, bool)
    valid[3:6, 5:15, 4:18] = False
    clean = replace(stack, valid=valid)
    dirty = replace(clean, data=np.where(valid, stack.data, np.float32(np.nan)))
    for method in ("art", "sirt"):
        settings = ScalarSettings(method=method, iterations=10, sweeps=3)
        one, other = (reconstruct_scalar(s, None, settings).volume for s in (clean, dirty))
        assert np.array_equal(one, other)
        assert one[inside(0.7)].mean() == pytest.approx(DENSITY, rel=0.15)


def test_a_missing_wedge_is_bridged_by_positivity():
    wedge = ball(series_rotations(np.arange(-60.0, 61.0, 4.0)), noise=0.005)
    errors = {}
    for method in ("fbp", "resire"):
        settings = ScalarSettings(method=method, iterations=200)
        found = reconstruct_scalar(wedge, None, settings, volume_shape=(N, N, N)).volume
        errors[method] = np.sqrt(np.mean((found / DENSITY - inside(1.0)) ** 2))
    assert errors["resire"] < 0.6 * errors["fbp"]


def test_what_lies_beyond_the_frames_is_not_put_inside():
    """A slab along x, of which the frames see the middle."""
    n, half = 20, 4
    rotations = series_rotations(np.arange(-60.0, 61.0, 5.0))
    wide = np.zeros((1, n, 8, 3 * n), np.float32)
    wide[:, n // 2 - half : n // 2 + half] = 1.0
    data = Projector(wide.shape[1:], (8, n), rotations, scalar_weights(len(rotations))).forward(
        wide
    )
    stack = DifferencedStack(data, rotations, scalar_weights(len(rotations)), "scalar", 1e-8, 0.0)
    errors = []
    for factor in (1.0, 2.5):
        settings = ScalarSettings(extend=[1.0, 1.0, factor], iterations=80)
        found = reconstruct_scalar(stack, None, settings, volume_shape=(n, 8, n))
        assert found.volume.shape == (n, 8, n)
        errors.append(np.sqrt(np.mean((found.volume - wide[0, :, :, n : 2 * n]) ** 2)))
    assert found.extended.shape == (n, 8, 50)
    assert errors[1] < 0.7 * errors[0]


def test_what_art_cannot_do_is_said():
    two = np.concatenate([series_rotations(ANGLES_DEG), series_rotations(ANGLES_DEG, 30.0)])
    with pytest.raises(GeometryError, match="ART needs one rotation axis, found 2"):
        reconstruct_scalar(ball(two), None, ScalarSettings(method="art"))
    with pytest.raises(ValueError, match="expected factors from 1 to 4"):
        ScalarSettings(extend=[1.0, 1.0, 5.0])
    with pytest.raises(ValueError, match="method 'art' knows no larger volume"):
        ScalarSettings(method="art", extend=[1.0, 1.0, 2.0])
    broken = np.full((2, 4, 4), np.inf, np.float32)
    with pytest.raises(ConvergenceError, match="ART: not finite in sweep 1"):
        kaczmarz(broken, np.array([0.0, 1.0]), sweeps=1, relaxation=1.0)
