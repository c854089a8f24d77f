"""Angular refinement: turns of single projections are found, the sample's own turn is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipeline.align.angles import refine_angles
from pipeline.align.freed import FreedTurns
from pipeline.align.turns import (
    composed,
    misorientation_rms_deg,
    turned_rotations,
    turned_stack,
    turned_weights,
    without_common_turn,
)
from pipeline.errors import GeometryError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    linear_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import euler_angles_deg, euler_rotations
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.projector import Projector
from schemas.recipe import AngleSettings

N = 24
ANGLES = np.linspace(-66.0, 66.0, 20)
GIVEN = np.concatenate(
    [euler_rotations(np.stack([0 * ANGLES + phi, ANGLES, 0 * ANGLES], axis=1)) for phi in (0, 90)]
)


def sample():
    """A lopsided body whose vectors point another way in each of a few domains."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((N, N, N)) - N // 2
    body = ((x / 8) ** 2 + (z / 7) ** 2 < 1) & (np.abs(y) < 8) & (x + z < 7)
    seeds = rng.uniform(-9.0, 9.0, (8, 3))
    domain = ((np.stack([z, y, x], -1)[..., None, :] - seeds) ** 2).sum(-1).argmin(-1)
    vectors = rng.normal(size=(8, 3))
    field = np.moveaxis(vectors[domain], -1, 0) * body
    smooth = np.stack([gaussian_filter(part, 0.8) for part in field]).astype(np.float32)
    return smooth, gaussian_filter(body.astype(np.float32), 0.8) > 0.1


FIELD, SUPPORT = sample()


def measured(true, noise=0.0):
    """Projections on the true rotations, labelled with the given ones."""
    projector = Projector((N,) * 3, (N, N), true, circular_weights(true), "fourier")
    data = projector.forward(FIELD)
    data += noise * np.random.default_rng(1).standard_normal(data.shape).astype(np.float32)
    return DifferencedStack(data, GIVEN, circular_weights(GIVEN), "circular", 1e-9, noise)


def test_errors_of_the_goniometer_are_found():
    errors = np.deg2rad(np.random.default_rng(2).normal(0.0, 1.0, (len(GIVEN), 3)))
    true = turned_rotations(GIVEN, errors)
    stack = measured(true)
    seen = []
    settings = AngleSettings(rounds=4)
    found = refine_angles(stack, SUPPORT, settings, progress=seen.append)
    before, after = (misorientation_rms_deg(r, true)[0] for r in (GIVEN, found.rotations))
    assert before == pytest.approx(1.7, abs=0.15)
    assert after < 0.25 * before  # a body of 16 voxels: a degree moves its edge by 0.15
    assert len(seen) == len(found.updates_deg) == len(found.residuals)
    assert found.updates_deg[-1] < 0.1 * found.updates_deg[0]
    assert np.allclose(turned_rotations(GIVEN, np.deg2rad(found.turns_deg)), found.rotations)
    # What the sample may have turned as a whole stays out of it.
    common = np.einsum("mji,mj->mi", GIVEN, found.turns_deg).mean(axis=0)
    assert np.linalg.norm(common) < 1e-6


def test_slopes_and_gradient_match_finite_differences():
    stack = replace(measured(GIVEN), valid=np.random.default_rng(3).random((40, N, N)) < 0.9)
    at = np.deg2rad(np.random.default_rng(4).normal(0.0, 0.5, (len(GIVEN), 3)))
    term = FreedTurns(stack, SUPPORT, FIELD, at, 1e-3)
    rng = np.random.default_rng(5)
    x, d = rng.normal(size=(2, *FIELD.shape)).astype(np.float32) * SUPPORT
    gradient = term.residual_gradient(x)[0]
    up, down = (term.residual_gradient(x + s * np.float32(0.1) * d)[1] for s in (1, -1))
    scale = np.sqrt(inner(gradient, gradient) * inner(d, d))
    assert (up - down) / 0.4 == pytest.approx(inner(gradient, d), abs=1e-4 * scale)
    assert inner(d, term.normal(d)) > 0.0
    # The turns that the data were made with are those that go best with the true field.
    there = turned_rotations(GIVEN, at)
    exact = Projector((N,) * 3, (N, N), there, circular_weights(there), "fourier", support=SUPPORT)
    rotated = replace(measured(GIVEN), data=exact.forward(FIELD))
    term = FreedTurns(rotated, SUPPORT, FIELD, at, 1e-3)
    turns, left2 = term.turns(FIELD), term.residual_gradient(FIELD)[1]
    assert np.rad2deg(np.abs(turns - at)).max() < 1e-3
    assert left2 < 1e-6 * inner(rotated.data, rotated.data)


def test_directions_that_the_data_do_not_see_stay_where_they_were():
    """A ball has no orientation: its projections say nothing about turns."""
    z, y, x = np.indices((N, N, N)) - N // 2
    ball = np.exp(-((x**2 + y**2 + z**2) / 50.0)).astype(np.float32)
    projector = Projector((N,) * 3, (N, N), GIVEN, scalar_weights(len(GIVEN)), "fourier")
    data = projector.forward(ball[None])
    data += 0.05 * np.random.default_rng(6).standard_normal(data.shape).astype(np.float32)
    stack = DifferencedStack(data, GIVEN, scalar_weights(len(GIVEN)), "scalar", 1e-9, 0.05)
    found = refine_angles(stack, ball > 0.02, AngleSettings(rounds=2))
    assert np.sqrt(np.mean(found.turns_deg**2)) < 1.0
    assert found.errors_deg.mean() > 0.3  # of the whole degree that was expected


