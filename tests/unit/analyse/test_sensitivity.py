"""Noise, spread inside a grain and detection limit, of planted answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.analyse.sensitivity import (
    back_projection_noise,
    measure_sensitivity,
    most_uniform_grain,
)
from pipeline.constants import wavelength_m
from pipeline.tomography.fbp import filtered_back_projection
from schemas.beamtime import Material
from schemas.energy import Energy

SHAPE = (16, 20, 40)
OXIDE = Material(name="V2O5", electron_density_min=0.7, electron_density_max=0.9, formula="V2O5")


def two_grains(spread_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """One grain of known spread in azimuth (3) and elevation (1 times), one twice as uneven."""
    rng = np.random.default_rng(0)
    label = np.ones(SHAPE, np.int32)
    label[..., 20:] = 2
    azimuth = np.radians(np.where(label == 1, 40.0, 130.0))
    elevation = np.radians(np.where(label == 1, 20.0, -50.0))
    scale = np.radians(spread_deg) * np.where(label == 1, 1.0, 2.0)
    elevation = elevation + scale * rng.standard_normal(SHAPE)
    azimuth = azimuth + 3 * scale * rng.standard_normal(SHAPE) / np.cos(elevation)
    axis = np.stack(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    sign = np.where(rng.random(SHAPE) < 0.5, 1.0, -1.0)
    return (sign * axis).astype(np.float32), label


def test_spread_of_the_most_uniform_grain() -> None:
    axis, label = two_grains(2.0)
    found = most_uniform_grain(axis, label)
    assert found is not None
    assert found.label == 1
    assert found.voxels == 14 * 18 * 18
    assert found.elevation_deg == pytest.approx(20.0, abs=0.5)
    assert found.azimuth_deg == pytest.approx(40.0, abs=0.5)
    assert found.elevation_spread_deg == pytest.approx(2.0, rel=0.1)
    assert found.azimuth_spread_deg == pytest.approx(6.0, rel=0.05)


def test_noise_of_a_back_projection() -> None:
    rng = np.random.default_rng(1)
    stack = 0.01 * rng.standard_normal((30, 8, 48)).astype(np.float32)
    volume = filtered_back_projection(stack, np.arange(30) * np.pi / 30)
    middle = volume[16:32, :, 16:32]
    # 16 x 8 x 16 correlated voxels.
    assert np.std(middle) == pytest.approx(back_projection_noise(0.01, 30), rel=0.1)
    assert math.isnan(back_projection_noise(0.01, 0))


def test_detection_limit_of_vanadium() -> None:
    """Contrast 1.8 mrad, noise 0.13 mrad, voxels of 31 nm: numbers of the published volume."""
    axis, label = two_grains(1.0)
    ones = np.ones(SHAPE, np.float32)
    found = measure_sensitivity(
        axis,
        1.8e-3 * ones,
        ones > 0,
        1.3e-4,
        projection_noise=1e-3,
        n_projections=1000,
        pixel_size_m=31e-9,
        resonance=Energy(energy_ev=5468.0, edge="V K"),
        materials=[OXIDE],
        label=label,
        electron_density=0.82 * ones,
    )
    assert found.notes == ()
    assert found.limit is not None
    part = 3 * 0.13 / 1.8
    atoms = part * 2 * 0.82e30 / 86 * (31e-9) ** 3
    assert found.limit.part == pytest.approx(part)
    assert found.limit.atoms == pytest.approx(atoms)
    assert found.limit.mass_kg == pytest.approx(atoms * 50.942 * 1.66054e-27, rel=1e-4)
    product = found.as_product()
    assert product.figures["detection_limit_mass"].value == pytest.approx(10.4, rel=0.01)
    delta = 1.3e-4 * wavelength_m(5468.0) / (2 * np.pi * 31e-9)
    assert product.figures["dichroic_noise_delta"].value == pytest.approx(delta)
    assert product.figures["grain_elevation_spread"].value == pytest.approx(1.0, rel=0.15)
    assert product.tables["noise"].columns["phase"].shape == (4,)


def test_nothing_to_measure() -> None:
    nothing = np.zeros(SHAPE, np.float32)
    found = measure_sensitivity(
        np.zeros((3, *SHAPE), np.float32),
        nothing,
        nothing > 0,
        0.0,
        projection_noise=0.0,
        n_projections=0,
        pixel_size_m=1e-8,
        label=np.zeros(SHAPE, np.int32),
    )
    assert found.grain is None
    assert found.limit is None
    assert len(found.notes) == 3
    assert found.as_product().figures == {}
