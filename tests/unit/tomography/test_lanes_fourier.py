"""Transforms of many lanes against numpy's in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tomography.kernels import lanes_fourier

SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 16, 28, 30, 44, 99, 105, 120, 154, 231, 420, 735)


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize("n", SIZES)
def test_both_directions(n: int, width: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.standard_normal((n, width // 2)) + 1j * rng.standard_normal((n, width // 2))
    values = values.astype(np.complex64)
    parts, turns = lanes_fourier.plan_points(n)
    assert np.prod(parts) == n
    exact = values.astype(np.complex128)
    for transform, expected in (
        (lanes_fourier.forward, np.fft.fft(exact, axis=0)),
        (lanes_fourier.backward, n * np.fft.ifft(exact, axis=0)),
    ):
        lines = values.view(np.float32).ravel().copy()
        other = np.full_like(lines, np.nan)
        elsewhere = transform(lines, other, parts, turns, width)
        found = (other if elsewhere else lines).view(np.complex64).reshape(values.shape)
        assert np.linalg.norm(found - expected) <= 3e-7 * np.linalg.norm(expected)


@pytest.mark.parametrize("n", [1, 13, 26])
def test_other_numbers_of_points_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="expected a product of"):
        lanes_fourier.plan_points(n)
