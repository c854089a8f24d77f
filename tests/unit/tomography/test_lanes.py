"""Sums over taps as vector instructions, against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from pipeline.tomography.kernels.lanes import (
    TAPS,
    WIDTH,
    spread_6,
    spread_18,
    take_6,
    take_18,
)
from pipeline.tomography.spectra import _SAME_SETS, _aligned, _spare_columns

PITCH, ROWS, LENGTH = 20 * WIDTH, 20, 3 * WIDTH


@njit(error_model="numpy")
def run_take(n, lanes, data, offsets, weights, starts, shares, length):  # type: ignore[no-untyped-def]
    if n == TAPS:
        take_6(lanes, data, offsets, weights, starts, shares, length)
    else:
        take_18(lanes, data, offsets, weights, starts, shares, length)


@njit(error_model="numpy")
def run_spread(n, lanes, data, offsets, weights, starts, shares, length):  # type: ignore[no-untyped-def]
    if n == TAPS:
        spread_6(lanes, data, offsets, weights, starts, shares, length)
    else:
        spread_18(lanes, data, offsets, weights, starts, shares, length)


def tables(n: int) -> tuple[NDArray[np.float32], tuple[NDArray[np.generic], ...]]:
    """Data and taps: rows in any order, columns that wrap; nothing is aligned."""
    rng = np.random.default_rng(n)
    data = rng.standard_normal(ROWS * PITCH + 1, np.float32)[1:]
    offsets = rng.permutation(ROWS)[:n].astype(np.int64) * PITCH
    starts = np.array([5, 6, 7, 0, 1, 2], np.int64) * WIDTH
    weights, shares = rng.standard_normal(n, np.float32), rng.standard_normal(TAPS, np.float32)
    return data, (offsets, weights, starts, shares)


@pytest.mark.parametrize("n", [TAPS, 3 * TAPS])
def test_taking_is_the_plain_sum(n: int) -> None:
    data, (offsets, weights, starts, shares) = tables(n)
    lanes = np.ones(LENGTH, np.float32)
    run_take(n, lanes, data, offsets, weights, starts, shares, LENGTH)
    places = offsets[:, None, None] + starts[:, None] + np.arange(LENGTH)
    expected = 1.0 + np.einsum("t,e,tei->i", weights, shares, data[places].astype(np.float64))
    np.testing.assert_allclose(lanes, expected, rtol=0, atol=2e-5)  # rounding of 108 products


@pytest.mark.parametrize("n", [TAPS, 3 * TAPS])
def test_spreading_is_the_adjoint_and_touches_nothing_else(n: int) -> None:
    data, (offsets, weights, starts, shares) = tables(n)
    lanes = np.random.default_rng(1).standard_normal(LENGTH, np.float32)
    taken, spread = np.zeros_like(lanes), np.zeros_like(data)
    starts = np.arange(TAPS, dtype=np.int64) * LENGTH
    run_take(n, taken, data, offsets, weights, starts, shares, LENGTH)
    run_spread(n, lanes, spread, offsets, weights, starts, shares, LENGTH)
    left = np.vdot(taken.astype(np.float64), lanes)
    right = np.vdot(data.astype(np.float64), spread)
    assert left == pytest.approx(right, abs=1e-4)
    places = (offsets[:, None, None] + starts[:, None] + np.arange(LENGTH)).ravel()
    untouched = np.setdiff1d(np.arange(len(data)), places)
    assert len(untouched) > 0
    assert not spread[untouched].any()


@pytest.mark.parametrize("columns", [80, 160, 240, 432, 513])
@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_rows_of_taps_do_not_share_their_places_in_the_cache(columns: int, lanes: int) -> None:
    spare = _spare_columns(columns, lanes)
    pitch = (columns + spare) * lanes * 8 % _SAME_SETS
    assert _SAME_SETS // 8 <= pitch <= _SAME_SETS * 7 // 8
    assert spare * lanes * 8 <= _SAME_SETS


def test_scratch_begins_with_a_line_of_the_cache() -> None:
    for size in (1, 3, 1000):
        assert _aligned((size, 8)).ctypes.data % 64 == 0
