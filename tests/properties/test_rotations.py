"""Group laws of rotations, and grouping by common axis."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    linear_weights,
)
from pipeline.tomography.geometry import (
    euler_rotations,
    group_by_axis,
    rotation_x,
    rotation_y,
    rotation_z,
    series_rotations,
)

ANGLE = st.floats(-720.0, 720.0)
EULER = st.tuples(ANGLE, ANGLE, ANGLE)


@given(ANGLE, ANGLE)
def test_turns_about_one_axis_add(a: float, b: float) -> None:
    for turn in (rotation_x, rotation_y, rotation_z):
        np.testing.assert_allclose(turn(a) @ turn(b), turn(a + b), atol=1e-10)
        np.testing.assert_allclose(turn(a).T, turn(-a), atol=1e-15)


@given(st.lists(EULER, min_size=1, max_size=4))
def test_euler_rotations_are_proper(angles: list[tuple[float, float, float]]) -> None:
    matrices = euler_rotations(angles)
    identity = np.broadcast_to(np.eye(3), matrices.shape)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-12)


@settings(deadline=None)
@given(st.lists(EULER, min_size=1, max_size=8))
def test_groups_rebuild_any_rotations(angles: list[tuple[float, float, float]]) -> None:
    matrices = euler_rotations(angles)
    groups = group_by_axis(matrices)
    found = np.sort(np.concatenate([group.indices for group in groups]))
    np.testing.assert_array_equal(found, np.arange(len(matrices)))
    for group in groups:
        for index, angle in zip(group.indices, group.angles_rad, strict=True):
            rebuilt = rotation_y(angle) @ group.base
            np.testing.assert_allclose(rebuilt, matrices[index], atol=2e-6)  # grouping tolerance


@settings(deadline=None)
@given(st.floats(-60.0, 60.0), st.floats(-180.0, 180.0), st.integers(1, 7))
def test_one_mounting_is_one_group(tilt: float, pre: float, n: int) -> None:
    groups = group_by_axis(series_rotations(np.linspace(0.0, 170.0, n), tilt, pre))
    assert len(groups) == 1


@given(EULER, ANGLE, st.floats(0.0, 1.0), st.tuples(*[st.floats(-1.0, 1.0)] * 3))
def test_linear_weights_are_the_contrast(
    euler: tuple[float, float, float],
    angle: float,
    degree: float,
    axis: tuple[float, float, float],
) -> None:
    matrices = euler_rotations([euler])
    a = np.array(axis)
    tensor = np.outer(a, a)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    in_lab = matrices[0] @ a
    along = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]) @ in_lab[:2]
    across = np.array([-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))]) @ in_lab[:2]
    expected = 0.5 * (1 + degree) * along**2 + 0.5 * (1 - degree) * across**2
    weights = linear_weights(matrices, angle, degree)
    np.testing.assert_allclose(weights[0] @ tensor, expected, atol=1e-10)
    np.testing.assert_allclose(
        linear_difference_weights(matrices, degree),
        linear_weights(matrices, 0.0, degree) - linear_weights(matrices, 90.0, degree),
        atol=1e-12,
    )
    np.testing.assert_allclose(circular_weights(matrices)[0] @ a, in_lab[2], atol=1e-12)
