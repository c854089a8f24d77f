"""Registration of partners against known shifts, with a difference between them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align.pairs import average_pair, register_frame, register_pair
from pipeline.errors import InputError
from pipeline.stacks import PhaseStack

N = 80


def grains(shift, scale, seed=0):
    """Phase of a disc with an outline and 30 blobs, whose strength depends on `scale`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:N, :N] - N // 2 - np.array(shift)[:, None, None]
    disc = 1.0 / (1.0 + np.exp((np.hypot(y, 1.2 * x) - 24.0) / 0.8))
    inner = sum(
        (a + scale * b) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * w**2))
        for a, b, cy, cx, w in zip(
            rng.uniform(-0.1, 0.1, 30),
            rng.uniform(-0.05, 0.05, 30),
            rng.uniform(-15, 15, 30),
            rng.uniform(-15, 15, 30),
            rng.uniform(3, 6, 30),
            strict=True,
        )
    )
    return (-disc * (1.0 + inner)).astype(np.float32)


def stack(frames, angles=None):
    frames = np.stack(frames)
    angles = np.arange(len(frames), dtype=float) if angles is None else np.array(angles)
    return PhaseStack(frames, angles, 3e-8, 5468.0, 1e-3, {})


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.37, -0.81), (-6.2, 9.6)])
@pytest.mark.parametrize("dichroism", [0.0, 1.0])
def test_shift_is_found_through_noise_and_dichroism(shift, dichroism):
    noise = np.random.default_rng(1).normal(0, 2e-3, (2, N, N)).astype(np.float32)
    slope = np.linspace(0, 0.01, N, dtype=np.float32)
    a = grains((1.2, -0.4), 0.0) + noise[0]
    b = grains((1.2 - shift[0], -0.4 - shift[1]), dichroism) + noise[1] + slope
    found = register_frame(a, b)
    # Noise and dichroism both; without dichroism, noise alone.
    assert np.abs(found - shift).max() < (0.05 if dichroism else 0.01)


def test_pair_is_registered_projection_by_projection():
    shifts = np.array([[0.5, 0.2], [-1.3, 0.8], [2.2, -3.1]])
    a = stack([grains((0, 0), 0.0, seed) for seed in range(3)])
    b = stack([grains(-s, 0.0, seed) for seed, s in enumerate(shifts)])
    told = []
    found = register_pair(a, b, told.append)
    assert np.abs(found - shifts).max() < 0.01
    assert [event.done for event in told] == [1, 2, 3]
    mean = average_pair(a, b, found)
    assert np.abs(mean - a.data).max() < 0.02


def test_mean_takes_nothing_from_beyond_the_field_of_a_partner():
    # Both show a sample that goes on beyond low x; the partner saw ten columns less of it.
    whole = grains((0, 0), 0.0)[:, 30:]
    part = np.pad(grains((0, 0), 0.0)[:, 40:], ((0, 0), (0, 10)), mode="edge")
    mean = average_pair(stack([whole]), stack([part]), np.array([[0.0, 10.0]]))
    assert np.abs(mean[0] - whole).max() < 0.01


def test_strangers_are_refused():
    frame = grains((0, 0), 0.0)
    with pytest.raises(InputError, match=r"stacks of one shape, found \(2, 80, 80\) and \(1, 80"):
        register_pair(stack([frame, frame]), stack([frame]))
    with pytest.raises(InputError, match="projection 1 was taken at 3 degree in one series and"):
        register_pair(stack([frame, frame], [0.0, 3.0]), stack([frame, frame], [0.0, 4.0]))
