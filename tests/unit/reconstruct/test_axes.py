"""Algebra of axes and packed tensors."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.reconstruct.axes import (
    dichroism_sign,
    outer_gradient,
    outer_tensor,
    principal_axes,
    symmetric_matrices,
    upper_half,
)


@pytest.fixture
def axes():
    a = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    return a / np.linalg.norm(a, axis=0)


def test_outer_tensor_is_the_outer_product(axes):
    expected = np.einsum("in,jn->nij", axes, axes)
    assert np.allclose(symmetric_matrices(outer_tensor(axes)), expected, atol=1e-6)


def test_outer_gradient_is_the_chain_rule(axes):
    rng = np.random.default_rng(1)
    slope = rng.normal(size=(6, 50))
    v, d = axes.astype(float), rng.normal(size=(3, 50))
    h = 1e-6
    numeric = (slope * (outer_tensor(v + h * d) - outer_tensor(v - h * d))).sum() / (2 * h)
    assert numeric == pytest.approx((outer_gradient(slope, v) * d).sum(), rel=1e-7)


@pytest.mark.parametrize("contrast", [2e-3, -5.0])
@pytest.mark.parametrize("trace", [0.0, 7.0])
def test_axis_and_contrast_come_back_without_the_trace(axes, contrast, trace):
    tensor = np.float32(contrast) * outer_tensor(axes)
    tensor[:3] += np.float32(trace * contrast)
    sign = dichroism_sign(tensor)
    found = principal_axes(tensor, sign)
    assert sign == np.sign(contrast)
    assert np.allclose(np.abs((found.axis * axes).sum(axis=0)), 1.0, atol=1e-5)
    assert np.allclose(found.contrast, abs(contrast), rtol=1e-4)
    assert np.allclose(found.uniaxiality, 1.0, atol=1e-4)


def test_uniaxiality_vanishes_for_two_equal_axes():
    tensor = np.array([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6], dtype=np.float32).T
    assert np.allclose(principal_axes(tensor, 1).uniaxiality, 0.0, atol=1e-6)


def test_upper_half_is_a_choice_between_two(axes):
    edge = np.array([[1, -1, 0, 0, 0], [0, 0, -1, 1, 0], [0, 0, 0, 0, -1]], dtype=np.float32)
    for a in (axes, edge):
        chosen = upper_half(a)
        assert np.array_equal(chosen, upper_half(-a))
        assert np.allclose(outer_tensor(chosen), outer_tensor(a))
        assert np.all(chosen[2] >= 0.0)
