"""Passes over whole arrays against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tomography.kernels.passes import all_finite, inner, subtract


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 20000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_anywhere(size: int, bad: float) -> None:
    values = np.full(size, np.finfo(np.float32).max, np.float32)
    values[::2] = -np.finfo(np.float32).tiny
    assert all_finite(values)
    for place in {0, size // 2, size - 1}:
        spoilt = values.copy()
        spoilt[place] = bad
        assert not all_finite(spoilt)


def test_differences_and_their_squares() -> None:
    rng = np.random.default_rng(0)
    stack, other = (rng.standard_normal((5, 7, 33)).astype(np.float32) for _ in range(2))
    difference = stack - other
    squares = subtract(stack, other)
    np.testing.assert_array_equal(stack, difference)
    expected = np.sum(difference.astype(np.float64) ** 2, axis=(1, 2))
    np.testing.assert_allclose(squares, expected, rtol=1e-6)  # rounding of one line


@pytest.mark.parametrize("shape", [(1,), (3, 4097), (6, 5, 7, 31)])
def test_inner_products_are_summed_in_double_precision(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    expected = np.vdot(a.astype(np.float64), b.astype(np.float64))
    assert inner(a, b) == pytest.approx(expected, abs=1e-12 * a.size)
    assert inner(a, b) == inner(a, b)


def test_inner_products_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected arrays of one shape, found \(3,\) and \(4,\)"):
        inner(np.zeros(3, np.float32), np.zeros(4, np.float32))
