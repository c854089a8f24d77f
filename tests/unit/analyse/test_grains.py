"""Grains found again in a planted polycrystal, and measured right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.analyse.axes import axis_tensor, downsample_axis, principal_axis
from pipeline.analyse.boundary_mesh import mesh_labels
from pipeline.analyse.grain_table import (
    grain_boundaries,
    grain_table,
    sphericity_36pi,
    surface_areas,
    wadell_sphericity,
)
from pipeline.analyse.grains import segment_grains
from pipeline.analyse.merging import AXIS, cubic, misorientation_rad
from pipeline.analyse.score import adjusted_rand_index
from pipeline.errors import InputError
from schemas.recipe import GrainSettings

PIXEL = 31e-9


def _polycrystal(
    n: int = 40, n_grains: int = 14, noise_deg: float = 0.0, blur: float = 0.0, seed: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voronoi grains whose axes are at least 15 degrees apart; label, axis of random sign, mask."""
    rng = np.random.default_rng(seed)
    axes: list[np.ndarray] = []
    while len(axes) < n_grains:
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        if all(abs(axis @ other) < math.cos(math.radians(15)) for other in axes):
            axes.append(axis)
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    seeds = rng.uniform(0, n, (n_grains, 3))
    label = cKDTree(seeds).query(grid)[1].reshape(n, n, n)
    field = np.array(axes)[label].transpose(3, 0, 1, 2)
    if blur:
        tensor = axis_tensor(field)
        field = principal_axis(np.stack([ndimage.gaussian_filter(part, blur) for part in tensor]))
    field = field + math.radians(noise_deg) * rng.standard_normal(field.shape)
    field *= rng.choice([-1, 1], label.shape) / np.linalg.norm(field, axis=0)
    z, _, x = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")
    return label, field.astype(np.float32), z**2 + x**2 < (0.45 * n) ** 2


@pytest.mark.parametrize(
    ("noise_deg", "blur", "floor"), [(0.0, 0.0, 0.999), (3.0, 0.0, 0.99), (6.0, 0.7, 0.95)]
)
def test_planted_grains_are_found(noise_deg, blur, floor):
    label, axis, mask = _polycrystal(noise_deg=noise_deg, blur=blur)
    grains = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL)
    assert adjusted_rand_index(grains.label[mask], label[mask]) >= floor
    assert not grains.label[~mask].any()
    sizes = np.bincount(grains.label[mask])[1:]
    np.testing.assert_array_equal(sizes, grains.table["voxels"])
    assert np.all(np.diff(sizes) <= 0)


def test_pairwise_joining_leaks_where_merging_does_not():
    label, axis, mask = _polycrystal(noise_deg=3.0, blur=1.0)
    joined = GrainSettings(method="connected")
    found = segment_grains(axis, mask, joined, pixel_size_m=PIXEL).label[mask]
    assert adjusted_rand_index(found, label[mask]) < 0.5
    found = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL).label[mask]
    assert adjusted_rand_index(found, label[mask]) > 0.93


def test_sign_of_the_axis_means_nothing():
    _, axis, mask = _polycrystal(noise_deg=3.0)
    flipped = axis * np.random.default_rng(1).choice([-1, 1], mask.shape).astype(np.float32)
    first = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL)
    second = segment_grains(flipped, mask, GrainSettings(), pixel_size_m=PIXEL)
    np.testing.assert_array_equal(first.label, second.label)


def test_tensor_gives_the_same_as_its_axis():
    _, axis, mask = _polycrystal(noise_deg=1.0)
    from_axis = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL)
    from_tensor = segment_grains(axis_tensor(axis), mask, GrainSettings(), pixel_size_m=PIXEL)
    assert adjusted_rand_index(from_axis.label[mask], from_tensor.label[mask]) > 0.999


def test_every_voxel_of_the_mask_belongs_to_a_grain_of_one_piece():
    _, axis, mask = _polycrystal(noise_deg=8.0, blur=0.7)
    label = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL).label
    np.testing.assert_array_equal(label > 0, mask)
    for grain in range(1, label.max() + 1):
        assert ndimage.label(label == grain)[1] == 1


@pytest.mark.parametrize("method", ["region-merging", "connected", "mean-shift"])
def test_empty_mask_gives_an_empty_product(method):
    mask = np.zeros((4, 5, 6), bool)
    settings = GrainSettings(method=method)
    axis = np.zeros((3, *mask.shape), np.float32)
    grains = segment_grains(axis, mask, settings, pixel_size_m=PIXEL)
    assert grains.label.shape == mask.shape
    assert not grains.label.any()
    assert not grains.boundaries.any()
    assert all(len(column) == 0 for column in grains.table.values())
    assert grains.table["axis"].shape == (0, 3)


