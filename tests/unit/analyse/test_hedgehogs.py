"""Point defects of vectors, what pores carry, emergent field and curl."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.hedgehogs import as_product, find_hedgehogs
from pipeline.analyse.surroundings import INSIDE, SURFACE
from schemas.recipe import DefectSettings

N = 32
Z, Y, X = np.indices((N, N, N)) - float(N // 2)
R = np.stack([X, Y, Z])
ALL = np.ones((N, N, N), bool)


def pair(plus: tuple[float, ...], minus: tuple[float, ...]) -> np.ndarray:
    """Field of two opposite sources: one hedgehog of either sign and no other."""
    field = np.zeros_like(R)
    for sign, place in ((1, plus), (-1, minus)):
        away = R - np.reshape(place, (3, 1, 1, 1))
        field += sign * away / np.linalg.norm(away, axis=0) ** 3
    return field / np.linalg.norm(field, axis=0)


def test_a_pair_is_found_between_voxels_at_the_noise_of_a_measurement():
    rng = np.random.default_rng(0)
    plus, minus = (5.2, 3.3, -4.1), (-8.4, 1.6, 7.7)
    vector = 3e-4 * (pair(plus, minus) + rng.standard_normal(R.shape) / 9)
    found = find_hedgehogs(vector.astype(np.float32), ALL, 2.0)
    assert sorted(found.charge) == [-1, 1]
    for charge, place in ((1, plus), (-1, minus)):
        off = found.position_m[found.charge == charge][0] / 2.0 - place
        assert np.linalg.norm(off) < 0.3
    assert found.outside == 0
    assert (found.place == INSIDE).all()
    product = as_product(found)
    assert product.figures["unbalanced_charge"].value == 0
    assert product.summary == "1 hedgehogs of charge +1 and 1 of charge -1."


def test_a_hedgehog_in_a_pore_is_carried_by_the_pore():
    mask = ALL.copy()
    mask[14:19, 14:19, 14:19] = False
    field = R / np.maximum(np.linalg.norm(R, axis=0), 1e-6)
    found = find_hedgehogs(field.astype(np.float32), mask, 1.0, maps=False)
    assert len(found.charge) == 0
    assert np.asarray(found.pores["charge"]).tolist() == [1]
    np.testing.assert_allclose(found.pores["position_m"], [[0, 0, 0]])
    assert found.outside == -1
    assert found.emergent_field is None
    assert found.vorticity is None


def test_a_hedgehog_on_a_voxel_without_a_direction_is_still_one():
    field = R / np.maximum(np.linalg.norm(R, axis=0), 1e-6)
    field[:, N // 2, N // 2, N // 2] = np.nan
    found = find_hedgehogs(field.astype(np.float32), ALL, 1.0, maps=False)
    assert found.charge.tolist() == [1]
    assert np.linalg.norm(found.position_m) < 0.6


def test_defects_near_the_surface_are_labelled_not_left_out():
    away = R - np.reshape([0.4, 0.3, N // 2 - 2.5], (3, 1, 1, 1))
    field = away / np.linalg.norm(away, axis=0)
    found = find_hedgehogs(field.astype(np.float32), ALL, 1.0, maps=False)
    assert found.charge.tolist() == [1]
    assert found.place.tolist() == [SURFACE]
    assert found.surface_distance_m[0] == pytest.approx(2.0, abs=0.3)


def test_noise_pairs_at_an_abrupt_wall_are_cancelled_and_counted():
    """Where the vector reverses from one voxel to the next, the sheet between turns at random."""
    rng = np.random.default_rng(3)
    field = np.zeros_like(R)
    field[2] = np.sign(X + 0.02)
    vector = (field + 0.15 * rng.standard_normal(R.shape)).astype(np.float32)
    found = find_hedgehogs(vector, ALL, 1.0, maps=False)
    assert found.charges_after_averaging > 4
    assert found.cancelled_pairs >= found.charges_after_averaging // 2 - 2
    # What is left is what the wall carries where it meets the border.
    assert len(found.charge) == abs(found.outside) < 6
    listed = find_hedgehogs(vector, ALL, 1.0, DefectSettings(significance=0.0), maps=False)
    assert len(listed.charge) == found.charges_after_averaging


def test_the_flux_of_a_skyrmion_tube_is_four_pi_and_a_vortex_has_its_curl():
    radius = np.hypot(X, Y)
    polar = np.pi * (1 - np.minimum(radius / 10, 1))
    phi = np.arctan2(Y, X)
    field = np.stack([np.sin(polar) * np.cos(phi), np.sin(polar) * np.sin(phi), np.cos(polar)])
    pixel = 0.5
    settings = DefectSettings(average_voxels=0.0)
    found = find_hedgehogs(field.astype(np.float32), ALL, pixel, settings)
    assert found.emergent_field is not None
    assert found.vorticity is not None
    flux = found.emergent_field[2].sum(axis=(1, 2)) * pixel**2
    np.testing.assert_allclose(np.abs(flux), 4 * np.pi, rtol=1e-3)
    assert np.abs(found.emergent_field[:2]).max() < 1e-3
    turning = np.stack([-np.sin(0.1 * Y), np.sin(0.1 * X), np.sqrt(0.9 + 0 * X)])
    curl = find_hedgehogs(turning.astype(np.float32), ALL, pixel, settings).vorticity
    assert curl is not None
    length = np.linalg.norm(turning, axis=0)
    expected = np.gradient(turning[1] / length, pixel, axis=2) - np.gradient(
        turning[0] / length, pixel, axis=1
    )
    np.testing.assert_allclose(curl[2], expected, atol=1e-4)


def test_nothing_to_look_at_is_an_empty_product_that_says_so():
    product = as_product(find_hedgehogs(np.zeros((3, 4, 4, 4), np.float32), ALL[:4, :4, :4], 1.0))
    assert product.figures["plus_one"].value == 0
    assert product.notes[0].startswith("No voxel carries a vector")
    assert product.maps["emergent_field"].values.shape == (3, 4, 4, 4)
