"""Frames of one rotation in several polarisations: their differences and means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.align.assemble import difference, mean
from pipeline.align.views import (
    PolarisedStack,
    joint_rows,
    match_views,
    orthogonal_mix,
    partners,
    view_angles,
    view_means,
)
from pipeline.errors import GeometryError, InputError
from pipeline.stacks import AlignedStack
from pipeline.tomography.contrast import linear_weights, polarised_weights
from pipeline.tomography.geometry import series_rotations

ANGLES = np.array([0.0, 30.0, 60.0, 90.0])


def member(angles: np.ndarray, angle_deg: float, seed: int, degree: float = 0.64) -> PolarisedStack:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(len(angles), 5, 6)).astype(np.float32)
    stack = AlignedStack(data, series_rotations(angles, 30.0, 90.0), 3e-8, 5468.0, 0.1)
    return PolarisedStack(stack, angle_deg, degree)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_mix_is_orthogonal_and_its_first_row_the_mean(k: int) -> None:
    mix = orthogonal_mix(k)
    np.testing.assert_allclose(mix @ mix.T, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(mix[0], 1.0 / np.sqrt(k))


def test_views_keep_the_order_of_a_complete_first_series() -> None:
    views = match_views([np.array([90.0, 0.0, 45.0]), np.array([45.004, 90.0])])
    assert views.tolist() == [[0, 1, 2], [1, -1, 0]]


def test_views_that_the_first_series_lacks_are_sorted_in() -> None:
    angles = [np.array([0.0, 60.0]), np.array([30.0, 60.0])]
    views = match_views(angles)
    assert views.tolist() == [[0, -1, 1], [-1, 0, 1]]
    assert view_angles(angles, views).tolist() == [0.0, 30.0, 60.0]


def test_an_angle_that_was_taken_twice_is_two_views() -> None:
    assert match_views([np.array([0.0, 0.0]), np.array([0.0])]).tolist() == [[0, 1], [0, -1]]


def test_rows_of_partners_are_their_difference_and_mean() -> None:
    members = [member(ANGLES, 0.0, 1), member(ANGLES, 90.0, 2)]
    rows = joint_rows(members, match_views([ANGLES, ANGLES]))
    one, two = members[0].stack, members[1].stack
    apart = difference(one, two, 0.64)
    root = np.float32(np.sqrt(2.0))
    np.testing.assert_allclose(rows.data[:4], apart.data / root, atol=1e-6)
    np.testing.assert_allclose(rows.data[4:], -mean(one, two).data * root, atol=1e-6)
    np.testing.assert_allclose(rows.weights[:4, :6], apart.weights / root, atol=1e-12)
    np.testing.assert_allclose(rows.weights[:4, 6], 0.0, atol=1e-12)
    np.testing.assert_allclose(rows.weights[4:, 6], root, rtol=1e-6)
    # Power is kept: the transform is orthogonal.
    power = sum(np.sum(m.stack.data.astype(float) ** 2) for m in members)
    assert np.sum(rows.data.astype(float) ** 2) == pytest.approx(power, rel=1e-5)


def test_a_frame_alone_is_a_mean_of_one_and_masks_are_those_of_all_frames() -> None:
    members = [member(ANGLES, 0.0, 1), member(ANGLES[:1], 90.0, 2)]
    valid = np.ones(members[1].stack.data.shape, np.bool_)
    valid[0, 0] = False
    members[1] = replace(members[1], stack=replace(members[1].stack, valid=valid))
    rows = joint_rows(members, match_views([ANGLES, ANGLES[:1]]))
    assert len(rows.data) == 1 + 4
    assert rows.valid is not None
    assert not rows.valid[[0, 1], 0].any()
    assert rows.valid[2:].all()
    np.testing.assert_allclose(rows.data[2:], -members[0].stack.data[1:])
    rotations = members[0].stack.rotations[1:]
    np.testing.assert_allclose(rows.weights[2:], polarised_weights(rotations, 0.0, 0.64))
    scalar = view_means(members, match_views([ANGLES, ANGLES[:1]]))
    assert scalar.valid is not None
    assert not scalar.valid[0, 0].any()
    np.testing.assert_allclose(scalar.data[1:], members[0].stack.data[1:])


def test_partners_are_the_frames_that_both_have() -> None:
    members = [member(ANGLES, 0.0, 1), member(ANGLES, 45.0, 3), member(ANGLES[1:], 90.0, 2)]
    pair = partners(members, match_views([ANGLES, ANGLES, ANGLES[1:]]))
    assert pair is not None
    np.testing.assert_array_equal(pair[0].data, members[0].stack.data[1:])
    np.testing.assert_array_equal(pair[1].data, members[2].stack.data)
    assert partners(members[:2], match_views([ANGLES, ANGLES])) is None
    none = match_views([ANGLES, ANGLES + 7.0])
    assert partners([members[0], member(ANGLES + 7.0, 90.0, 2)], none) is None


def test_frames_of_a_view_must_agree() -> None:
    views = match_views([ANGLES, ANGLES])
    one, two = member(ANGLES, 0.0, 1), member(ANGLES, 90.0, 2)
    turned = replace(two.stack, rotations=series_rotations(ANGLES + 1.0, 30.0, 90.0))
    with pytest.raises(GeometryError, match="the rotations of view 0 are not the same"):
        joint_rows([one, replace(two, stack=turned)], views)
    smaller = replace(two.stack, data=two.stack.data[:, 1:])
    with pytest.raises(GeometryError, match=r"frames of one shape, found \(5, 6\) and \(4, 6\)"):
        joint_rows([one, replace(two, stack=smaller)], views)
    coarser = replace(two.stack, pixel_size_m=4e-8)
    with pytest.raises(GeometryError, match="expected one pixel size, found 3e-08 m and 4e-08 m"):
        joint_rows([one, replace(two, stack=coarser)], views)
    with pytest.raises(InputError, match="at least one projection, found none"):
        joint_rows([one], views[:1, :0])


def test_weights_of_one_polarisation_see_the_same_with_the_trace_moved() -> None:
    rotations = series_rotations(ANGLES, 30.0, 90.0)
    rng = np.random.default_rng(0)
    axis, f0, contrast = rng.normal(size=3), 0.4, -0.3
    axis /= np.linalg.norm(axis)
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    tensor = contrast * np.array([axis[i] * axis[j] for i, j in pairs])
    seen = f0 + linear_weights(rotations, 25.0, 0.6) @ tensor
    weights = polarised_weights(rotations, 25.0, 0.6)
    np.testing.assert_allclose(weights[:, :3].sum(axis=1), 0.0, atol=1e-12)
    field = np.append(tensor, f0 + contrast / 3.0)
    np.testing.assert_allclose(weights @ field, seen, atol=1e-12)
