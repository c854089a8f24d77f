"""Pixels that were not measured: whatever they hold, it takes no part; air is not made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.assemble import place, scalar_channel
from pipeline.distribute import InProcessLeastSquares
from pipeline.errors import InputError
from pipeline.preprocess.resample import shift_frames
from pipeline.reconstruct.ensemble import twin_of_orientation
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.reconstruct.vector import reconstruct_vector
from pipeline.stacks import DifferencedStack, PhaseStack
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from schemas.recipe import OrientationSettings, ScalarSettings, VectorSettings

N = 14
SHAPE = (N, N, N)
WEIGHTS = {
    "scalar": lambda rotations: scalar_weights(len(rotations)),
    "circular": circular_weights,
    "linear": linear_difference_weights,
}
ONE_MOUNTING = series_rotations(np.arange(18) * 10.0, 0.0, 0.0)
ROTATIONS = np.concatenate([ONE_MOUNTING, series_rotations(np.arange(18) * 10.0, 30.0, 90.0)])


def ball(n: int = N) -> NDArray[np.bool_]:
    z, y, x = np.indices((n, n, n)) - n // 2
    return np.asarray(x**2 + y**2 + z**2 < (0.36 * n) ** 2)


def with_garbage(contrast: str, rotations=ROTATIONS) -> tuple[DifferencedStack, DifferencedStack]:
    """Two stacks that differ only where nothing was measured."""
    rng = np.random.default_rng(7)
    weights = WEIGHTS[contrast](rotations)
    field = (rng.normal(1.0, 0.3, (weights.shape[1], *SHAPE)) * ball()).astype(np.float32)
    data = Projector(SHAPE, (N, N), rotations, weights).forward(field)
    data += rng.normal(0.0, 0.1, data.shape).astype(np.float32)
    valid = np.ones(data.shape, np.bool_)
    valid[::2, :, :5] = False
    stacks = []
    for garbage in (0.0, np.nan):
        dirty = np.where(valid, data, np.float32(garbage))
        dirty[4, :3, :3] = -1e9  # finite, and outrageous
        stacks.append(DifferencedStack(dirty, rotations, weights, contrast, 1e-8, 0.0, valid))
    stacks[0].data[~valid] = 0.0
    return stacks[0], stacks[1]


@pytest.mark.parametrize("contrast", ["scalar", "circular", "linear"])
def test_garbage_changes_no_bit_of_the_data_term(contrast):
    clean, dirty = with_garbage(contrast)
    field = np.random.default_rng(1).normal(size=(clean.weights.shape[1], *SHAPE))
    field = field.astype(np.float32)
    projector = Projector(SHAPE, (N, N), clean.rotations, clean.weights)
    for make in (
        lambda stack: LocalLeastSquares(projector, stack.data, stack.valid),
        lambda stack: InProcessLeastSquares(stack, SHAPE),
    ):
        one, other = make(clean), make(dirty)
        assert (one.data_norm2, one.n_data) == (other.data_norm2, other.n_data)
        assert one.n_data == np.count_nonzero(clean.valid)
        first, second = one.residual_gradient(field), other.residual_gradient(field)
        assert np.array_equal(first[0], second[0])
        assert first[1] == second[1]
        assert np.array_equal(one.normal(field), other.normal(field))


def test_the_data_term_is_that_of_the_measured_pixels_alone():
    clean, _ = with_garbage("scalar")
    projector = Projector(SHAPE, (N, N), clean.rotations, clean.weights)
    field = np.random.default_rng(2).normal(size=(1, *SHAPE)).astype(np.float32)
    residual = (projector.forward(field) - clean.data) * clean.valid
    gradient, square = LocalLeastSquares(projector, clean.data, clean.valid).residual_gradient(
        field
    )
    assert np.array_equal(gradient, projector.adjoint(residual))
    assert square == pytest.approx(float(np.sum(residual.astype(float) ** 2)), rel=1e-9)


def test_a_shard_in_which_nothing_was_measured_is_left_out():
    clean, _ = with_garbage("scalar")
    valid = clean.valid.copy()
    valid[:18] = False
    whole = InProcessLeastSquares(clean, SHAPE)
    part = InProcessLeastSquares(replace(clean, valid=valid), SHAPE)
    assert (len(whole.shards), len(part.shards)) == (2, 1)
    alone = InProcessLeastSquares(clean.subset(slice(18, None)), SHAPE)
    field = np.ones((1, *SHAPE), np.float32)
    assert np.array_equal(part.normal(field), alone.normal(field))
    with pytest.raises(InputError, match="no pixel of any projection has weight"):
        InProcessLeastSquares(replace(clean, valid=np.zeros_like(valid)), SHAPE)


@pytest.mark.parametrize("method", ["resire", "fbp"])
def test_garbage_changes_no_bit_of_a_scalar_field(method):
    settings = ScalarSettings(method=method, iterations=6)
    clean, dirty = with_garbage("scalar", ONE_MOUNTING)
    one, other = (reconstruct_scalar(stack, None, settings).volume for stack in (clean, dirty))
    assert np.isfinite(one).all()
    assert np.array_equal(one, other)
    # And what is measured matters: without the mask the field is another one.
    blind = reconstruct_scalar(replace(clean, valid=None), None, settings).volume
    assert np.abs(one - blind).max() > 0.05


def test_back_projection_of_complete_slices_is_what_it_was():
    clean, _ = with_garbage("scalar", ONE_MOUNTING)
    valid = np.ones_like(clean.valid)
    settings = ScalarSettings(method="fbp")
    whole = reconstruct_scalar(replace(clean, valid=None), None, settings).volume
    told = reconstruct_scalar(replace(clean, valid=valid), None, settings).volume
    assert np.array_equal(whole, told)
    valid[::3, 10:] = False
    part = reconstruct_scalar(replace(clean, valid=valid), None, settings).volume
    assert np.array_equal(whole[:, :10], part[:, :10])
    assert not np.array_equal(whole[:, 10:], part[:, 10:])


def test_garbage_changes_no_bit_of_a_vector_field():
    settings = VectorSettings(iterations=6, refine_iterations=3)
    clean, dirty = with_garbage("circular")
    one, other = (reconstruct_vector(stack, ball(), settings) for stack in (clean, dirty))
    assert one.smoothness == other.smoothness  # held-out projections are masked too
    assert np.array_equal(one.vector, other.vector)


def test_garbage_changes_no_bit_of_an_orientation_and_of_its_twin():
    settings = OrientationSettings(iterations=6, refine_iterations=3)
    clean, dirty = with_garbage("linear")
    one, other = (reconstruct_orientation(stack, ball(), settings) for stack in (clean, dirty))
    assert one.smoothness == other.smoothness
    assert np.array_equal(one.axis, other.axis)
    known = OrientationSettings(iterations=3, refine_iterations=2, smoothness=0.1)
    twins = [
        twin_of_orientation(stack, one.axis, one.magnitude, one.sign, np.random.default_rng(3))
        for stack in (clean, dirty)
    ]
    first, second = (reconstruct_orientation(twin.stack, ball(), known) for twin in twins)
    assert np.array_equal(first.axis, second.axis)


def cut_sample(n: int = 32) -> tuple[DifferencedStack, NDArray[np.float32]]:
    """Noisy projections whose field ends 20 % of the sample's width inside it, and the field."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices((n, n, n)) - n // 2
    radius = 0.4 * n
    sample = (x**2 + z**2 < radius**2) & (np.abs(y) < 0.35 * n)
    blocks = rng.uniform(0.5, 1.5, (8, 8, 8)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    # Sharp edges would be seen differently by each way to project.
    field = ndimage.gaussian_filter(blocks * sample, 0.8).astype(np.float32)
    angles = np.arange(40) * 4.5
    rotations = series_rotations(angles, 0.0, 0.0)
    data = Projector((n, n, n), (n, n), rotations, scalar_weights(40)).forward(field[None])
    data += rng.normal(0.0, 0.02 * data.std(), data.shape).astype(np.float32)
    cut = n // 2 - round(0.6 * radius)
    # Frames as a camera gives them, each where the stage left it.
    shifts = rng.integers(-2, 3, (40, 2)).astype(float)
    frames = -shift_frames(data, -shifts)[:, :, cut:]
    stack = PhaseStack(np.ascontiguousarray(frames), angles, 1e-8, 700.0, 0.0, {})
    centre = np.array([0.0, frames.shape[2] // 2 - (n // 2 - cut)])
    aligned = place(stack, shifts + centre, np.eye(3), shape=(n, n))
    return scalar_channel(aligned), field


@pytest.mark.parametrize("method", ["resire", "fbp"])
def test_a_sample_that_leaves_the_field_is_better_with_its_unmeasured_pixels_known(method):
    stack, truth = cut_sample()
    assert stack.valid is not None
    settings = ScalarSettings(method=method)
    errors = []
    for given in (stack, replace(stack, valid=None)):
        found = reconstruct_scalar(given, None, settings).volume
        rest = (found - truth)[:, 4:-4]
        errors.append(float(np.sqrt(np.mean(rest**2) / np.mean(truth[:, 4:-4] ** 2))))
    assert errors[0] < 0.6 * errors[1], errors
