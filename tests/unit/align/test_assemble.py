"""Signs, weights and places of the assembled stacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.align.assemble import (
    concatenate,
    difference,
    fit_shape,
    mean,
    nominal_base,
    place,
    scalar_channel,
)
from pipeline.errors import GeometryError, InputError
from pipeline.stacks import AlignedStack, PhaseStack
from pipeline.tomography.contrast import circular_weights, linear_difference_weights
from pipeline.tomography.geometry import rotation_y, series_rotations

ANGLES = np.array([0.0, 35.0, 100.0])
N = 48


def spot(at, n=N):
    """Frame with a Gaussian at `(x, y)` from the centre pixel."""
    grid = np.arange(n) - n // 2
    return -np.exp(
        -((grid[:, None] - at[1]) ** 2 + (grid[None, :] - at[0]) ** 2) / (2 * 2.5**2)
    ).astype(np.float32)


def test_frames_come_to_their_place_in_the_sample_frame():
    base = nominal_base(30.0, 90.0)
    point, translation = np.array([3.0, -5.0, 2.0]), np.array([1.5, -2.0, 4.0])
    shifts = np.random.default_rng(0).uniform(-2, 2, (3, 2))
    frames = []
    for angle, (dy, dx) in zip(np.deg2rad(ANGLES), shifts, strict=True):
        seen = rotation_y(angle) @ (base @ point + translation)
        frames.append(spot((seen[0] - dx, seen[1] - dy)))
    stack = PhaseStack(np.stack(frames), ANGLES, 3e-8, 5468.0, 1e-3, {})
    placed = place(stack, shifts, base, translation)
    for frame, rotation in zip(placed.data, placed.rotations, strict=True):
        assert np.abs(frame - spot((rotation @ point)[:2])).max() < 1e-3
    assert np.allclose(placed.rotations, series_rotations(ANGLES, 30.0, 90.0))
    assert placed.noise == 1e-3
    with pytest.raises(GeometryError, match=r"expected shifts \(3, 2\), found \(2, 2\)"):
        place(stack, shifts[:2], base)


def test_frames_are_turned_and_scaled_before_they_are_shifted():
    frames = np.stack([spot((10.0, 4.0))] * 3)
    stack = PhaseStack(frames, ANGLES, 3e-8, 5468.0, 1e-3, {})
    shifts = np.tile([2.0, -3.0], (3, 1))
    placed = place(stack, shifts, np.eye(3), turns_rad=np.full(3, 0.2), scales=np.ones(3))
    x, y = 10 * np.cos(0.2) - 4 * np.sin(0.2) - 3, 10 * np.sin(0.2) + 4 * np.cos(0.2) + 2
    assert np.abs(placed.data[0] - spot((x, y))).max() < 1e-3


def test_content_beyond_a_small_frame_is_not_lost():
    stack = PhaseStack(np.stack([spot((-14.0, 0.0))] * 3), ANGLES, 3e-8, 5468.0, 1e-3, {})
    shifts = np.tile([0.0, -18.0], (3, 1))
    placed = place(stack, shifts, np.eye(3), shape=(48, 80))
    assert np.abs(placed.data[0] - spot((-32.0, 0.0), 80)[16:64]).max() < 2e-3
    # Air beyond a border that shows air needs no measurement.
    assert placed.valid is None


def test_what_was_not_measured_is_not_valid():
    frames = [spot((-23.0, 0.0)), spot((-23.0, 0.0)), spot((0.0, 0.0))]
    stack = PhaseStack(np.stack(frames), ANGLES, 3e-8, 5468.0, 1e-3, {})
    placed = place(stack, np.tile([0.0, 10.0], (3, 1)), np.eye(3))
    assert placed.valid is not None
    assert placed.valid.shape == (3, 48, 48)
    assert not placed.valid[:2, :, :12].any()
    assert placed.valid[:2, :, 12:].all()
    assert placed.valid[2].all()


def aligned(value, noise=0.3, shape=(3, 8, 8), pixel=3e-8, turned=0.0):
    rotations = series_rotations(ANGLES[: shape[0]] + turned, 30.0, 0.0)
    return AlignedStack(np.full(shape, value, np.float32), rotations, pixel, 5468.0, noise)


def test_linear_difference_is_of_negative_phase():
    found = difference(aligned(-3.0), aligned(-1.0, 0.4), 0.64)
    assert np.all(found.data == 2.0)
    assert found.noise == pytest.approx(0.5)
    assert found.contrast == "linear"
    assert np.allclose(found.weights, linear_difference_weights(found.rotations, 0.64))


def test_circular_difference_is_half():
    found = difference(aligned(3.0), aligned(1.0, 0.4), kind="circular")
    assert np.all(found.data == 1.0)
    assert found.noise == pytest.approx(0.25)
    assert np.allclose(found.weights, circular_weights(found.rotations))
    assert np.all(mean(aligned(3.0), aligned(1.0)).data == 2.0)


def test_pixels_count_where_both_partners_measured_them():
    left, right = aligned(3.0), aligned(1.0)
    unseen = np.ones((3, 8, 8), np.bool_)
    unseen[:, :, :2] = False
    cut = replace(left, valid=unseen), replace(right, valid=unseen[:, :, ::-1])
    for made in (difference(*cut), mean(*cut)):
        assert made.valid is not None
        assert not made.valid[:, :, [0, 1, 6, 7]].any()
        assert made.valid[:, :, 2:6].all()
    assert difference(cut[0], right).valid is unseen
    assert mean(left, cut[1]).valid is cut[1].valid
    assert difference(left, right).valid is None
    joined = concatenate([scalar_channel(right), scalar_channel(cut[0])])
    assert joined.valid is not None
    assert joined.valid[:3].all()
    np.testing.assert_array_equal(joined.valid[3:], unseen)
    assert concatenate([scalar_channel(right)] * 2).valid is None


def test_strangers_are_not_subtracted():
    with pytest.raises(GeometryError, match=r"rotations of projection \d are not the same"):
        difference(aligned(1.0), aligned(1.0, turned=0.1))
    with pytest.raises(GeometryError, match=r"one shape, found \(3, 8, 8\) and \(3, 8, 9\)"):
        difference(aligned(1.0), aligned(1.0, shape=(3, 8, 9)))
    with pytest.raises(GeometryError, match="expected one pixel size, found 3e-08 m and 4e-08 m"):
        difference(aligned(1.0), aligned(1.0, pixel=4e-8))


def test_scalar_channel_is_matter_positive():
    found = scalar_channel(aligned(-2.0))
    assert np.all(found.data == 2.0)
    assert found.weights.shape == (3, 1)


def test_concatenation():
    joined = concatenate([scalar_channel(aligned(-1.0)), scalar_channel(aligned(-2.0, 0.4))])
    assert joined.data.shape == (6, 8, 8)
    assert joined.rotations.shape == (6, 3, 3)
    assert joined.noise == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    with pytest.raises(InputError, match="stack 1 is linear, the first is scalar"):
        concatenate([scalar_channel(aligned(1.0)), difference(aligned(1.0), aligned(1.0))])
    with pytest.raises(InputError, match=r"stack 1 has frames \(8, 9\), the first \(8, 8\)"):
        concatenate([scalar_channel(aligned(1.0, shape=s)) for s in ((3, 8, 8), (3, 8, 9))])
    with pytest.raises(InputError, match="expected at least one stack, found none"):
        concatenate([])


@pytest.mark.parametrize("shape", [(40, 60), (47, 49), (48, 48)])
def test_fit_shape_keeps_the_centre_pixel(shape):
    data = np.zeros((1, N, N), np.float32)
    data[0, N // 2, N // 2] = 1.0
    fitted = fit_shape(data, shape)
    assert fitted.shape == (1, *shape)
    assert fitted[0, shape[0] // 2, shape[1] // 2] == 1.0
