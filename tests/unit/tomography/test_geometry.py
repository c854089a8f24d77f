from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.tomography.geometry import (
    check_rotations,
    euler_rotations,
    group_by_axis,
    rotation_x,
    rotation_y,
    rotation_z,
    series_rotations,
)

QUARTER = np.pi / 2
X, Y, Z = np.eye(3)


def test_rotations_are_active_and_right_handed() -> None:
    np.testing.assert_allclose(rotation_x(QUARTER) @ Y, Z, atol=1e-15)
    np.testing.assert_allclose(rotation_y(QUARTER) @ Z, X, atol=1e-15)
    np.testing.assert_allclose(rotation_z(QUARTER) @ X, Y, atol=1e-15)


def test_series_turns_about_the_vertical_after_tilt_and_pre_rotation() -> None:
    (rotation,) = series_rotations([90.0], tilt_deg=30.0, pre_rotation_deg=90.0)
    mounted = rotation_z(np.pi / 6) @ rotation_y(QUARTER)
    np.testing.assert_allclose(rotation, rotation_y(QUARTER) @ mounted, atol=1e-15)


def test_euler_rotation_is_the_transpose_of_the_product() -> None:
    phi, theta, psi = np.deg2rad([90.0, -66.0, 10.0])
    expected = (rotation_z(phi) @ rotation_y(theta) @ rotation_x(psi)).T
    np.testing.assert_allclose(euler_rotations([[90.0, -66.0, 10.0]])[0], expected, atol=1e-15)


def test_published_geometry_is_two_groups() -> None:
    theta = np.arange(-66.0, 67.0, 3.0)
    zero = np.zeros_like(theta)
    euler = np.concatenate(
        [np.stack([zero, theta, zero], 1), np.stack([zero + 90.0, theta, zero], 1)]
    )
    first, second = group_by_axis(euler_rotations(euler))
    np.testing.assert_array_equal(first.indices, np.arange(45))
    np.testing.assert_allclose(first.base, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(second.base, rotation_z(-QUARTER), atol=1e-15)
    np.testing.assert_allclose(np.rad2deg(first.angles_rad), -theta, atol=1e-9)


def test_axes_apart_by_more_than_the_tolerance_are_apart() -> None:
    near = np.stack([np.eye(3), rotation_z(1e-7), rotation_z(1e-4)])
    assert [list(group.indices) for group in group_by_axis(near)] == [[0, 1], [2]]
    assert len(group_by_axis(near, tolerance_rad=1e-3)) == 1


def test_no_angles_make_no_rotations() -> None:
    assert series_rotations([]).shape == (0, 3, 3)
    assert group_by_axis(series_rotations([])) == []


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        (np.zeros((2, 2)), r"series_rotations: expected angles of shape \(n,\), found \(2, 2\)"),
        ([0.0, np.nan], "series_rotations: expected finite angles, found NaN or infinity"),
    ],
)
def test_refuses_angles(angles: list[float], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        series_rotations(angles)


def test_refuses_euler_angles_of_another_shape() -> None:
    with pytest.raises(GeometryError, match=r"expected angles of shape \(n, 3\), found \(4, 2\)"):
        euler_rotations(np.zeros((4, 2)))


def test_refuses_matrices_that_are_no_rotations() -> None:
    with pytest.raises(GeometryError, match="rotation 1 is not a proper rotation"):
        check_rotations(np.stack([np.eye(3), np.diag([1.0, 1.0, -1.0])]), "test")
    with pytest.raises(GeometryError, match="rotation 0 is not a proper rotation"):
        check_rotations(1.01 * np.eye(3)[None], "test")
    with pytest.raises(
        GeometryError, match=r"test: expected rotations \(n, 3, 3\), found \(3, 3\)"
    ):
        check_rotations(np.eye(3), "test")
    with pytest.raises(GeometryError, match="test: expected finite rotations"):
        check_rotations(np.full((1, 3, 3), np.inf), "test")
