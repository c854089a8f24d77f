"""What `check` computes: angles, which components a geometry determines, bad frames."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plan import largest_gap
from pipeline.plan_geometry import half_sphere, judge_geometry
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import series_rotations

ANGLES = np.arange(180.0)
MOUNTINGS = [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0)]


@pytest.mark.parametrize(
    ("angles", "gap"),
    [([0, 45, 90, 135], 45.0), ([0, 10, 20], 160.0), ([0, 180], 180.0), ([-60, 0, 60], 60.0)],
)
def test_largest_gap_takes_half_a_turn_as_the_same_view(angles: list[float], gap: float) -> None:
    assert largest_gap(np.array(angles, dtype=np.float64)) == gap


def test_directions_are_unit_and_balanced() -> None:
    directions = half_sphere(2000)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    # An even distribution has equal second moments; the tolerance is that of 2000 points.
    np.testing.assert_allclose(directions.T @ directions / 2000, np.eye(3) / 3, atol=2e-3)


def test_one_complete_scalar_series_determines_everything() -> None:
    rotations = series_rotations(ANGLES)
    geometry = judge_geometry("scalar", rotations, scalar_weights(180), 64)
    assert [item.complete for item in geometry.frequencies] == [1.0] * 4


def test_a_missing_wedge_is_seen_at_high_frequency() -> None:
    rotations = series_rotations(np.arange(-60.0, 60.0))
    geometry = judge_geometry("scalar", rotations, scalar_weights(120), 64)
    # 60 of 180 degrees are missing.
    assert geometry.frequencies[-1].complete == pytest.approx(2 / 3, abs=0.05)


def test_one_axis_cannot_determine_the_component_along_it() -> None:
    rotations = series_rotations(ANGLES)
    geometry = judge_geometry("circular", rotations, circular_weights(rotations), 64)
    for item in geometry.frequencies:
        x, y, z = item.observed
        assert y == pytest.approx(0.0, abs=1e-9)
        assert x == pytest.approx(z, abs=0.1)
        assert item.complete == 0.0


def test_more_mountings_determine_more_of_the_tensor_and_never_the_trace() -> None:
    counts = []
    for mountings in (MOUNTINGS[:1], MOUNTINGS[:2], MOUNTINGS):
        rotations = np.concatenate([series_rotations(ANGLES, *mounting) for mounting in mountings])
        weights = linear_difference_weights(rotations)
        geometry = judge_geometry("linear", rotations, weights, 64)
        counts.append([item.components for item in geometry.frequencies])
    assert counts[0] < counts[1] < counts[2]
    assert max(counts[2]) <= 5.0