@pytest.mark.parametrize("method", ["region-merging", "connected", "mean-shift"])
def test_one_grain_has_no_boundary(method):
    mask = np.ones((6, 6, 6), bool)
    axis = np.zeros((3, *mask.shape), np.float32)
    axis[2] = 1.0
    settings = GrainSettings(method=method)
    grains = segment_grains(axis, mask, settings, pixel_size_m=PIXEL)
    assert grains.label.max() == 1
    assert not grains.boundaries.any()
    np.testing.assert_allclose(grains.table["axis"], [[0, 0, 1]])


def test_specks_that_touch_nothing_are_no_grains():
    mask = np.zeros((8, 8, 8), bool)
    mask[:4, :4, :4] = True
    mask[6, 6, 6] = True
    axis = np.ones((3, 8, 8, 8), np.float32)
    grains = segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL)
    assert grains.label.max() == 1
    assert grains.label[6, 6, 6] == 0
    assert grains.table["voxels"].tolist() == [64]


def test_bad_input_is_refused():
    mask = np.ones((4, 4, 4), bool)
    axis = np.ones((3, 4, 4, 4), np.float32)
    with pytest.raises(InputError, match=r"expected an axis .* on the mask \(4, 4, 4\), found"):
        segment_grains(axis[:2], mask, GrainSettings(), pixel_size_m=PIXEL)


@pytest.mark.parametrize("form", [lambda axis: axis, axis_tensor])
def test_voxels_that_are_not_a_number_belong_to_no_grain(form):
    label, axis, mask = _polycrystal()
    axis[:, 17] = np.nan
    grains = segment_grains(form(axis), mask, GrainSettings(), pixel_size_m=PIXEL)
    assert not grains.label[17].any()
    rest = mask.copy()
    rest[17] = False
    assert (grains.label[rest] > 0).all()
    # A grain that the slice cuts in two is two.
    upper = rest.copy()
    upper[:17] = False
    assert adjusted_rand_index(grains.label[upper], label[upper]) > 0.999
    everything = np.full_like(axis, np.nan)
    assert not segment_grains(
        form(everything), mask, GrainSettings(), pixel_size_m=PIXEL
    ).label.any()


def test_a_pair_just_above_the_threshold_is_told_apart_in_spite_of_blur():
    n = 24
    x = np.arange(2 * n) - n
    angle = np.radians(np.where(x > 0, 12.0, 0.0))
    fine = np.zeros((3, 2 * n, 2 * n, 2 * n), np.float32)
    fine[0], fine[1] = np.cos(angle), np.sin(angle)
    mask = np.ones((n, n, n), bool)
    tensor = axis_tensor(fine).reshape(6, n, 2, n, 2, n, 2).mean(axis=(2, 4, 6))
    tensor = np.stack([ndimage.gaussian_filter(part, 1.0) for part in tensor])
    noise = np.random.default_rng(0).standard_normal((3, n, n, n)) * math.radians(2.0)
    axis = (principal_axis(tensor) + noise).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    assert segment_grains(axis, mask, GrainSettings(), pixel_size_m=PIXEL).label.max() == 2
    wider = GrainSettings(misorientation_deg=14.0)
    assert segment_grains(axis, mask, wider, pixel_size_m=PIXEL).label.max() == 1


def test_a_slow_turn_inside_a_grain_does_not_split_it():
    n = 30
    rng = np.random.default_rng(0)
    label = np.where(np.arange(n) < n // 2, 1, 2)[:, None, None] * np.ones((n, n, n), int)
    x = np.arange(n) - n / 2
    # Eight degrees across each grain, along the boundary; forty degrees between the grains.
    turn = np.radians(np.where(label == 1, 0.0, 40.0) + 8.0 * x / n)
    axis = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)])
    axis += math.radians(2.0) * rng.standard_normal(axis.shape)
    axis = (axis / np.linalg.norm(axis, axis=0)).astype(np.float32)
    found = segment_grains(axis, label > 0, GrainSettings(), pixel_size_m=PIXEL)
    assert adjusted_rand_index(found.label, label) > 0.999


