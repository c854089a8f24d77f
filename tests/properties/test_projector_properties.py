"""Properties that every projector has, whatever its scheme and geometry."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    linear_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import euler_rotations, series_rotations
from pipeline.tomography.projector import Projector, Scheme, Slices

ROUNDING = 2e-6  # float32 sums of some thousand terms, relative to |A x| |y|


@dataclass(frozen=True)
class Case:
    volume_shape: tuple[int, int, int]
    image_shape: tuple[int, int]
    weights: str
    scheme: Scheme
    supported: bool = False
    point_spread_px: float = 0.0
    slices: Slices = "footprints"


def _rotations() -> NDArray[np.float64]:
    angles = np.arange(-70.0, 110.0, 37.0)
    mountings = [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0), (29.7, 12.0)]
    series = [series_rotations(angles, tilt, pre) for tilt, pre in mountings]
    single = euler_rotations([[90, 20, 0], [90, -40, 0], [90, -40, 5], [0, 10, 0], [180, 7, 180]])
    return np.concatenate([*series, single])


def _weights(name: str, rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    if name == "scalar":
        return scalar_weights(len(rotations))
    if name == "circular":
        return circular_weights(rotations, degree=0.9)
    if name == "linear":
        return linear_weights(rotations, 20.0, 0.64)
    if name == "difference":
        return linear_difference_weights(rotations, 0.64)
    return np.random.default_rng(1).standard_normal((len(rotations), 5))


def _projector(case: Case) -> Projector:
    rotations = _rotations()
    support = None
    if case.supported:
        support = np.random.default_rng(2).random(case.volume_shape) < 0.3
    weights = _weights(case.weights, rotations)
    return Projector(
        case.volume_shape,
        case.image_shape,
        rotations,
        weights,
        case.scheme,
        support=support,
        point_spread_px=case.point_spread_px,
        slices=case.slices,
    )


SCHEMES: list[Scheme] = ["series", "general", "four-subvoxel", "fourier"]
PATHS: list[tuple[Scheme, Slices]] = [(scheme, "footprints") for scheme in SCHEMES]
PATHS.append(("series", "spectra"))
SHAPES = [
    ((12, 12, 12), (12, 12)),  # corners leave the detector
    ((9, 14, 11), (15, 10)),  # odd and even, image higher and narrower
    ((10, 13, 8), (5, 31)),  # image lower and wider than the volume
    ((1, 6, 1), (4, 3)),
]
CASES = [
    Case(*shapes, weights, scheme)
    for shapes in SHAPES
    for scheme in SCHEMES
    for weights in ("scalar", "difference")
]
CASES += [
    Case(*shapes, weights, "series", supported, spread, "spectra")
    for shapes in SHAPES
    for weights in ("scalar", "difference")
    for supported, spread in ((False, 0.0), (True, 0.5))
]
CASES += [Case(*SHAPES[1], w, "series") for w in ("circular", "linear", "any")]
CASES += [Case(*SHAPES[1], "circular", s, True) for s in SCHEMES]
CASES += [Case(*SHAPES[1], "linear", s, True, 0.5) for s in SCHEMES]


def _random(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_adjoint(case: Case) -> None:
    projector = _projector(case)
    x, y = _random(projector.field_shape, 3), _random(projector.stack_shape, 4)
    forward, adjoint = projector.forward(x), projector.adjoint(y)
    left = np.vdot(forward.astype(np.float64), y)
    right = np.vdot(x.astype(np.float64), adjoint)
    assert abs(left - right) <= ROUNDING * np.linalg.norm(forward) * np.linalg.norm(y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_and_pure(case: Case) -> None:
    projector = _projector(case)
    a, b = _random(projector.field_shape, 5), _random(projector.field_shape, 6)
    kept = a.copy()
    both = projector.forward(np.float32(2.0) * a - b)
    parts = np.float32(2.0) * projector.forward(a) - projector.forward(b)
    scale = np.abs(both).max() + np.abs(parts).max()
    np.testing.assert_allclose(both, parts, atol=1e-5 * scale)  # rounding
    np.testing.assert_array_equal(a, kept)


@pytest.mark.parametrize(("scheme", "slices"), PATHS)
def test_shapes_and_dtype(scheme: Scheme, slices: Slices) -> None:
    projector = _projector(Case(*SHAPES[1], "circular", scheme, slices=slices))
    stack = projector.forward(np.ones(projector.field_shape, np.float32))
    field = projector.adjoint(np.ones(projector.stack_shape, np.float32))
    assert stack.shape == projector.stack_shape == (30, 15, 10)
    assert field.shape == projector.field_shape == (3, 9, 14, 11)
    assert stack.dtype == field.dtype == np.float32


@pytest.mark.parametrize(("scheme", "slices"), PATHS)
def test_pickles(scheme: Scheme, slices: Slices) -> None:
    projector = _projector(Case(*SHAPES[0], "difference", scheme, True, slices=slices))
    again = pickle.loads(pickle.dumps(projector))
    x = _random(projector.field_shape, 7)
    np.testing.assert_array_equal(again.forward(x), projector.forward(x))


@pytest.mark.parametrize(("scheme", "slices"), PATHS)
def test_subset_is_part_of_the_whole(scheme: Scheme, slices: Slices) -> None:
    projector = _projector(Case(*SHAPES[1], "difference", scheme, True, slices=slices))
    x, y = _random(projector.field_shape, 8), _random(projector.stack_shape, 9)
    chosen = np.array([17, 3, 4, 28])
    part = projector.subset(chosen)
    whole = projector.forward(x)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(part.forward(x), whole[chosen], atol=1e-5 * scale)  # rounding
    rest = projector.subset(np.setdiff1d(np.arange(30), chosen))
    others = np.delete(y, chosen, axis=0)
    total = part.adjoint(y[chosen]) + rest.adjoint(others)
    full = projector.adjoint(y)
    # Rounding; near the highest frequencies finufft divides by small numbers.
    tolerance = 3e-5 if scheme == "fourier" else 1e-5
    np.testing.assert_allclose(total, full, atol=tolerance * np.abs(full).max())


# finufft adds up in an order that depends on its threads.
@pytest.mark.parametrize(("scheme", "slices"), [path for path in PATHS if path[0] != "fourier"])
def test_same_bits_for_any_number_of_threads(scheme: Scheme, slices: Slices) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread only: nothing to compare")
    projector = _projector(Case(*SHAPES[1], "difference", scheme, slices=slices))
    x, y = _random(projector.field_shape, 10), _random(projector.stack_shape, 11)
    before = numba.get_num_threads()
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append((projector.forward(x), projector.adjoint(y)))
    numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_support_leaves_the_outside_alone() -> None:
    for scheme in ("series", "general", "four-subvoxel"):
        projector = _projector(Case(*SHAPES[0], "circular", scheme, True))
        assert projector.support is not None
        x = _random(projector.field_shape, 12)
        inside = np.where(projector.support, x, np.float32(0.0))
        np.testing.assert_array_equal(projector.forward(x), projector.forward(inside))
        back = projector.adjoint(_random(projector.stack_shape, 13))
        assert not back[:, ~projector.support].any()
        assert back[:, projector.support].any()
