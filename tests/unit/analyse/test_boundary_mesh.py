"""Area, normals and junctions of the mesh between labels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.boundary_mesh import mesh_labels


def _between(mesh, first, second):
    return mesh.only((mesh.sides[:, 0] == first) & (mesh.sides[:, 1] == second))


def _grid(n):
    z, y, x = np.indices((n, n, n)) - n // 2
    return x, y, z


@pytest.mark.parametrize(("radius", "tolerance"), [(6.0, 0.045), (9.0, 0.015), (13.0, 0.01)])
def test_area_of_a_ball(radius, tolerance):
    """Voxel faces would give half as much again, a smoothed mesh less."""
    x, y, z = _grid(32)
    label = np.where((x - 0.3) ** 2 + (y + 0.1) ** 2 + z**2 < radius**2, 2, 1).astype(np.int32)
    ball = _between(mesh_labels(label), 1, 2)
    assert ball.areas.sum() == pytest.approx(4 * np.pi * radius**2, rel=tolerance)
    outward = ball.points[ball.triangles].mean(axis=1) - [0.3, -0.1, 0.0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    # From the smaller label to the larger: inward. Smooth: no stairs.
    angle = np.degrees(np.arccos(np.clip(np.sum(-outward * ball.normals, axis=1), -1, 1)))
    assert np.average(angle, weights=ball.areas) < 3.0


@pytest.mark.parametrize("normal", [(1, 0, 0), (1, 0.3, 0.2), (0.9, 0.8, 0.1), (1, 1, 1)])
def test_area_and_normal_of_a_plane_through_a_block(normal):
    unit = np.array(normal) / np.linalg.norm(normal)
    x, y, z = _grid(32)
    side = np.where(x * unit[0] + y * unit[1] + z * unit[2] > 0.2, 2, 1)
    label = np.where((abs(y) <= 8) & (abs(z) <= 8), side, 0).astype(np.int32)
    # Rows of x that the plane leaves within the volume.
    plane = _between(mesh_labels(label), 1, 2)
    inside = abs(plane.points[plane.triangles].mean(axis=1)[:, 0]) < 15
    area = plane.areas[inside].sum() * abs(unit[0])
    assert area == pytest.approx(17**2, rel=0.035)
    mean = np.average(plane.normals, axis=0, weights=plane.areas)
    assert np.degrees(np.arccos(mean @ unit / np.linalg.norm(mean))) < 1.0


def test_three_grains_share_the_line_where_they_meet():
    x, y, _ = _grid(24)
    angle = np.degrees(np.arctan2(y + 0.2, x - 0.3)) % 360
    label = np.where(angle < 120, 1, np.where(angle < 240, 2, 3)).astype(np.int32)
    mesh = mesh_labels(label)
    points = [set(np.unique(_between(mesh, *pair).triangles)) for pair in ((1, 2), (1, 3), (2, 3))]
    parts = [mesh.only((mesh.sides == pair).all(axis=1)) for pair in ((1, 2), (1, 3), (2, 3))]
    assert all(points)
    common = [{tuple(p) for p in part.points} for part in parts]
    line = np.array(sorted(common[0] & common[1] & common[2]))
    assert len(line) >= 23
    inner = line[abs(line[:, 2]) < 9]
    assert np.abs(inner[:, :2] - [0.3, -0.2]).max() < 0.35
    # 120 degrees apart.
    for part in parts:
        near = np.linalg.norm(part.points[part.triangles].mean(axis=1)[:, :2], axis=1) < 9
        mean = np.average(part.normals[near], axis=0, weights=part.areas[near])
        turn = np.degrees(np.arctan2(mean[1], mean[0])) % 60
        assert min(turn % 30, 30 - turn % 30) < 3.0


def test_the_surface_of_every_label_is_closed():
    rng = np.random.default_rng(0)
    label = np.zeros((10, 10, 10), np.int32)
    label[2:8, 2:8, 2:8] = rng.integers(0, 4, (6, 6, 6))
    mesh = mesh_labels(label)
    for name in range(4):
        mine = (mesh.sides == name).any(axis=1)
        flip = mesh.sides[mine, 0] == name
        triangles = np.where(flip[:, None], mesh.triangles[mine][:, ::-1], mesh.triangles[mine])
        edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        # Every edge is gone through as often in one direction as in the other.
        n = len(mesh.points)
        forward = np.sort(edges[:, 0] * n + edges[:, 1])
        backward = np.sort(edges[:, 1] * n + edges[:, 0])
        np.testing.assert_array_equal(forward, backward)


def test_no_label_gives_no_mesh():
    mesh = mesh_labels(np.zeros((3, 4, 5), np.int32))
    assert mesh.points.shape == (0, 3)
    assert mesh.triangles.shape == (0, 3)
    assert mesh.areas.shape == (0,)
