"""Frames on a canvas wider than their field, and what was not measured."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align.canvas import Canvas, for_each, open_borders
from pipeline.align.explain import Explained
from pipeline.preprocess.resample import fourier_shift


def slab(n=40):
    """Matter that leaves a frame at low x only."""
    frame = np.zeros((n, n), np.float32)
    frame[12:28, :20] = 1.0
    return frame


def test_open_borders_are_told_from_air_through_noise():
    noise = np.random.default_rng(0).normal(0, 0.05, (3, 40, 40))
    frames = np.stack([slab(), slab().T, np.roll(slab(), 10, axis=1)]) + noise
    found = open_borders(frames.astype(np.float32))
    assert found.tolist() == [
        [False, False, True, False],
        [True, False, False, False],
        [False, False, False, False],
    ]


def test_placing_is_shifting_with_room_beside():
    frame = np.roll(slab(), 8, axis=1)
    canvas = Canvas(frame[None], np.zeros((1, 4), bool), 60, 50)
    shift = np.array([[1.4, -6.7]])
    moved, seen = canvas.place(shift, np.zeros(1), np.ones(1))
    assert moved.shape == (1, 50, 60)
    expected = np.zeros((50, 60), np.float32)
    expected[5:45, 10:50] = frame
    # Rounding and the continued border of the shorter image.
    assert np.abs(moved[0] - fourier_shift(expected, 1.4, -6.7)).max() < 0.02
    assert seen[0] == (slice(8, 44), slice(5, 41))


def test_only_what_lies_beyond_an_open_border_is_unknown():
    frame = slab()
    borders = open_borders(frame[None])
    canvas = Canvas(frame[None], borders, 60)
    _, seen = canvas.place(np.array([[3.0, 5.0]]), np.zeros(1), np.ones(1))
    unknown = canvas.unknown(0, seen[0])
    assert unknown is not None
    assert unknown[:, :17].all()
    assert not unknown[:, 17:].any()
    closed = Canvas(frame[None], np.zeros((1, 4), bool), 60)
    assert closed.unknown(0, seen[0]) is None


def test_narrowing_keeps_the_centre():
    canvas = Canvas(np.zeros((1, 4, 20), np.float32), np.zeros((1, 4), bool), 20)
    volume, model = np.zeros((20, 4, 20), np.float32), np.zeros((1, 4, 20), np.float32)
    volume[10, 0, 10] = model[0, 0, 10] = 1.0
    whole = Explained(volume, model, volume)
    cut = whole.cut(canvas.narrow(12))
    assert cut.volume.shape == (12, 4, 12)
    assert cut.volume[6, 0, 6] == cut.inside[6, 0, 6] == cut.model[0, 0, 6] == 1.0
    assert canvas.shape == (1, 4, 12)
    assert cut.cut(canvas.narrow(16)) is cut


def test_errors_of_threads_are_raised():
    def fail(index):
        raise ValueError(f"index {index}")

    with pytest.raises(ValueError, match="index 0"):
        for_each(3, fail)


def test_noise_opens_no_border():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-32:32, -32:32]
    whole = np.clip(20.0 - np.hypot(y, x), 0.0, None).astype(np.float32)
    cut = np.roll(whole, 20, axis=1) * (x > -31)
    frames = np.stack([whole, cut]) + rng.normal(0.0, 5.0, (2, 64, 64)).astype(np.float32)
    assert open_borders(frames).tolist() == [[False] * 4, [False, False, False, True]]
