"""Where the sample is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import GeometryError
from pipeline.reconstruct.support import find_support
from schemas.recipe import SupportSettings

SHAPE = (48, 40, 48)
DENSITY = 0.0164  # rad per voxel, like V2O5
LIGHT = 0.41
"""Density of polystyrene over that of V2O5."""


def _distance(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> NDArray[np.float64]:
    grid = np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij")
    return np.sqrt((grid[2] - x) ** 2 + (grid[1] - y) ** 2 + (grid[0] - z) ** 2)


def _tomogram(field: NDArray[np.float64], sign: float, noise: float = 0.1) -> NDArray[np.float32]:
    noisy = field + noise * np.random.default_rng(6).standard_normal(SHAPE)
    noisy[-4:-2, 2:4, 2:4] = 1.5
    return (sign * DENSITY * noisy).astype(np.float32)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_support_keeps_pores_and_drops_dust(sign: float, threshold: float | None) -> None:
    ball = _distance() < 12.0
    volume = _tomogram((ball & (_distance() > 4.0)).astype(float), sign)
    support = find_support(volume, SupportSettings(threshold=threshold, dilate=0))
    assert support.dtype == np.bool_
    assert (support & ball).sum() / (support | ball).sum() > 0.9
    assert support[_distance() < 3.0].all()
    assert not support[-4:-2, 2:4, 2:4].any()
    wider = find_support(volume, SupportSettings(threshold=threshold, dilate=1))
    assert wider.sum() > support.sum()
    assert (wider & support).sum() == support.sum()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_light_matter_at_the_surface_belongs_to_the_sample(sign: float, noise: float) -> None:
    dense, light = _distance(x=-4.0) < 11.0, _distance(x=9.0) < 7.0
    field = np.where(dense, 1.0, np.where(light, LIGHT, 0.0))
    volume = _tomogram(ndimage.gaussian_filter(field, 0.8), sign, noise)
    support = find_support(volume, SupportSettings())
    assert support[dense].mean() > 0.99
    assert support[light & ~dense].mean() > 0.97
    # Otsu's threshold alone, halfway to the dense matter, loses it.
    blunt = find_support(volume, SupportSettings(threshold=0.5))
    assert blunt[light & ~dense].mean() < 0.5
    assert support[~(dense | light) & (_distance(x=2.0) > 20.0)].mean() < 1e-3


@pytest.mark.parametrize("blur", [0.8, 1.5])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_surface_of_dense_matter_is_no_light_matter(blur: float, noise: float) -> None:
    ball = _distance() < 12.0
    volume = _tomogram(ndimage.gaussian_filter(ball.astype(float), blur), 1.0, noise)
    support = find_support(volume, SupportSettings(dilate=0))
    assert not support[_distance() > 13.0].any()


def test_light_matter_apart_from_the_sample_is_dropped() -> None:
    dense, light = _distance(x=-10.0) < 9.0, _distance(x=15.0) < 6.0
    volume = _tomogram(np.where(dense, 1.0, np.where(light, LIGHT, 0.0)), 1.0)
    support = find_support(volume, SupportSettings())
    assert support[dense].all()
    assert not support[light].any()


def test_support_refuses_what_shows_no_sample() -> None:
    with pytest.raises(GeometryError, match="found a constant volume"):
        find_support(np.zeros(SHAPE, np.float32), SupportSettings())
    with pytest.raises(GeometryError, match=r"expected a finite volume, found \(2, 2\)"):
        find_support(np.zeros((2, 2), np.float32), SupportSettings())
