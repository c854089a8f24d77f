"""Principal axes of symmetric matrices."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.eigen import symmetric_eigen


def _matrices(tensor: np.ndarray) -> np.ndarray:
    xx, yy, zz, yz, xz, xy = tensor.astype(np.float64)
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).transpose(2, 0, 1)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e12])
def test_agrees_with_lapack(scale: float) -> None:
    rng = np.random.default_rng(0)
    tensor = (scale * rng.standard_normal((6, 10_000))).astype(np.float32)
    values, axis = symmetric_eigen(tensor)
    matrices = _matrices(tensor)
    expected, vectors = np.linalg.eigh(matrices)
    np.testing.assert_allclose(values.T, expected, rtol=0, atol=1e-14 * scale * 10)
    left = np.einsum("nij,jn->in", matrices, axis) - values[2] * axis
    assert np.abs(left).max() < 1e-13 * scale
    assert np.abs(np.abs(np.einsum("in,ni->n", axis, vectors[:, :, 2])) - 1.0).max() < 1e-9
    assert (np.take_along_axis(axis, np.abs(axis).argmax(0)[None], 0) > 0).all()


def test_eigenvalues_that_coincide() -> None:
    tensor = np.array(
        [[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], float
    ).T
    values, axis = symmetric_eigen(tensor)
    np.testing.assert_allclose(
        values.T, [[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 3]], rtol=0, atol=1e-15
    )
    np.testing.assert_allclose(np.linalg.norm(axis, axis=0), 1.0)
    np.testing.assert_allclose(axis[:, 3], 1 / np.sqrt(3))
    assert axis[2, 2] == 0.0


def test_nothing_in_nothing_out() -> None:
    values, axis = symmetric_eigen(np.zeros((6, 0), np.float32))
    assert values.shape == axis.shape == (3, 0)
