"""Planted boundaries found again: area, normal, misorientation and kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.analyse.boundaries import BOUNDARY_UNITS, find_boundaries
from pipeline.analyse.boundary_product import as_product
from pipeline.errors import InputError
from pipeline.io.products import GrainMap
from schemas.recipe import BoundarySettings

PIXEL = 31e-9


def _grains(label, pixel=PIXEL, offset=(0.0, 0.0, 0.0)):
    return GrainMap(label.astype(np.int32), np.zeros(label.shape, np.uint8), {}, pixel, offset)


def _halves(n, normal, place=0.3):
    """Two grains on either side of a plane, normal x, y, z, in a volume of edge `n`."""
    z, y, x = np.indices((n, n, n)) - n // 2
    return np.where(x * normal[0] + y * normal[1] + z * normal[2] > place, 2, 1)


def _field(label, axes, noise_deg=0.0, seed=0):
    """Axes of grains 1, 2, ... in the volume, with noise and random signs; zero outside."""
    rng = np.random.default_rng(seed)
    field = np.vstack([np.zeros(3), axes])[label].transpose(3, 0, 1, 2)
    field = field + math.radians(noise_deg) * rng.standard_normal(field.shape) * (label > 0)
    field *= rng.choice([-1, 1], label.shape)
    return (field / np.maximum(np.linalg.norm(field, axis=0), 1e-12)).astype(np.float32)


def _pair(kind, theta_deg, normal):
    """Axes of the two grains of a boundary of known kind."""
    inside = np.cross(normal, [0.3, 0.5, -0.8])
    inside /= np.linalg.norm(inside)
    start, about = {
        "twist": (inside, normal),
        "twin": (normal, inside),
        "tilt": (Rotation.from_rotvec(inside * 0.7).apply(normal), inside),
    }[kind]
    half = math.radians(theta_deg) / 2
    return np.array([Rotation.from_rotvec(about * s * half).apply(start) for s in (-1, 1)])


@pytest.mark.parametrize("kind", ["tilt", "twist", "twin"])
@pytest.mark.parametrize("theta_deg", [15.0, 50.0, 90.0])
def test_kind_normal_and_misorientation_of_a_planted_boundary(kind, theta_deg):
    normal = np.array([0.6, -0.3, 0.74])
    normal /= np.linalg.norm(normal)
    label = _halves(20, normal)
    axis = _field(label, _pair(kind, theta_deg, normal), noise_deg=3.0)
    found = find_boundaries(_grains(label), axis, BoundarySettings())
    table = found.table
    assert table["kind"].tolist() == [kind]
    assert table["misorientation_deg"][0] == pytest.approx(theta_deg, abs=0.7)
    assert np.degrees(np.arccos(table["normal"][0] @ normal)) < 1.5
    assert table["tilt_twist_deg"][0] == pytest.approx(0 if kind == "twist" else 90, abs=2.5)
    assert table["probability_high_angle"][0] > (0.95 if theta_deg > 20 else 0.05)
    assert found.normals @ normal == pytest.approx(np.ones(len(found.normals)), abs=1e-3)


def test_curved_boundary_is_classed_by_its_many_normals():
    """A cylinder around the rotation axis is a tilt all around, though its mean normal is none."""
    _, y, x = np.indices((24, 36, 36)) - np.array([12, 18, 18])[:, None, None, None]
    label = np.where(x**2 + y**2 < 12.0**2, 2, 1)
    half = math.radians(20)
    axes = np.array([[math.cos(half), s * math.sin(half), 0.0] for s in (-1, 1)])
    found = find_boundaries(_grains(label), _field(label, axes, noise_deg=2.0), BoundarySettings())
    table = found.table
    assert table["kind"].tolist() == ["tilt"]
    assert table["normal_spread_deg"][0] > 30
    assert found.tilt_twist_deg.min() > 80
    centre = found.points_m[found.triangles].mean(axis=1)
    radial = centre * [1, 1, 0] / np.linalg.norm(centre[:, :2], axis=1, keepdims=True)
    inner = abs(centre[:, 2]) < 8 * PIXEL
    cosine = np.abs(np.sum(radial * found.normals, axis=1))[inner]
    assert np.degrees(np.arccos(np.minimum(cosine, 1.0))).max() < 3.0
    # Twist elsewhere: the same cylinder around an axis in its cross-section.
    turned = axes[:, [2, 0, 1]]
    other = find_boundaries(
        _grains(label), _field(label, turned, noise_deg=2.0), BoundarySettings()
    )
    assert other.tilt_twist_deg.max() > 85
    assert other.tilt_twist_deg.min() < 5


def test_area_and_place_in_metres():
    label = np.zeros((24, 26, 28), np.int32)
    label[4:20, 3:23, 4:14], label[4:20, 3:23, 14:24] = 1, 2
    axis = _field(label, _pair("tilt", 40.0, np.array([1.0, 0, 0])))
    offset = (1e-7, 2e-7, 3e-7)
    found = find_boundaries(_grains(label, offset=offset), axis, BoundarySettings())
    assert found.table["area_m2"][0] == pytest.approx(16 * 20 * PIXEL**2, rel=0.02)
    assert found.areas_m2.sum() == pytest.approx(found.table["area_m2"].sum())
    # Between columns 13 and 14, half a voxel before the origin at 14; z from 4 to 19, origin 12.
    expected = np.array([-0.5, 12.5 - 13, 11.5 - 12]) * PIXEL + np.array(offset[::-1])
    np.testing.assert_allclose(found.table["centroid_m"][0], expected, atol=0.02 * PIXEL)
    np.testing.assert_allclose(found.table["normal"][0], [1, 0, 0], atol=1e-3)


def test_stated_uncertainty_of_the_misorientation_is_honest():
    normal = np.array([1.0, 0.0, 0.0])
    label = _halves(16, normal)
    axes = _pair("tilt", 35.0, normal)
    off, stated = [], []
    for seed in range(30):
        axis = _field(label, axes, noise_deg=12.0, seed=seed)
        table = find_boundaries(_grains(label), axis, BoundarySettings()).table
        off.append(table["misorientation_deg"][0] - 35.0)
        stated.append(table["misorientation_sigma_deg"][0])
    assert 0.6 < np.sqrt(np.mean(np.square(off))) / np.mean(stated) < 1.5


def test_misorientation_is_that_beside_the_boundary_where_the_axis_turns_inside_a_grain():
    label = _halves(32, np.array([1.0, 0, 0]), 0.0)
    x = np.arange(32) - 15.5
    # Twelve degrees across each grain, thirty at the boundary.
    angle = np.radians(np.where(x > 0, 30.0, 0.0) + 12.0 * np.abs(x) / 16.0 * np.sign(x))
    axis = np.zeros((3, 32, 32, 32), np.float32)
    axis[0], axis[1] = np.cos(angle), np.sin(angle)
    table = find_boundaries(_grains(label), axis, BoundarySettings()).table
    # The means of the grains are 42 degrees apart; four voxels deep it is 36.
    assert table["misorientation_deg"][0] == pytest.approx(36.0, abs=0.5)


def test_an_axis_on_the_finer_grid_is_averaged():
    normal = np.array([1.0, 0.0, 0.0])
    fine = _halves(36, normal, -0.6)
    axis = _field(fine, _pair("twist", 60.0, normal))
    found = find_boundaries(_grains(fine[::3, ::3, ::3], 3 * PIXEL), axis, BoundarySettings())
    assert found.table["misorientation_deg"][0] == pytest.approx(60.0, abs=0.01)
    with pytest.raises(InputError, match=r"on the labels' grid \(12, 12, 12\) or a finer one"):
        find_boundaries(_grains(fine[::3, ::3, ::3]), axis[:, :30], BoundarySettings())


@pytest.mark.parametrize(
    ("label", "note"),
    [
        (np.zeros((5, 6, 7), int), "There are no grains, hence no boundaries."),
        (np.ones((5, 6, 7), int), "There is one grain only, hence no boundary."),
        (np.pad(np.eye(2, dtype=int), 3)[None] * [[[1], [2]] * 4], "No two of the"),
        (np.zeros((0, 4, 4), int), "There are no grains, hence no boundaries."),
    ],
)
def test_without_a_boundary_the_product_is_empty_and_says_why(label, note):
    axis = np.ones((3, *label.shape), np.float32)
    product = as_product(find_boundaries(_grains(label), axis, BoundarySettings()))
    assert product.notes[0].startswith(note)
    assert product.summary == "No grain boundary was found."
    assert all(len(column) == 0 for column in product.tables["boundaries"].columns.values())
    assert product.surfaces["boundaries"].triangles.shape == (0, 3)
    assert product.figures["boundaries"].value == 0
    assert not any(product.curves["misorientation"].lines["measured"])


def test_contacts_that_are_too_small_are_left_out_and_counted():
    label = np.zeros((6, 6, 6), int)
    label[:3, :3, :3], label[3:, :3, :3] = 1, 2
    label[1, 1, 3] = 3
    axis = _field(label, np.eye(3))
    found = find_boundaries(_grains(label), axis, BoundarySettings(min_area_voxels=6.0))
    assert found.table["first_grain"].tolist() == [1]
    assert found.table["second_grain"].tolist() == [2]
    none = find_boundaries(_grains(label), axis, BoundarySettings(min_area_voxels=99.0))
    assert none.notes == (
        "None of the 2 contacts between grains is large enough to be a boundary.",
    )


def test_voxels_that_are_not_a_number_do_not_count():
    normal = np.array([1.0, 0.0, 0.0])
    label = _halves(16, normal)
    axis = _field(label, _pair("twin", 40.0, normal))
    axis[:, 5] = np.nan
    table = find_boundaries(_grains(label), axis, BoundarySettings()).table
    assert table["misorientation_deg"][0] == pytest.approx(40.0, abs=0.1)
    assert table["kind"].tolist() == ["twin"]


def test_the_product_adds_up():
    normal = np.array([0.0, 0.6, 0.8])
    label = _halves(18, normal)
    label[:, :, :6] = np.where(label[:, :, :6] == 1, 3, label[:, :, :6])
    axis = _field(label, np.array([[1.0, 0, 0], [0, 1, 0], [0.8, 0.0, 0.6]]), noise_deg=1.0)
    found = find_boundaries(_grains(label), axis, BoundarySettings())
    product = as_product(found)
    table = product.tables["boundaries"]
    assert set(table.columns) == set(table.units) == set(BOUNDARY_UNITS)
    area = table.columns["area_m2"].sum() * 1e12
    assert product.figures["boundary_area"].value == pytest.approx(area)
    for curve in product.curves.values():
        assert sum(curve.lines["measured"]) == pytest.approx(area)
        assert sum(curve.lines["no preference"]) == pytest.approx(area)
    shares = [
        product.figures[f"boundary_{k}_share"].value for k in ("tilt", "twist", "twin", "mixed")
    ]
    assert sum(shares) == pytest.approx(100.0)
    surface = product.surfaces["boundaries"]
    assert all(len(column) == len(surface.triangles) for column in surface.data.values())
    assert surface.triangles.max() == len(surface.points_m) - 1
