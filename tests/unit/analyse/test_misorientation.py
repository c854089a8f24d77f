"""Axes without a sign, the frame of a pair, and the kinds of boundary."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.analyse.misorientation import (
    KINDS,
    kind_probabilities,
    mirror_rad,
    misorientation,
    most_probable,
    pair_frame,
    tilt_twist_rad,
)


def _random_units(rng, n):
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _kinds(first, second, normal, sigma_deg=0.5, width_deg=2.0, confidence=0.7):
    n = len(first)
    sigma = np.full(n, math.radians(sigma_deg))
    probabilities = kind_probabilities(
        first,
        second,
        normal,
        first_sigma=sigma,
        second_sigma=sigma,
        normal_sigma=sigma,
        width=math.radians(width_deg),
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    return [KINDS[code] for code in most_probable(probabilities, confidence)], probabilities


def test_smallest_rotation_of_one_axis_onto_the_other():
    rng = np.random.default_rng(0)
    first, second = _random_units(rng, 50), _random_units(rng, 50)
    angle, axis = misorientation(first, second)
    turned = Rotation.from_rotvec(axis * angle[:, None]).apply(first)
    np.testing.assert_allclose(np.abs(np.sum(turned * second, axis=1)), 1.0, atol=1e-12)
    assert angle.max() <= math.pi / 2
    flipped_angle, flipped_axis = misorientation(first, -second)
    np.testing.assert_allclose(flipped_angle, angle, atol=1e-12)
    np.testing.assert_allclose(flipped_axis, axis, atol=1e-12)


def test_parallel_axes_have_no_rotation_axis_and_square_ones_do():
    first = np.array([[0.0, 0, 1], [0, 0, 1], [0, 0, 1]])
    second = np.array([[0.0, 0, 1], [0, 0, -1], [1, 0, 0]])
    angle, axis = misorientation(first, second)
    np.testing.assert_allclose(np.degrees(angle), [0, 0, 90], atol=1e-12)
    assert np.isnan(axis[:2]).all()
    np.testing.assert_allclose(np.abs(axis[2]), [0, 1, 0], atol=1e-12)
    assert np.isnan(tilt_twist_rad(axis, first)[:2]).all()
    assert np.isfinite(pair_frame(first, second)).all()


def test_frame_of_a_pair_is_right_handed_and_bisects():
    rng = np.random.default_rng(1)
    first, second = _random_units(rng, 20), _random_units(rng, 20)
    frame = pair_frame(first, second)
    np.testing.assert_allclose(np.linalg.det(frame), 1.0, atol=1e-12)
    axis = misorientation(first, second)[1]
    np.testing.assert_allclose(np.abs(np.sum(frame[:, 2] * axis, axis=1)), 1.0, atol=1e-12)
    a, b = (np.abs(np.sum(frame[:, 0] * v, axis=1)) for v in (first, second))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_plane_that_mirrors_one_axis_onto_the_other_is_a_twin():
    rng = np.random.default_rng(2)
    first, normal = _random_units(rng, 200), _random_units(rng, 200)
    mirrored = first - 2 * np.sum(first * normal, axis=1, keepdims=True) * normal
    angle = np.degrees(misorientation(first, mirrored)[0])
    np.testing.assert_allclose(mirror_rad(first, mirrored, normal), 0.0, atol=1e-6)
    kinds, _ = _kinds(first, mirrored, normal)
    assert {kind for kind, theta in zip(kinds, angle, strict=True) if theta > 10} == {"twin"}


@pytest.mark.parametrize("theta", [15.0, 30.0, 60.0, 90.0])
def test_planted_kinds(theta):
    rng = np.random.default_rng(3)
    normal = _random_units(rng, 30)
    inside = np.cross(normal, _random_units(rng, 30))
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    half = math.radians(theta) / 2

    def pair(start, about):
        return [Rotation.from_rotvec(about * s * half).apply(start) for s in (-1, 1)]

    kinds, _ = _kinds(*pair(inside, normal), normal)
    assert set(kinds) == {"twist"}
    # Bisector 45 degrees off the normal: as far from a mirror plane as can be.
    slanted = Rotation.from_rotvec(inside * math.pi / 4).apply(normal)
    kinds, _ = _kinds(*pair(slanted, inside), normal)
    assert set(kinds) == {"tilt"}
    kinds, _ = _kinds(*pair(normal, inside), normal)
    assert set(kinds) == {"twin"}
    between = (normal + inside) / math.sqrt(2)
    across = np.cross(normal, inside)
    kinds, _ = _kinds(*pair(across, between), normal)
    assert set(kinds) == {"mixed"}


def test_probabilities_are_those_of_the_hypotheses():
    """Normals drawn from each kind are called by it as often as its probability says."""
    rng = np.random.default_rng(4)
    n, theta, sigma = 4000, math.radians(25), math.radians(3)
    kind = rng.integers(0, 4, n)
    first = np.tile([math.cos(theta / 2), math.sin(theta / 2), 0.0], (n, 1))
    second = first * [1, -1, 1]
    turn = rng.uniform(0, math.pi, n)
    tilt = np.stack([np.cos(turn), np.sin(turn), np.zeros(n)], axis=1)
    twin = np.eye(3)[rng.integers(0, 2, n)]
    twist = np.tile([0.0, 0.0, 1.0], (n, 1))
    normal = np.choose(kind[:, None], [tilt, twist, twin, _random_units(rng, n)])
    normal = normal + sigma * rng.standard_normal((n, 3))
    noisy = [axis + sigma * rng.standard_normal((n, 3)) for axis in (first, second)]
    probabilities = _kinds(*noisy, normal, sigma_deg=3.0, width_deg=0.01)[1]
    right = probabilities.argmax(axis=1) == kind
    claimed = probabilities.max(axis=1)
    assert np.mean(right) == pytest.approx(np.mean(claimed), abs=0.05)
    for low, high in ((0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        among = (claimed >= low) & (claimed < high)
        assert np.mean(right[among]) == pytest.approx(np.mean(claimed[among]), abs=0.08)


def test_what_uncertainty_cannot_tell_apart_is_undetermined():
    first, second = np.array([[1.0, 0.1, 0]]), np.array([[1.0, -0.1, 0]])
    normal = np.array([[0.0, 1.0, 0.5]])
    kinds, _ = _kinds(first, second, normal, sigma_deg=8.0)
    assert kinds == ["undetermined"]


def test_twin_and_tilt_together_are_a_tilt():
    probabilities = np.array([[0.45, 0.0, 0.5, 0.05], [0.3, 0.0, 0.3, 0.4], [0.1, 0.1, 0.75, 0.05]])
    codes = most_probable(probabilities, 0.7)
    assert [KINDS[code] for code in codes] == ["tilt", "undetermined", "twin"]
    assert most_probable(np.zeros((0, 4)), 0.7).shape == (0,)
