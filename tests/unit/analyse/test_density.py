"""Electron density, materials and shell on phantoms whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import constants
from pipeline.analyse.density import (
    air_noise,
    electron_density,
    histogram_windows,
    material_densities,
    segment_materials,
    shell_mask,
)
from schemas.beamtime import Material

SHAPE = (48, 30, 48)


def _pillar(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Density of a pillar (0.82) with a second phase (0.34) and a pore; and its support."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    support = z**2 + x**2 < 18**2
    density = np.where(support, 0.82, 0.0)
    density[(z + 6) ** 2 + y**2 + (x - 5) ** 2 < 6**2] = 0.34
    density[(z - 7) ** 2 + y**2 + (x + 5) ** 2 < 3**2] = 0.0
    random = np.random.default_rng(seed).standard_normal(SHAPE)
    return (density + noise * random).astype(np.float32), support


def test_electron_density_of_known_delta():
    """delta = r_e n_e lambda^2 / 2 pi, phase = -(2 pi / lambda) delta L: back to n_e."""
    energy, pixel, expected = 5400.0, 31e-9, 0.82
    wavelength = constants.wavelength_m(energy)
    delta = constants.CLASSICAL_ELECTRON_RADIUS_M * expected * 1e30 * wavelength**2 / (2 * np.pi)
    phase = np.full((2, 2, 2), -2 * np.pi / wavelength * delta * pixel, np.float32)
    density = electron_density(phase, energy, pixel)
    assert density.dtype == np.float32
    np.testing.assert_allclose(density, expected, rtol=1e-6)  # float32 rounding


def test_air_noise_is_that_of_the_air():
    density, support = _pillar(0.03)
    assert air_noise(density, support) == pytest.approx(0.03, rel=0.03)  # 1/sqrt(2 n)
    assert air_noise(density, np.ones(SHAPE, bool)) == 0.0


def test_named_windows_label_their_material():
    density, support = _pillar(0.0)
    windows = [
        Material(name="V2O5", electron_density_min=0.74, electron_density_max=0.90),
        Material(name="polymer", electron_density_min=0.2, electron_density_max=0.5),
    ]
    materials = segment_materials(density, windows, support=support)
    assert materials.names == ("V2O5", "polymer")
    np.testing.assert_array_equal(materials.labels == 1, np.isclose(density, 0.82))
    np.testing.assert_array_equal(materials.labels == 2, np.isclose(density, 0.34))


def test_noise_hardly_moves_the_labels():
    clean, support = _pillar(0.0)
    density, _ = _pillar(0.06)
    windows = [Material(name="V2O5", electron_density_min=0.74, electron_density_max=0.90)]
    truth = segment_materials(clean, windows, support=support).labels
    noise = air_noise(density, support)
    found = segment_materials(density, windows, support=support, noise=noise).labels
    # Plain thresholds lose a fifth of the voxels at this noise.
    assert np.mean(found[truth == 1] == 1) > 0.97


def test_windows_from_the_histogram_separate_two_materials():
    density, support = _pillar(0.04)
    windows = histogram_windows(density, 0.04, support)
    assert windows.shape == (2, 2)
    assert 0.1 < windows[0, 0] < 0.3
    assert 0.4 < windows[1, 0] < 0.75
    assert windows[0, 1] == windows[1, 0]
    assert np.isinf(windows[1, 1])
    materials = segment_materials(density, support=support, noise=0.04)
    assert materials.names == ("material-1", "material-2")


def test_nothing_stands_out_of_an_empty_volume():
    empty = np.zeros(SHAPE, np.float32)
    assert histogram_windows(empty).shape == (0, 2)
    materials = segment_materials(empty)
    assert materials.names == ()
    assert not materials.labels.any()
    assert material_densities(empty, materials) == []


def test_density_of_the_interior_within_its_uncertainty():
    density, support = _pillar(0.06)
    windows = [
        # Not centred on the density, so that a biased estimate would show.
        Material(name="V2O5", electron_density_min=0.78, electron_density_max=0.95),
        Material(name="absent", electron_density_min=2.0, electron_density_max=3.0),
    ]
    materials = segment_materials(density, windows, support=support, noise=0.06)
    found, absent = material_densities(density, materials)
    assert found.density == pytest.approx(0.82, abs=4 * found.uncertainty)
    assert found.uncertainty < 0.002
    assert found.spread == pytest.approx(0.06, rel=0.1)
    assert absent.voxels == 0
    assert np.isnan(absent.density)


def test_shell_is_counted_from_the_outer_surface_only():
    density, support = _pillar(0.0)
    pore = support & (density == 0.0)
    keep = shell_mask(support & ~pore, 90e-9, 30e-9)
    z, _, x = np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    radius = np.hypot(z, x)
    expected = support & ~pore & (radius < 18 - 3)
    differs = keep != expected
    assert not np.any(differs & (np.abs(radius - 15) > 1.0))  # one voxel of discretisation
    # Not touched: neither the rim of the pore nor top and bottom of the volume.
    assert keep[24 + 7, 15, 24 - 5 - 4]
    assert keep[24, 0, 24]
    assert keep[24, -1, 24]


def test_no_shell_keeps_everything():
    _, support = _pillar(0.0)
    np.testing.assert_array_equal(shell_mask(support, 0.0, 30e-9), support)
    full = np.ones(SHAPE, bool)
    np.testing.assert_array_equal(shell_mask(full, 90e-9, 30e-9), full)
