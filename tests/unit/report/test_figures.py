"""Colours that mean what they say, and pictures that are the same for the same data."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread
from skimage.color import rgb2lab

from pipeline.report import figures
from pipeline.report.colours import (
    axis_colours,
    axis_key,
    label_colours,
    vector_colours,
    vector_key,
)
from pipeline.report.slices import PLANES, Slicer, crop, vector_slices, volume_slices


def _axes(n: int) -> np.ndarray:
    axes = np.random.default_rng(0).standard_normal((3, n))
    return axes / np.linalg.norm(axes, axis=0)


def test_axis_colours_have_no_sign_and_no_jump():
    axes = _axes(500)
    colours = axis_colours(axes)
    assert colours.dtype == np.float32
    assert colours.min() >= 0
    assert colours.max() <= 1
    np.testing.assert_array_equal(colours, axis_colours(-axes))
    turned = axes + 1e-3 * _axes(500)[::-1]
    turned /= np.linalg.norm(turned, axis=0)
    assert np.abs(axis_colours(turned) - colours).max() < 0.02


def test_axes_far_apart_can_be_told_apart_without_red_and_green():
    """The difference in lightness and in blue-yellow is all that a dichromat has."""
    angles = np.radians([0, 45, 90, 135])
    plane = np.stack([np.cos(angles), np.sin(angles), 0 * angles])
    axes = np.concatenate([plane, np.array([[0.0], [0.0], [1.0]])], axis=1)
    lab = rgb2lab(axis_colours(axes)[None])[0]
    for i in range(5):
        for j in range(i):
            assert np.hypot(*(lab[i] - lab[j])[[0, 2]]) > 20


def test_nothing_is_white():
    assert np.all(axis_colours(np.zeros((3, 2, 2))) == 1.0)
    assert np.all(vector_colours(*np.zeros((3, 2, 2))) == 1.0)
    assert np.all(label_colours(3)[0] == 1.0)
    assert label_colours(0).shape == (1, 3)


def test_opposite_vectors_differ():
    for axis in np.eye(3):
        difference = vector_colours(*axis[:, None]) - vector_colours(*-axis[:, None])
        assert np.abs(difference).max() > 0.2


def test_labels_next_in_number_differ():
    lab = rgb2lab(label_colours(60)[None])[0]
    assert np.linalg.norm(np.diff(lab[1:], axis=0), axis=1).min() > 25


def test_keys_are_discs():
    for key in (axis_key(41), vector_key(41)):
        assert key.shape == (41, 41, 3)
        assert np.all(key[0, 0] == 1.0)
        assert key[20, 35].min() < 0.9
    # x to the right and left, y above and below: the same for either sign.
    key = axis_key(41)
    np.testing.assert_allclose(key[20, 1], key[20, 39], atol=0.02)


def test_slices_lie_where_they_say():
    shape = (8, 10, 12)
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    coordinates = {"x": x, "y": y, "z": z}
    slicer = Slicer(shape, 1e-6, (slice(1, 7), slice(2, 9), slice(0, 12)))
    for plane in PLANES:
        left, right, bottom, top = slicer.extent(plane)
        across = slicer.cut(coordinates[plane.across], plane)
        up = slicer.cut(coordinates[plane.up], plane)
        normal = slicer.cut(coordinates[plane.normal], plane)
        assert len(np.unique(normal)) == 1
        assert slicer.place(plane) == f"{plane.normal} = {normal[0, 0]:.2f} µm"
        np.testing.assert_allclose(across[0, [0, -1]], [left + 0.5, right - 0.5])
        np.testing.assert_allclose(up[[0, -1], 0], [bottom + 0.5, top - 0.5])


def test_crop_keeps_a_margin_and_survives_an_empty_mask():
    mask = np.zeros((20, 20, 20), bool)
    assert crop(mask) == (slice(None),) * 3
    mask[5:8, 0:2, 18:20] = True
    assert crop(mask, 2) == (slice(3, 10), slice(0, 4), slice(16, 20))


def test_same_data_same_bytes_and_no_global_state():
    volume = np.random.default_rng(0).random((10, 12, 8)).astype(np.float32)
    before = dict(mpl.rcParams)
    mask = volume > 0.2
    first = volume_slices(volume, mask, 1e-8, "density")
    assert first == volume_slices(volume, mask, 1e-8, "density")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("values", [np.zeros(50), np.full(50, np.nan), np.zeros(0), np.ones(3)])
def test_histogram_of_nothing_much(values):
    picture = figures.histogram(values, "value", bands=[(0.0, np.inf, "all")], log=True)
    assert imread(io.BytesIO(picture)).std() > 0.01


def test_slices_of_fields_with_nothing_in_them():
    shape = (6, 6, 6)
    nothing = np.zeros(shape, bool)
    assert volume_slices(np.full(shape, np.nan), nothing, 1e-8, "v").startswith(b"\x89PNG")
    assert vector_slices(np.zeros((3, *shape)), nothing, 1e-8).startswith(b"\x89PNG")


def test_pole_density_of_no_preference_is_one():
    density = figures.pole_density(_axes(400_000))
    assert density.mean() == pytest.approx(1.0, rel=0.01)
    # 75 axes a bin, smoothed over about 28 bins: a few percent of scatter, and no fading rim.
    assert density.std() < 0.1
    assert density[40, 40] == pytest.approx(1.0, abs=0.15)


def test_pole_density_peaks_at_the_axis_of_either_sign():
    axis = np.repeat(np.array([[0.6], [0.0], [0.8]]), 100, axis=1)
    axis *= np.random.default_rng(0).choice([-1, 1], 100)
    density = figures.pole_density(axis)
    row, column = np.unravel_index(density.argmax(), density.shape)
    radius = np.sqrt(2) * np.sin(np.arctan2(0.6, 0.8) / 2)
    assert row == 40
    assert column == pytest.approx(40 + radius * 40.5, abs=1)
