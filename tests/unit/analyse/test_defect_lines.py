"""Disclination lines in three dimensions: place, profile, loops, pores."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.averaging import average_axis, leading_axis, usable
from pipeline.analyse.cores import bilinear_zero
from pipeline.analyse.defect_lines import as_product, find_disclinations
from pipeline.analyse.surroundings import PORE

N = 32
Z, Y, X = np.indices((N, N, N)) - float(N // 2)
ALL = np.ones((N, N, N), bool)


def across(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    other = np.eye(3)[np.abs(vector).argmin()]
    first = np.cross(other, vector)
    first /= np.linalg.norm(first)
    return first, np.cross(vector, first)


def planted(line: np.ndarray, turn: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """Director that makes half a turn about `turn` around a line."""
    p, q = across(line)
    u, v = across(turn)
    away = np.stack([X - at[0], Y - at[1], Z - at[2]])
    angle = 0.5 * np.arctan2(np.tensordot(q, away, 1), np.tensordot(p, away, 1)) + 0.08 * X
    return np.multiply.outer(u, np.cos(angle)) + np.multiply.outer(v, np.sin(angle))


def noisy(axis: np.ndarray, size: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(1)
    moved = axis + size * rng.standard_normal(axis.shape)
    moved *= rng.choice([-1, 1], axis.shape[1:]) / np.linalg.norm(moved, axis=0)
    return moved.astype(np.float32)


@pytest.mark.parametrize(
    ("line", "turn", "share"),
    [
        ((0, 0, 1), (0, 0, 1), 0),
        ((0, 0, 1), (0, 0, -1), 1),
        ((1, 2, 3), (3, 0, -1), 2),
        ((2, 2, 1), (2, 1, 2), 0),
    ],
)
def test_place_and_profile_of_a_line_in_any_direction(line, turn, share):
    line, turn = (np.array(v) / np.linalg.norm(v) for v in (line, turn))
    at = (1.3, -2.2, 0.6)
    found = find_disclinations(noisy(planted(line, turn, at)), ALL, 1.0)
    assert found.closed.tolist() == [False]
    away = found.points_m - at
    off = np.linalg.norm(away - np.outer(away @ line, line), axis=1)
    assert off.mean() < 0.15
    assert off.max() < 0.6
    np.testing.assert_allclose(np.median(found.profile), line @ turn, atol=0.05)
    assert found.shares[0, share] > 0.9
    assert found.length_m[0] > N - 3


def test_a_ring_is_closed_and_goes_through_every_profile():
    """Its turn is about one fixed vector in its plane: wedges of both signs, twists between."""
    radius = 8.3
    angle = 0.5 * np.arctan2(Z - 0.2, np.hypot(X, Y) - radius)
    axis = np.stack([np.cos(angle), 0 * angle, np.sin(angle)])
    found = find_disclinations(noisy(axis), ALL, 2.0)
    assert found.closed.tolist() == [True]
    assert found.length_m[0] == pytest.approx(2 * 2 * np.pi * radius, rel=0.06)
    assert found.profile.max() > 0.95
    assert found.profile.min() < -0.95
    assert np.abs(found.shares[0] - (0.25, 0.25, 0.5)).max() < 0.06
    product = as_product(found)
    assert product.figures["closed_lines"].value == 1
    assert product.figures["share_twist"].value == pytest.approx(50, abs=6)
    assert len(product.tables["points"].columns["line"]) == len(found.points_m)


def test_a_line_through_a_pore_ends_there_and_says_so():
    mask = ALL.copy()
    mask[13:19, 13:19, 13:19] = False
    e = np.array([0.0, 0.0, 1.0])
    found = find_disclinations(planted(e, e, (0.3, 0.4, 0.0)).astype(np.float32), mask, 1.0)
    assert len(found.closed) == 2
    assert found.pore_ends == 2
    assert (found.place == PORE).sum() >= 4
    assert found.surface_distance_m.min() < 1.0


def test_an_escaped_integer_line_is_no_disclination():
    angle, away = np.arctan2(Y - 0.3, X - 0.4), np.hypot(Y - 0.3, X - 0.4)
    polar = np.minimum(away / 8, 1) * np.pi / 2
    axis = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)])
    found = find_disclinations(noisy(axis), ALL, 1.0)
    assert len(found.closed) == 0


def test_loops_on_a_perpendicular_boundary_are_counted_as_undecided():
    """At 90 degrees noise decides from voxel to voxel which way the axis turns."""
    axis = np.zeros((3, N, N, N))
    axis[0], axis[1] = X < 0, X >= 0
    found = find_disclinations(noisy(axis), ALL, 1.0)
    assert found.pierced_after_averaging > 300
    assert found.undecided_loops > 0
    assert not found.closed.any()
    assert f"{found.undecided_loops} run along boundaries" in as_product(found).notes[-1]
    tilted = axis.copy()
    tilted[2] = 0.5
    clear = find_disclinations(noisy(tilted), ALL, 1.0)
    assert clear.pierced_after_averaging == 0


def test_nothing_to_look_at_is_an_empty_product_that_says_so():
    product = as_product(
        find_disclinations(np.zeros((3, 4, 4, 4), np.float32), ALL[:4, :4, :4], 1.0)
    )
    assert product.figures["lines"].value == 0
    assert product.notes[0].startswith("No voxel carries an orientation")
    assert product.lines["disclinations"].points_m.shape == (0, 3)
    assert np.isnan(product.figures["share_twist"].value)


def test_leading_axis_is_that_of_the_eigenvectors():
    rng = np.random.default_rng(0)
    axis = rng.standard_normal((3, 6, 7, 5)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    carrying, valid = usable(axis, np.ones(axis.shape[1:], bool))
    tensor = average_axis(axis, carrying, valid, 1.0)
    np.testing.assert_allclose(tensor[:3].sum(axis=0), 1.0, atol=1e-5)
    found, gap = leading_axis(tensor, valid)
    xx, yy, zz, yz, xz, xy = tensor.reshape(6, -1)
    matrix = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(matrix.astype(float))
    apart = values[:, 2] - values[:, 1]
    np.testing.assert_allclose(gap.ravel(), apart, atol=2e-2)
    clear = apart > 0.1
    dot = np.abs(np.einsum("ki,ik->k", vectors[:, :, 2], found.reshape(3, -1)))
    np.testing.assert_allclose(dot[clear], 1.0, atol=1e-4)


def test_the_zero_between_four_corners_is_the_planted_one():
    rng = np.random.default_rng(2)
    s, t = rng.uniform(0.02, 0.98, (2, 50))
    b, c, d = rng.standard_normal((3, 50)) + 1j * rng.standard_normal((3, 50))
    a = -(b * s + c * t + 0.3 * d * s * t)
    d = 0.3 * d
    found_s, found_t = bilinear_zero(np.stack([a, a + b, a + c, a + b + c + d]))
    value = a + b * found_s + c * found_t + d * found_s * found_t
    np.testing.assert_allclose(value, 0, atol=1e-9)