def test_mean_shift_finds_sharp_grains_and_keeps_less_of_blurred_ones():
    label, axis, mask = _polycrystal(noise_deg=3.0)
    shift = GrainSettings(method="mean-shift")
    found = segment_grains(axis, mask, shift, pixel_size_m=PIXEL).label[mask]
    assert adjusted_rand_index(found, label[mask]) > 0.97
    label, axis, mask = _polycrystal(noise_deg=3.0, blur=1.0)
    scores = []
    for settings in (shift, GrainSettings()):
        found = segment_grains(axis, mask, settings, pixel_size_m=PIXEL).label[mask]
        scores.append(adjusted_rand_index(found, label[mask]))
    assert scores[0] < scores[1]


def test_downsampling_averages_axes_not_components():
    axis = np.zeros((3, 4, 4, 4), np.float32)
    axis[0] = 0.6
    axis[1] = 0.8
    axis *= np.random.default_rng(0).choice([-1, 1], (4, 4, 4))
    mask = np.ones((4, 4, 4), bool)
    mask[2:, 2:, 2:] = False
    coarse, kept = downsample_axis(axis, mask, 2)
    assert kept.sum() == 7
    np.testing.assert_allclose(np.abs(coarse[:, kept].T @ [0.6, 0.8, 0.0]), 1.0, rtol=1e-6)
    with pytest.raises(InputError, match=r"grains\.downsample: 8 is more than the volume"):
        downsample_axis(axis, mask, 8)
    settings = GrainSettings(downsample=2, min_voxels=1)
    grains = segment_grains(axis, mask, settings, pixel_size_m=PIXEL)
    assert grains.pixel_size_m == 2 * PIXEL
    assert grains.table["volume_m3"][0] == pytest.approx(7 * (2 * PIXEL) ** 3)


