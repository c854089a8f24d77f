"""Penalties: derivatives, symmetry, indifference to rotation, and silence across the surface."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    GradientPrior,
    SumOfPriors,
    component_metric,
)
from pipeline.tomography.surface import CurvaturePrior, SurfacePrior, surface_differences

SHAPE = (5, 6, 7)


@pytest.fixture
def support():
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.7
    mask[0, 0, 0] = mask[-1, -1, -1] = True
    return mask


def _priors(support, n):
    metric = component_metric(n)
    return [
        GradientPrior(0.7, support, metric),
        EdgePreservingPrior(0.9, 0.4, support, metric),
        EdgePreservingPrior(0.9, 0.1, support, metric),
        CurvaturePrior(0.7, support, metric),
        SurfacePrior(0.7, support, metric),
        SumOfPriors((GradientPrior(0.7, support, metric), SurfacePrior(0.7, support, metric))),
    ]


@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("which", range(6))
def test_derivative_matches_finite_differences(support, n, which):
    rng = np.random.default_rng(which)
    prior = _priors(support, n)[which]
    x = rng.normal(size=(n, *SHAPE)).astype(np.float32)
    d = rng.normal(size=x.shape).astype(np.float32)
    gradient = prior.value_gradient(x)[1]
    h = np.float32(2.0**-7)
    numeric = (prior.value_gradient(x + h * d)[0] - prior.value_gradient(x - h * d)[0]) / (2 * h)
    # Truncation h^2 and float32 rounding of x ± h d.
    assert numeric == pytest.approx(inner(gradient, d), rel=2e-3, abs=2e-3 * np.sqrt(x.size))


@pytest.mark.parametrize("which", [0, 3, 4])
def test_hessian_is_symmetric_and_positive(support, which):
    rng = np.random.default_rng(0)
    prior = _priors(support, 6)[which]
    x, y = rng.normal(size=(2, 6, *SHAPE)).astype(np.float32)
    assert inner(x, prior.hessian(y)) == pytest.approx(inner(y, prior.hessian(x)), rel=1e-5)
    assert inner(x, prior.hessian(x)) > 0.0


def test_gradient_prior_equals_explicit_differences(support):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, *SHAPE)).astype(np.float32)
    total = 0.0
    for axis in range(3):
        one, two = [slice(None)] * 3, [slice(None)] * 3
        one[axis], two[axis] = slice(1, None), slice(None, -1)
        both = support[tuple(one)] & support[tuple(two)]
        total += float(((x[0][tuple(one)] - x[0][tuple(two)])[both] ** 2).sum(dtype=np.float64))
    prior = GradientPrior(0.7, support, component_metric(1))
    assert prior.value_gradient(x)[0] == pytest.approx(0.35 * total, rel=1e-5)


@pytest.mark.parametrize("which", range(6))
def test_the_surface_costs_nothing(support, which):
    prior = _priors(support, 3)[which]
    x = np.where(support, 1.0, 5.0).astype(np.float32)[None].repeat(3, axis=0)
    value, gradient = prior.value_gradient(x)
    # Rounding of 1 - 1 by way of a sparse product.
    assert value <= 1e-10
    assert np.abs(gradient).max() <= 1e-6


@pytest.mark.parametrize("which", range(6))
def test_voxels_outside_the_support_have_no_gradient(support, which):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    gradient = _priors(support, 3)[which].value_gradient(x)[1]
    assert np.all(gradient[:, ~support] == 0.0)


@pytest.mark.parametrize("which", [0, 1, 2, 3, 4])
def test_a_rotated_tensor_pays_the_same(support, which):
    rng = np.random.default_rng(4)
    matrices = rng.normal(size=(*SHAPE, 3, 3))
    matrices = matrices + np.swapaxes(matrices, -1, -2)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = rotation @ matrices @ rotation.T
    i, j = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    prior = _priors(support, 6)[which]
    one = prior.value_gradient(np.moveaxis(matrices[..., i, j], -1, 0).astype(np.float32))[0]
    two = prior.value_gradient(np.moveaxis(turned[..., i, j], -1, 0).astype(np.float32))[0]
    assert one == pytest.approx(two, rel=1e-5)


def test_edge_preserving_is_quadratic_below_and_linear_above_its_scale():
    support = np.ones((1, 1, 2), dtype=bool)
    prior = EdgePreservingPrior(2.0, 0.1, support, component_metric(1))

    def cost(jump):
        return prior.value_gradient(np.array([[[[0.0, jump]]]], dtype=np.float32))[0]

    assert cost(1e-3) == pytest.approx(2.0 * 1e-6 / (2 * 0.1), rel=1e-3)
    assert cost(50.0) == pytest.approx(2.0 * 50.0, rel=1e-2)


def test_beyond_its_knee_a_jump_costs_hardly_more():
    support = np.ones((1, 1, 2), dtype=bool)

    def cost(jump, knee):
        prior = EdgePreservingPrior(2.0, 0.01, support, component_metric(1), knee)
        return prior.value_gradient(np.array([[[[0.0, jump]]]], dtype=np.float32))[0]

    assert cost(0.02, 1.0) == pytest.approx(cost(0.02, 0.0), rel=0.02)
    assert cost(1.0, 0.1) == pytest.approx(2.0 * 0.1 * np.log1p(0.99 / 0.1), rel=1e-2)
    assert cost(2.0, 0.1) < 1.3 * cost(1.0, 0.1)


def test_unpack_restores_the_support(support):
    packed = np.arange(2 * np.count_nonzero(support), dtype=np.float32).reshape(2, -1)
    field = unpack(packed, support)
    assert np.array_equal(field[:, support], packed)
    assert np.all(field[:, ~support] == 0.0)


def test_slopes_have_no_curvature():
    support = np.ones((6, 6, 12), dtype=bool)
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (1, *support.shape)).copy()
    prior = CurvaturePrior(1.0, support, component_metric(1))
    bend = GradientPrior(1.0, support, component_metric(1))
    # Only where the ramp is cut off does it bend; first differences pay all along.
    inside = prior.hessian(ramp)[0][:, :, 3:-3]
    assert np.abs(inside).max() < 1e-5
    assert prior.value_gradient(ramp)[0] < 0.1 * bend.value_gradient(ramp)[0]


def test_only_the_derivative_along_the_normal_costs_at_the_surface():
    z, y, x = np.indices((24, 24, 24)) - 12.0
    radius = np.sqrt(x**2 + y**2 + z**2)
    ball = radius < 9.0
    prior = SurfacePrior(1.0, ball, component_metric(1))
    smooth = np.maximum(radius, 1.0)
    along_normal = prior.value_gradient(radius[None].astype(np.float32))[0]
    across = prior.value_gradient((9.0 * x / smooth)[None].astype(np.float32))[0]
    # Of the same slope, but across the normal; voxels leave a few per cent.
    assert across < 0.1 * along_normal
    inside = np.zeros((1, *ball.shape), np.float32)
    inside[0, 10:15, 10:15, 10:15] = np.random.default_rng(0).normal(size=(5, 5, 5))
    assert prior.value_gradient(inside)[0] == 0.0
    slopes = surface_differences(ball) @ radius[ball]
    assert np.median(slopes) == pytest.approx(1.0, abs=0.1)


def test_an_empty_support_has_no_surface():
    with pytest.raises(InputError, match="the support is empty"):
        surface_differences(np.zeros((3, 3, 3), bool))
