"""Vertical polarisation alone: the tomogram agrees with right axes and contradicts wrong ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.assemble import difference, mean, scalar_channel
from pipeline.analyse.vertical import (
    compare_vertical,
    degree_of,
    empty_vertical_product,
    vertical_product,
    vertical_projections,
)
from pipeline.errors import InputError
from pipeline.stacks import AlignedStack, DifferencedStack
from pipeline.tomography.contrast import TENSOR_COMPONENTS, polarised_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

N, DEGREE, CONTRAST, F0 = 28, 0.64, 1.8e-3, 0.0158


class Planted:
    """A ball of four grains in two materials, and partners of one mounting."""

    def __init__(self, tilt_deg: float) -> None:
        rng = np.random.default_rng(0)
        z, y, x = np.indices((N, N, N)) - N // 2
        self.mask = x**2 + y**2 + z**2 < 11**2
        grain = (x > 0) + 2 * (y > 1)
        self.labels = np.where(self.mask, 1 + (z > 2), 0)
        axes = rng.normal(size=(4, 3))
        axes[3] = 0.1, 1.0, 0.2
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        self.axis = np.moveaxis(axes[grain], -1, 0).astype(np.float32) * self.mask
        self.magnitude = (CONTRAST * self.mask).astype(np.float32)
        f0 = np.where(self.labels == 2, 1.2 * F0, F0) * self.mask
        tensor = [CONTRAST * self.axis[i] * self.axis[j] for i, j in TENSOR_COMPONENTS]
        field = np.stack([*tensor, f0 + CONTRAST / 3.0 * self.mask]).astype(np.float32)
        field = np.stack([ndimage.gaussian_filter(part, 0.5) for part in field])
        rotations = series_rotations(np.arange(0.0, 180.0, 4.0), tilt_deg, 0.0)
        partners = []
        for angle in (0.0, 90.0):
            weights = polarised_weights(rotations, angle, DEGREE)
            data = -Projector((N, N, N), (N, N), rotations, weights).forward(field)
            data += rng.normal(scale=4e-4, size=data.shape).astype(np.float32)
            partners.append(AlignedStack(data, rotations, 3e-8, 5468.0, 4e-4))
        self.lv = partners[1]
        self.difference = difference(partners[0], partners[1], DEGREE)
        self.mean = scalar_channel(mean(*partners))

    def compare(self, axis: NDArray[np.float32], factor: float = 1.0):
        scaled = np.float32(factor) * self.magnitude
        return compare_vertical(self.difference, self.mean, axis, scaled, 1, self.mask, self.labels)


@pytest.fixture(scope="module", params=[0.0, 30.0])
def planted(request: pytest.FixtureRequest) -> Planted:
    return Planted(request.param)


def test_mean_less_half_of_the_difference_is_the_vertical_partner(planted: Planted) -> None:
    found = vertical_projections(planted.difference, planted.mean)
    np.testing.assert_allclose(found.data, -planted.lv.data, atol=1e-6)
    assert degree_of(planted.difference) == pytest.approx(DEGREE)


def test_right_axes_agree(planted: Planted) -> None:
    found = planted.compare(planted.axis)
    assert found.correlation > 0.9  # noise and the part that turns with the sample
    assert found.slope == pytest.approx(1.0, abs=0.08)
    assert found.slope_error < 0.05
    assert found.f0 == pytest.approx(1.1 * F0, rel=0.05)
    # The electric field of vertical polarisation is the axis of rotation.
    assert found.axis @ np.array([0.0, 1.0, 0.0]) > 0.86


def test_wrong_axes_and_a_wrong_contrast_are_seen(planted: Planted) -> None:
    turned = np.roll(planted.axis, 1, axis=0)
    assert planted.compare(turned).correlation < 0.6
    assert planted.compare(planted.axis, 0.5).slope == pytest.approx(2.0, abs=0.16)


def test_product_shows_maps_curve_and_figures(planted: Planted) -> None:
    found = planted.compare(planted.axis)
    product = vertical_product([found, found], 3e-8)
    assert set(product.maps) == {"measured", "predicted", "difference"}
    assert product.figures["vertical_polarisation_slope"].value == found.slope
    assert product.figures["vertical_polarisation_slope"].uncertainty == found.slope_error
    curve = product.curves["agreement"]
    np.testing.assert_allclose(curve.lines["measured"], curve.x, atol=0.1 * CONTRAST)
    assert len(product.tables["mountings"].columns["slope"]) == 2
    assert empty_vertical_product().notes


def test_what_cannot_be_compared(planted: Planted) -> None:
    nothing = np.zeros_like(planted.mask)
    with pytest.raises(InputError, match="no voxel carries an orientation"):
        compare_vertical(
            planted.difference, planted.mean, planted.axis, planted.magnitude, 1, nothing
        )
    shorter: DifferencedStack = replace(planted.mean, data=planted.mean.data[1:])
    with pytest.raises(InputError, match="expected a linear stack and its mean of one shape"):
        vertical_projections(planted.difference, shorter)
