"""Winding of the director in slices: planted comets, trefoils, integers, events, pores, noise."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.defect_results import ANNIHILATED, CREATED
from pipeline.analyse.defects_plane import as_product, find_planar_defects
from pipeline.analyse.noise_pairs import cancel, weak_regions
from pipeline.analyse.surroundings import INSIDE, PORE, SURFACE
from pipeline.errors import InputError
from schemas.recipe import DefectSettings

N = 32
PIXEL = 30e-9
Z, Y, X = np.indices((N, N, N)) - float(N // 2)
ALL = np.ones((N, N, N), bool)
ALONG_Z = DefectSettings(normal="z")


def director(angle: np.ndarray, polar: np.ndarray | float = np.pi / 2) -> np.ndarray:
    polar = np.broadcast_to(polar, angle.shape)
    return np.stack(
        [np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)]
    ).astype(np.float32)


def noisy(axis: np.ndarray, size: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(1)
    moved = axis + size * rng.standard_normal(axis.shape)
    moved *= rng.choice([-1, 1], axis.shape[1:]) / np.linalg.norm(moved, axis=0)
    return moved.astype(np.float32)


def test_a_comet_and_a_trefoil_are_found_in_every_slice_between_voxels():
    planted = {0.5: (6.3, 2.2), -0.5: (-7.1, -4.4)}
    angle = sum(k * np.arctan2(Y - v, X - u) for k, (u, v) in planted.items())
    found = find_planar_defects(noisy(director(angle)), ALL, PIXEL, ALONG_Z)
    assert len(found.defects.charge) == 2 * N
    for charge, place in planted.items():
        own = found.defects.charge == charge
        assert sorted(found.defects.slice_index[own]) == list(range(N))
        off = found.defects.position_m[own, :2] / PIXEL - place
        assert np.linalg.norm(off, axis=1).max() < 0.3
    assert found.lines.slices.tolist() == [N, N]
    assert not found.lines.closed.any()
    assert found.defects.projected_length.min() > 0.95
    assert not found.defects.escaped.any()
    assert len(found.events.kind) == 0


@pytest.mark.parametrize("normal", ["x", "y", "z"])
def test_the_sense_is_right_handed_about_every_normal(normal):
    u, v = {"z": (X, Y), "y": (Z, X), "x": (Y, Z)}[normal]
    half = 0.5 * np.arctan2(v - 0.3, u - 0.4)
    first, second = {"z": (0, 1), "y": (2, 0), "x": (1, 2)}[normal]
    axis = np.zeros((3, N, N, N), np.float32)
    axis[first], axis[second] = np.cos(half), np.sin(half)
    found = find_planar_defects(axis, ALL, PIXEL, DefectSettings(normal=normal))
    assert found.defects.charge.tolist() == [0.5] * N
    expected = np.zeros((N, 3))
    expected[:, first], expected[:, second] = 0.4, 0.3
    along = "xyz".index(normal)
    expected[:, along] = np.arange(N) - N // 2
    np.testing.assert_allclose(found.defects.position_m / PIXEL, expected, atol=0.05)
    np.testing.assert_array_equal(
        np.sign(np.diff(found.lines.points_m[:, along])[5:-5]), np.ones(N - 11)
    )


def test_an_integer_defect_that_escapes_is_told_from_one_that_does_not():
    u, v = X - 2.3, Y + 1.6
    angle, away = np.arctan2(v, u), np.hypot(u, v)
    for polar, escaped in ((np.pi / 2, False), (np.minimum(away / 8, 1) * np.pi / 2, True)):
        found = find_planar_defects(noisy(director(angle, polar)), ALL, PIXEL, ALONG_Z)
        assert found.defects.charge.tolist() == [1.0] * N
        assert (found.defects.escaped == escaped).all()
        off = found.defects.position_m[:, :2] / PIXEL - (2.3, -1.6)
        assert np.linalg.norm(off, axis=1).max() < 0.5
    assert as_product(found).figures["escaped_integer_defects"].value == N


def test_a_loop_is_created_and_annihilated():
    """A ring in a plane through z: its two sides are opposite halves, born and ended together."""
    angle = 0.5 * np.arctan2(Y - 0.4, np.hypot(X, Z) - 8.3)
    axis = np.stack([np.cos(angle), np.sin(angle), 0 * angle])
    found = find_planar_defects(noisy(axis), ALL, PIXEL, ALONG_Z)
    assert found.lines.closed.tolist() == [True]
    assert found.events.kind.tolist().count(CREATED) == 1
    assert found.events.kind.tolist().count(ANNIHILATED) == 1
    ends = dict(zip(found.events.kind.tolist(), found.events.position_m / PIXEL, strict=True))
    np.testing.assert_allclose(ends[CREATED], (0, 0.4, -8.3), atol=1.0)
    np.testing.assert_allclose(ends[ANNIHILATED], (0, 0.4, 8.3), atol=1.0)
    assert found.defects.charge.sum() == 0
    assert found.lines.length_m[0] / PIXEL == pytest.approx(2 * np.pi * 8.3, rel=0.06)


def test_a_pore_in_the_core_carries_its_winding_and_the_near_ones_are_labelled():
    angle = 0.5 * np.arctan2(Y, X - 0.5) - 0.5 * np.arctan2(Y - 9.5, X - 0.5)
    mask = ALL.copy()
    mask[:, N // 2 - 2 : N // 2 + 3, N // 2 - 2 : N // 2 + 4] = False
    mask[:3] = mask[-3:] = True
    found = find_planar_defects(director(angle), mask, PIXEL, ALONG_Z)
    pores = found.pores
    assert pores["charge"].tolist() == [0.5] * (N - 6)
    np.testing.assert_allclose(np.asarray(pores["position_m"])[:, 0] / PIXEL, 0.5)
    d = found.defects
    assert (d.charge[d.slice_index == N // 2] == [-0.5]).all()
    assert (d.place[(d.slice_index < 2) & (d.charge > 0)] == SURFACE).all()
    near = (d.charge > 0) & (d.slice_index == 2)
    assert (d.place[near] == PORE).all()
    assert d.surface_distance_m[near] / PIXEL == pytest.approx(0.5, abs=0.2)
    assert (d.place[(d.charge < 0) & (np.abs(d.slice_index - N // 2) < 5)] == INSIDE).all()
    assert not found.slice_sums.sum(axis=1).any()
    assert found.slice_sums[N // 2].tolist() == [-0.5, 0.0, 0.5, 0.0]


def test_a_director_near_the_normal_has_noise_pairs_that_are_counted_not_listed():
    """Within noise of the normal the projection turns at random; nothing of it is listed."""
    found = find_planar_defects(noisy(director(0 * X, 0.02), 0.03), ALL, PIXEL, ALONG_Z)
    assert found.charges_before_averaging > 1000
    assert found.charges_after_averaging > 100
    assert found.cancelled_pairs > 30
    # What is left of a slice is what its border carries.
    assert len(found.defects.charge) <= 4 * N
    note = as_product(found).notes[-1]
    assert f"{found.cancelled_pairs} pairs of opposite halves" in note
    tilted = find_planar_defects(noisy(director(0 * X, 0.6), 0.03), ALL, PIXEL, ALONG_Z)
    assert tilted.charges_after_averaging == 0


def test_pairs_are_cancelled_only_inside_a_weak_region_and_to_its_sum():
    field = np.ones((2, 1, 8, 12), np.float32)
    field[:, 0, 2:6, 2:9] = 0.01
    valid = np.ones((1, 8, 12), bool)
    cells = np.array([[0, 3, 3], [0, 3, 5], [0, 4, 7], [0, 6, 10]])
    charge = np.array([1, -1, 1, -1])
    region = weak_regions(field, valid, cells, 0.1, True)
    assert len(set(region[:3].tolist())) == 1
    assert region[3] != region[0]
    gone = cancel(region, charge, cells + 0.5)
    assert gone.tolist() == [True, True, False, False]


def test_a_core_on_a_voxel_and_slices_of_nan_are_survived():
    angle = 0.5 * np.arctan2(Y, X)
    axis = director(angle)
    axis[:, :, N // 2, N // 2] = 0.0
    axis[:, 20:22] = np.nan
    found = find_planar_defects(axis, ALL, PIXEL, ALONG_Z)
    counts = np.bincount(found.defects.slice_index, minlength=N)
    assert counts[:20].sum() + len(found.pores["charge"]) >= 20
    assert counts[20:22].sum() == 0
    assert np.isfinite(found.defects.position_m).all()


def test_nothing_to_look_at_is_an_empty_product_that_says_so():
    found = find_planar_defects(director(0 * X), ~ALL, PIXEL)
    product = as_product(found)
    assert product.figures["lines"].value == 0
    assert len(product.tables["defects"].columns["charge"]) == 0
    assert product.tables["defects"].columns["position_m"].shape == (0, 3)
    assert product.lines["lines"].starts.tolist() == [0]
    assert product.notes[0].startswith("No voxel carries an orientation")
    single = find_planar_defects(director(0 * X)[:, :1, :1, :1], ALL[:1, :1, :1], PIXEL)
    assert len(single.defects.charge) == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(
        InputError, match=r"expected a field \(3, z, y, x\) on the mask \(2, 2, 2\)"
    ):
        find_planar_defects(np.zeros((3, 2, 2, 3), np.float32), np.ones((2, 2, 2), bool), PIXEL)


def test_a_product_has_a_unit_for_every_column_and_rows_of_one_length():
    angle = 0.5 * np.arctan2(Y - 0.3, X - 0.4)
    product = as_product(find_planar_defects(director(angle), ALL, PIXEL, ALONG_Z))
    for table in product.tables.values():
        assert table.columns.keys() == table.units.keys()
        assert len({len(column) for column in table.columns.values()}) == 1
    assert product.lines["lines"].starts[-1] == len(product.lines["lines"].points_m)
    assert "32 comets (+1/2), 0 trefoils (-1/2) and 0 integer" in product.summary
