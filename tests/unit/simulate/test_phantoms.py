"""The phantom: a tessellation with the published spread, all labels used, nothing symmetric."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pipeline.simulate.phantoms import (
    AIR,
    FIRST_GRAIN,
    LOG_DIAMETER_SPREAD,
    POLYSTYRENE,
    Phantom,
    laguerre,
    pillar,
)
from pipeline.simulate.presets import PRESETS

STATISTICS = Path(__file__).parents[3] / "../shared/data/xldot-v2o5-grains/segmentation_stats.csv"


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return pillar(PRESETS["tiny"], np.random.default_rng(5))


def test_laguerre_is_the_nearest_power_distance() -> None:
    rng = np.random.default_rng(0)
    shape = (21, 37, 18)  # no multiples of the block
    seeds, radii = rng.uniform(0, 1, (40, 3)) * shape, rng.uniform(1, 6, 40)
    labels = laguerre(shape, seeds, radii)
    grid = np.stack(np.indices(shape), axis=-1) + 0.5
    power = ((grid[..., None, :] - seeds) ** 2).sum(axis=-1) - radii**2
    np.testing.assert_array_equal(labels, power.argmin(axis=-1) + FIRST_GRAIN)


def test_grain_sizes_spread_as_published() -> None:
    """Grains of the pillar, cut ones among them, as the published ones were counted."""
    preset = PRESETS["demo"]
    volumes = np.bincount(pillar(preset, np.random.default_rng(2)).labels.ravel())[FIRST_GRAIN:]
    diameters = np.cbrt(6 / np.pi * volumes) / preset.oversampling
    low, median, high = np.percentile(diameters, [5, 50, 95])
    # Some eighty grains: the sampling error of the median is a tenth, of the ends a quarter.
    assert median == pytest.approx(preset.grain_diameter_px, rel=0.3)
    assert np.log(high / low) / 3.29 == pytest.approx(LOG_DIAMETER_SPREAD, rel=0.35)


def test_spread_is_that_of_the_published_grains() -> None:
    if not STATISTICS.is_file():
        pytest.skip("needs ../shared/data/xldot-v2o5-grains")
    volumes = np.loadtxt(STATISTICS, delimiter=",", skiprows=1, usecols=1)
    low, high = np.percentile(np.cbrt(6 / np.pi * volumes), [5, 95])
    assert pytest.approx(np.log(high / low) / 3.29, abs=0.01) == LOG_DIAMETER_SPREAD


def test_labels_and_table_agree(phantom: Phantom) -> None:
    assert phantom.labels.dtype == np.uint16
    assert phantom.labels.shape == PRESETS["tiny"].fine_shape
    counts = np.bincount(phantom.labels.ravel())
    assert counts.size == len(phantom.material) == len(phantom.axis)
    assert counts.min() > 0
    np.testing.assert_allclose(np.linalg.norm(phantom.axis[FIRST_GRAIN:], axis=1), 1.0)
    assert not phantom.axis[:FIRST_GRAIN].any()
    assert phantom.electron_density[[AIR, POLYSTYRENE, FIRST_GRAIN]].tolist() == [0.0, 0.34, 0.82]


def test_composition_and_outline(phantom: Phantom) -> None:
    solid = phantom.labels != AIR
    filled = ndimage.binary_fill_holes(solid)
    pores = np.count_nonzero(filled & ~solid) / np.count_nonzero(filled)
    polystyrene = np.mean(phantom.labels[solid] == POLYSTYRENE)
    assert 0.002 < pores < 0.05
    assert 0.03 < polystyrene < 0.12
    for axis in range(3):  # air all round, so that nothing is cut off
        faces = np.moveaxis(solid, axis, 0)
        assert not faces[0].any()
        assert not faces[-1].any()
    volume = np.count_nonzero(filled) * (phantom.voxel_size_m / 30.91e-9) ** 3
    assert volume == pytest.approx(np.pi * 12**2 * 30, rel=0.1)


@pytest.mark.parametrize("axes", [(0, 2), (0, 1), (1, 2)])
def test_no_half_turn_maps_it_onto_itself(phantom: Phantom, axes: tuple[int, int]) -> None:
    solid = (phantom.labels != AIR).astype(float)
    turned = np.rot90(solid, 2, axes=axes)
    assert np.abs(solid - turned).sum() > 0.02 * solid.sum()


def test_axes_are_isotropic() -> None:
    dense = replace(PRESETS["tiny"], grain_diameter_px=3.0)
    axis = pillar(dense, np.random.default_rng(1)).axis[FIRST_GRAIN:]
    mean = np.einsum("ni,nj->ij", axis, axis) / len(axis)
    # The standard error of a mean of cos^2 is 0.3 / sqrt(n).
    np.testing.assert_allclose(mean, np.eye(3) / 3, atol=4 * 0.3 / np.sqrt(len(axis)))


def test_same_seed_same_pillar() -> None:
    first, second, other = (pillar(PRESETS["tiny"], np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.axis, second.axis)
    assert not np.array_equal(first.labels, other.labels)