def test_table_of_a_ball_and_a_cube():
    z, y, x = np.meshgrid(*[np.arange(64) - 32] * 3, indexing="ij")
    label = np.zeros((64, 64, 64), np.int32)
    label[(z + 12) ** 2 + y**2 + x**2 < 12.3**2] = 1
    label[46:62, 10:26, 34:50] = 2
    axis = np.zeros((3, 64, 64, 64), np.float32)
    axis[0, label == 1] = 1.0
    angle = np.radians(np.where(np.indices(label.shape).sum(0) % 2, 4.0, -4.0))
    axis[1] = np.where(label == 2, np.cos(angle), 0)
    axis[2] = np.where(label == 2, np.sin(angle), 0)
    table = grain_table(label, axis, PIXEL, np.full(label.shape, 0.82, np.float32))
    area = surface_areas(mesh_labels(label), 2)
    assert area[0] == pytest.approx(4 * np.pi * 12.3**2, rel=0.01)
    # Edges of a cube are rounded over a voxel or so: eight per cent of this one.
    assert area[1] == pytest.approx(6 * 16**2, rel=0.09)
    np.testing.assert_allclose(table["surface_m2"], area * PIXEL**2)
    assert table["equivalent_diameter_m"][0] == pytest.approx(24.6 * PIXEL, rel=0.01)
    assert table["sphericity"][0] == pytest.approx(1.0, abs=0.01)
    assert table["sphericity"][1] == pytest.approx((np.pi / 6) ** (1 / 3), rel=0.10)
    np.testing.assert_allclose(table["sphericity_36pi"], table["sphericity"] ** 3)
    np.testing.assert_allclose(table["semi_axes_m"][0], 12.3 * PIXEL, rtol=0.01)
    np.testing.assert_allclose(table["semi_axes_m"][1], 8 * PIXEL * np.sqrt(5 / 3), rtol=0.01)
    assert table["neighbours"].tolist() == [0, 0]
    np.testing.assert_allclose(table["centroid_m"][0], np.array([0, 0, -12]) * PIXEL, atol=1e-15)
    np.testing.assert_allclose(np.abs(table["axis"]), [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(table["spread_deg"], [0.0, 4.0], atol=0.03)  # float32 arccos
    np.testing.assert_allclose(table["electron_density"], 0.82, rtol=1e-6)


def test_shape_of_an_ellipsoid():
    z, y, x = np.meshgrid(*[np.arange(48) - 24] * 3, indexing="ij")
    c, s = math.cos(0.4), math.sin(0.4)
    u, v = c * x + s * y, c * y - s * x
    label = ((u / 20) ** 2 + (v / 10) ** 2 + (z / 5) ** 2 < 1).astype(np.int32)
    axis = np.zeros((3, *label.shape), np.float32)
    axis[2] = 1.0
    table = grain_table(label, axis, PIXEL)
    np.testing.assert_allclose(table["semi_axes_m"][0] / PIXEL, [20, 10, 5], rtol=0.02)
    assert table["elongation"][0] == pytest.approx(2.0, rel=0.02)
    assert table["flatness"][0] == pytest.approx(2.0, rel=0.02)
    np.testing.assert_allclose(table["long_axis"][0], [c, s, 0], atol=0.01)


def test_neighbours_are_counted_across_faces():
    label = np.zeros((6, 6, 9), np.int32)
    label[1:5, 1:5, :3], label[1:5, 1:5, 3:6], label[1:5, 1:5, 6:] = 1, 2, 3
    axis = np.ones((3, *label.shape), np.float32) / np.float32(math.sqrt(3))
    assert grain_table(label, axis, PIXEL)["neighbours"].tolist() == [1, 2, 1]


PUBLISHED = Path(__file__).parents[3] / "../shared/data/xldot-v2o5-grains/segmentation_stats.csv"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"the published table is not here: {PUBLISHED}")
def test_columns_mean_the_same_as_in_the_published_table():
    published = np.genfromtxt(PUBLISHED, delimiter=",", names=True, deletechars="")
    volume, surface = published["Volume"], published["SurfaceArea"]
    assert len(published) == 129
    # Three decimals in the file; their sphericity is the cube of Wadell's.
    np.testing.assert_allclose(sphericity_36pi(volume, surface), published["Sphericity"], atol=6e-4)
    wadell = wadell_sphericity(volume, surface)
    np.testing.assert_allclose(wadell**3, published["Sphericity"], atol=6e-4)
    diameter = np.cbrt(6 * volume / np.pi)
    np.testing.assert_allclose(np.percentile(diameter, [5, 50, 95]), [7.5, 23.6, 44.4], atol=0.1)
    # A grain of their ellipsoid has their semi-axes, ratios and volume in our table.
    row = published[np.argmin(np.abs(volume - 4214))]
    radii = np.array([row["Elli.R1"], row["Elli.R2"], row["Elli.R3"]])
    grid = np.meshgrid(*[np.arange(64) - 32] * 3, indexing="ij")
    label = (sum((g / r) ** 2 for g, r in zip(grid[::-1], radii, strict=True)) < 1).astype(np.int32)
    axis = np.ones((3, *label.shape), np.float32) / np.float32(math.sqrt(3))
    table = grain_table(label, axis, 1.0)
    np.testing.assert_allclose(table["semi_axes_m"][0], radii, rtol=0.02)
    assert table["elongation"][0] == pytest.approx(row["Elli.R1/R2"], rel=0.02)
    assert table["flatness"][0] == pytest.approx(row["Elli.R2/R3"], rel=0.02)


def test_boundaries_are_both_sides_of_a_face():
    label = np.zeros((1, 3, 6), np.int32)
    label[:, :2, :3], label[:, :2, 3:] = 1, 2
    expected = np.zeros(label.shape, np.uint8)
    expected[:, :2, 2:4] = 1
    np.testing.assert_array_equal(grain_boundaries(label), expected)


def test_cubic_equivalents_form_the_group_of_the_cube():
    symmetry = cubic()
    assert symmetry.operators.shape == (48, 4, 4)
    products = np.einsum("aij,bjk->abik", symmetry.operators, symmetry.operators).reshape(-1, 16)
    assert len(np.unique(np.round(products, 6) + 0.0, axis=0)) == 48
    # A quarter turn is no misorientation for a cube; an eighth is 45 degrees, the most about [001].
    start = np.array([[1.0, 0, 0, 0]])
    for turn, expected in ((90, 0), (45, 45), (60, 30)):
        half = math.radians(turn) / 2
        turned = np.array([[math.cos(half), 0, 0, math.sin(half)]])
        angle = np.degrees(misorientation_rad(start, turned, symmetry))
        np.testing.assert_allclose(angle, expected, atol=1e-5)


def test_axes_have_no_sign():
    a = np.array([[1.0, 0, 0], [1.0, 0, 0]])
    b = np.array([[-1.0, 0, 0], [0, 1.0, 0]])
    np.testing.assert_allclose(np.degrees(misorientation_rad(a, b, AXIS)), [0, 90], atol=1e-6)


def test_what_resolution_mixes_beside_a_boundary_is_no_spread() -> None:
    label = np.ones((12, 12, 12), np.int32)
    label[:, :, 6:] = 2
    axis = np.zeros((3, 12, 12, 12), np.float32)
    axis[0, label == 1] = 1.0
    axis[1, label == 2] = 1.0
    axis[:, :, :, 5:7] = np.sqrt(np.float32(0.5)) * np.array([1, 1, 0])[:, None, None, None]
    table = grain_table(label, axis, PIXEL)
    np.testing.assert_allclose(table["spread_deg"], 0.0, atol=0.03)  # float32 arccos