def with_scalar(stack, true, noise):
    """A scalar channel, denser in some domains than in others, on the same rotations."""
    density = (SUPPORT * (1.0 + 0.5 * FIELD[0] + 0.5 * FIELD[1]))[None].astype(np.float32)
    projector = Projector((N,) * 3, (N, N), true, scalar_weights(len(true)), "fourier")
    data = projector.forward(density)
    data += noise * np.random.default_rng(10).standard_normal(data.shape).astype(np.float32)
    weights = scalar_weights(len(true))
    return [replace(stack, data=data, weights=weights, contrast="scalar", noise=noise), stack]


def test_what_several_stacks_tell_of_a_turn_adds_up():
    errors = np.deg2rad(np.random.default_rng(2).normal(0.0, 1.0, (len(GIVEN), 3)))
    true = turned_rotations(GIVEN, errors)
    difference = measured(true, noise=0.4)
    settings = AngleSettings(rounds=2)
    both = with_scalar(difference, true, noise=0.1)
    alone, together = (refine_angles(stacks, SUPPORT, settings) for stacks in (difference, both))
    left = [misorientation_rms_deg(found.rotations, true)[0] for found in (alone, together)]
    assert left[1] < 0.8 * left[0]
    assert np.all(together.errors_deg < alone.errors_deg * 1.05)
    assert together.field.shape == (4, N, N, N)  # the scalar, then the vector


def test_stacks_weigh_by_their_noise_and_not_by_their_units():
    """Data of a stack in other units: the same turns, and its field in those units."""
    true = turned_rotations(GIVEN, np.full((len(GIVEN), 3), 0.01) * np.sin(np.arange(40))[:, None])
    every = with_scalar(measured(true, noise=0.2), true, noise=0.1)
    first, second = (stack.subset(slice(0, None, 3)) for stack in every)
    other = replace(second, data=second.data * np.float32(64.0))
    settings = AngleSettings(rounds=1)
    as_it_is, rescaled = (
        refine_angles([first, stack], SUPPORT, settings) for stack in (second, other)
    )
    assert np.allclose(as_it_is.turns_deg, rescaled.turns_deg, atol=1e-3)
    assert np.allclose(64.0 * as_it_is.field[1:], rescaled.field[1:], atol=1e-2)


def test_stacks_that_cannot_share_turns_are_refused():
    stack = measured(GIVEN)
    turned = turned_stack(stack, np.full((len(GIVEN), 3), 0.1))
    with pytest.raises(GeometryError, match="rotations of stack 1 are not those of the first"):
        refine_angles([stack, turned], SUPPORT, AngleSettings())
    with pytest.raises(GeometryError, match=r"stack 1 has frames \(5, 24, 24\), the first \(40"):
        refine_angles([stack, stack.subset(slice(0, 5))], SUPPORT, AngleSettings())
    with pytest.raises(GeometryError, match="expected at least one stack, found none"):
        refine_angles([], SUPPORT, AngleSettings())


@pytest.mark.parametrize(
    "weights",
    [circular_weights, linear_difference_weights, lambda r: linear_weights(r, 35.0, 0.6)],
)
def test_weights_turn_with_the_rotation(weights):
    turns = np.random.default_rng(7).normal(0.0, 0.3, (len(GIVEN), 3))
    after = turned_rotations(GIVEN, turns)
    assert np.allclose(turned_weights(weights(GIVEN), GIVEN, after), weights(after), atol=1e-12)
    assert np.allclose(turned_weights(weights(GIVEN), GIVEN, GIVEN), weights(GIVEN))


def test_a_scalar_beside_the_tensor_keeps_its_weight():
    after = turned_rotations(GIVEN, np.full((len(GIVEN), 3), 0.2))
    both = np.concatenate([linear_weights(GIVEN, 0.0), np.full((len(GIVEN), 1), 0.5)], axis=1)
    made = turned_weights(both, GIVEN, after)
    assert np.allclose(made[:, :6], linear_weights(after, 0.0))
    assert np.array_equal(made[:, 6], both[:, 6])
    with pytest.raises(GeometryError, match="expected 1, 3, 6 or 7 components, found 2"):
        turned_weights(both[:, :2], GIVEN, after)


def test_a_common_turn_of_the_sample_is_no_error():
    rng = np.random.default_rng(8)
    sample_turn = Rotation.from_rotvec([0.02, -0.03, 0.01]).as_matrix()
    rms, left = misorientation_rms_deg(GIVEN @ sample_turn, GIVEN)
    assert rms < 1e-6
    assert left.shape == (len(GIVEN), 3)
    own = rng.normal(0.0, 0.01, (len(GIVEN), 3))
    again = without_common_turn(without_common_turn(own, GIVEN), GIVEN)
    assert np.allclose(again, without_common_turn(own, GIVEN), atol=1e-12)
    assert np.allclose(composed(own, -own), 0.0)


def test_turned_stack_keeps_its_frames():
    stack = measured(GIVEN)
    turned = turned_stack(stack, np.full((len(GIVEN), 3), 0.1))
    assert turned.data is stack.data
    assert np.allclose(turned.weights, circular_weights(turned.rotations))


def test_euler_angles_are_those_that_were_given():
    rng = np.random.default_rng(9)
    euler = rng.uniform([-179.0, -89.0, -179.0], [179.0, 89.0, 179.0], (50, 3))
    assert np.allclose(euler_angles_deg(euler_rotations(euler)), euler, atol=1e-9)


def test_an_empty_support_is_refused():
    with pytest.raises(GeometryError, match="the support is empty"):
        refine_angles(measured(GIVEN), np.zeros((N,) * 3, bool), AngleSettings())
