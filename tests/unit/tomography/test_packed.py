"""Packed values against numpy's indexing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.reconstruct.axes import outer_gradient, outer_tensor
from pipeline.tomography.kernels.packed import (
    edge_stiffness,
    pack,
    pack_outer_gradient,
    row_starts,
    unpack,
    unpack_outer,
)

ROUNDING = 1e-6


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[0.0, 0.4, 1.0])
def support(request: pytest.FixtureRequest) -> NDArray[np.bool_]:
    return np.random.default_rng(2).random((4, 5, 7)) < request.param


@pytest.mark.parametrize("border", [0, 1, 2])
def test_values_of_the_support_and_back(support: NDArray[np.bool_], border: int) -> None:
    field = noise(3, *(n + 2 * border for n in support.shape))
    inside = field[:, border : 4 + border, border : 5 + border, border : 7 + border]
    packed = pack(field, support, border=border)
    assert packed.flags.c_contiguous
    np.testing.assert_array_equal(packed, inside[:, support])
    back = unpack(packed, support, border=border)
    expected = np.zeros_like(field)
    expected[:, border : 4 + border, border : 5 + border, border : 7 + border] = inside * support
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(unpack(np.asfortranarray(packed), support, border=border), back)


def test_tensors_of_vectors_and_the_chain_rule(support: NDArray[np.bool_]) -> None:
    starts, count = row_starts(support), int(support.sum())
    vectors, field = noise(3, count), noise(6, *support.shape)
    unpack_outer(vectors, np.float32(-2.0), support, starts, field)
    expected = unpack(np.float32(-2.0) * outer_tensor(vectors), support)
    np.testing.assert_allclose(field, expected, atol=ROUNDING)
    first, second = noise(6, *support.shape), 3.0 * noise(6, *support.shape)
    found = np.empty_like(vectors)
    pack_outer_gradient(first, second, vectors, np.float32(0.5), support, starts, found)
    slope = np.float32(0.5) * (first + second)[:, support]
    np.testing.assert_allclose(found, outer_gradient(slope, vectors), atol=20 * ROUNDING)


def test_edges_join_two_voxels_of_the_support(support: NDArray[np.bool_]) -> None:
    weights = 1.0 + np.abs(noise(*support.shape))
    edges = np.zeros((3, 6, 7, 9), np.float32)
    edge_stiffness(weights, support, np.float32(2.0), edges)
    for axis in range(3):
        both = (
            support
            & np.pad(support, [(0, int(k == axis)) for k in range(3)])[
                tuple(slice(int(k == axis), None) for k in range(3))
            ]
        )
        expected = np.zeros((6, 7, 9), np.float32)
        expected[1:-1, 1:-1, 1:-1] = np.where(both, 2.0 * weights, 0.0)
        np.testing.assert_allclose(edges[axis], expected, rtol=ROUNDING)
