"""Particles of known place, size and composition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from pipeline.analyse.particles import (
    FEWEST,
    active_fraction,
    measure_particles,
    separate_particles,
    wilson_interval,
)
from schemas.recipe import ChemistrySettings

SETTINGS = ChemistrySettings()
PIXEL = 10e-9


def grid(shape: tuple[int, int, int]) -> np.ndarray:
    """(z, y, x, 3) places x, y, z of the voxels."""
    return np.stack(np.indices(shape)[::-1], axis=-1).astype(np.float64)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float):
    return ((grid(shape) - np.asarray(centre)) ** 2).sum(axis=-1) < radius**2


def plate(shape, centre, edges, turn: Rotation) -> np.ndarray:
    inside = np.abs((grid(shape) - np.asarray(centre)) @ turn.as_matrix()) <= 0.5 * np.asarray(
        edges
    )
    return inside.all(axis=-1)


def measured(mask: np.ndarray, composition: np.ndarray):
    ones = np.ones(mask.shape, np.float32)
    return measure_particles(mask, composition, ones, 0.1 * ones, SETTINGS, PIXEL)


def test_touching_balls_are_parted_and_a_rough_plate_is_not() -> None:
    shape = (40, 40, 72)
    two = ball(shape, (22, 20, 20), 12) | ball(shape, (42, 20, 20), 12)  # neck of 6.6
    label = separate_particles(two, 0.7, 27)
    assert label.max() == 2
    assert len({label[20, 20, 22], label[20, 20, 42]}) == 2
    assert np.count_nonzero(label) == np.count_nonzero(two)
    fused = ball(shape, (26, 20, 20), 12) | ball(shape, (38, 20, 20), 12)  # neck of 10.4
    assert separate_particles(fused, 0.7, 27).max() == 1
    assert separate_particles(fused, 0.95, 27).max() == 2
    rough = plate(shape, (35, 20, 20), (60, 30, 9), Rotation.from_euler("x", 20, degrees=True))
    holes = np.random.default_rng(0).random(shape) < 0.2
    surface = rough & ~np.roll(rough, 1, axis=0)
    assert separate_particles(rough & ~(surface & holes), 0.7, 27).max() == 1


def test_small_and_no_particles() -> None:
    mask = np.zeros((12, 12, 12), bool)
    assert separate_particles(mask, 0.7, 27).max() == 0
    mask[2:4, 2:4, 2:4] = True
    assert separate_particles(mask, 0.7, 27).max() == 0
    assert separate_particles(mask, 0.7, 8).max() == 1
    everything = measured(np.ones((12, 12, 12), bool), np.full((12, 12, 12), 0.5, np.float32))
    assert everything.table["voxels"].tolist() == [12**3]
    assert everything.table["at_border"].all()
    empty = measured(np.zeros((12, 12, 12), bool), np.full((12, 12, 12), np.nan, np.float32))
    assert {len(column) for column in empty.table.values()} == {0}
    assert empty.notes == ("no particle is large enough to be measured",)
    assert math.isnan(empty.active[0].fraction)
    assert empty.dependence == ()


@pytest.mark.parametrize("degrees", [0.0, 33.0])
def test_facet_and_thickness_of_a_plate(degrees: float) -> None:
    shape = (50, 50, 50)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.36, 0.48, 0.8]))
    mask = plate(shape, (25.2, 24.7, 25.1), (30, 20, 6), turn)
    found = measured(mask, np.zeros(shape, np.float32)).table
    # Voxels of the outline: half a voxel around a facet of 30 x 20 is 8 %.
    assert found["facet_area_m2"][0] == pytest.approx(600 * PIXEL**2, rel=0.06)
    assert found["thickness_m"][0] == pytest.approx(6 * PIXEL, rel=0.06)
    assert abs(found["axis"][0] @ turn.as_matrix()[:, 2]) == pytest.approx(1.0, abs=2e-3)
    np.testing.assert_allclose(
        found["centroid_m"][0], np.array([0.2, -0.3, 0.1]) * PIXEL, atol=5.1e-9
    )
    assert not found["at_border"][0]


def test_mean_thickness_of_a_ball_is_two_thirds_of_its_diameter() -> None:
    mask = ball((40, 40, 40), (20, 20, 20), 15)
    found = measured(mask, np.zeros(mask.shape, np.float32)).table
    assert found["thickness_m"][0] == pytest.approx(20 * PIXEL, rel=0.03)
    assert found["volume_m3"][0] == pytest.approx(4 / 3 * np.pi * (15 * PIXEL) ** 3, rel=0.02)


def test_activity_and_its_dependence_on_thickness() -> None:
    """Thick plates are oxidised, thin ones are not."""
    shape = (30, 60, 90)
    mask, composition = np.zeros(shape, bool), np.full(shape, np.nan, np.float32)
    for k in range(9):
        thick = 2 + k
        part = np.zeros(shape, bool)
        part[
            5 : 5 + thick, 20 * (k // 3) + 2 : 20 * (k // 3) + 16, 30 * (k % 3) : 30 * (k % 3) + 20
        ] = True
        mask |= part
        composition[part] = 0.1 * k
    composition[mask] += 1e-4 * np.random.default_rng(0).standard_normal(mask.sum())
    found = measured(mask, composition)
    order = np.argsort(found.table["thickness_m"])
    np.testing.assert_allclose(found.table["composition"][order], 0.1 * np.arange(9), atol=1e-4)
    assert [fraction.active for fraction in found.active] == [7, 6]
    assert found.table["active_15"].sum() == 7
    assert found.table["at_border"].sum() == 3  # the left column begins at x = 0
    thickness = found.dependence[2]
    assert thickness.correlation == pytest.approx(1.0)
    assert [group.n for group in thickness.fractions] == [3, 2, 2, 2]
    assert thickness.fractions[0].fraction == pytest.approx(1 / 3)
    volume = int(found.table["voxels"][0])
    assert found.table["composition_uncertainty"][0] == pytest.approx(0.1 / np.sqrt(volume))
    few = measured(mask[:, :20], composition[:, :20])
    assert (
        few.notes[0]
        == f"3 particles are too few to see how the composition {'depends on'} their size"
    )
    assert len(few.table["label"]) < FEWEST


def test_wilson_interval_covers() -> None:
    low, high = wilson_interval(15, 50, 0.95)
    expected = stats.binomtest(15, 50).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert wilson_interval(0, 10, 0.95)[0] == 0.0
    assert wilson_interval(10, 10, 0.95)[1] == 1.0
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)
    fraction = active_fraction(np.array([0.1, 0.2, np.nan, 0.5]), 0.15)
    assert (fraction.active, fraction.n) == (2, 3)
    assert fraction.low_95 < fraction.low < 2 / 3 < fraction.high < fraction.high_95
