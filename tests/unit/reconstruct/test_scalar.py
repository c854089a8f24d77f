from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConvergenceError, GeometryError
from pipeline.progress import Progress
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import series_rotations
from schemas.recipe import ScalarSettings

SHAPE = (32, 30, 32)
IMAGE = (34, 36)
CENTRE = np.array([3.0, -2.0, -4.0])
RADIUS = 9.0
NOISE = 0.01
DENSITY = 0.0164  # rad per voxel, like V2O5


def _distance(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float64]:
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    return np.sqrt((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (z - CENTRE[2]) ** 2)


def _stack(
    rotations: NDArray[np.float64], *, sign: float = 1.0, noise: float = NOISE
) -> DifferencedStack:
    """Chords through a ball off the axis, in closed form, with noise."""
    y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in IMAGE], indexing="ij")
    images = []
    for rotation in rotations:
        u, v, _ = rotation @ CENTRE
        images.append(2.0 * np.sqrt(np.maximum(RADIUS**2 - (x - u) ** 2 - (y - v) ** 2, 0.0)))
    clean = sign * DENSITY * np.array(images)
    noisy = clean + noise * np.random.default_rng(5).standard_normal(clean.shape)
    ones = np.ones((len(rotations), 1))
    return DifferencedStack(noisy.astype(np.float32), rotations, ones, "scalar", 3e-8, noise)


def _two_tilts() -> NDArray[np.float64]:
    angles = np.arange(0.0, 180.0, 9.0)
    return np.concatenate([series_rotations(angles), series_rotations(angles, 30.0, 90.0)])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_resire_finds_the_density_of_either_sign(sign: float) -> None:
    steps: list[Progress] = []
    result = reconstruct_scalar(
        _stack(_two_tilts(), sign=sign),
        None,
        ScalarSettings(),
        volume_shape=SHAPE,
        progress=steps.append,
    )
    inside = sign * result.volume[_distance() < 0.7 * RADIUS] / DENSITY
    assert result.volume.shape == SHAPE
    assert result.volume.dtype == np.float32
    assert inside.mean() == pytest.approx(1.0, abs=0.02)  # noise and early stop
    assert (sign * result.volume >= 0.0).all()
    assert result.stopped in {"noise level", "converged"}
    assert [step.done for step in steps] == list(range(1, len(result.residuals) + 1))
    assert result.residuals[-1] < 0.5 * result.residuals[0]


def test_stops_before_it_fits_noise() -> None:
    truth = DENSITY * (_distance() < RADIUS)
    short, default = (
        reconstruct_scalar(
            _stack(_two_tilts()), None, ScalarSettings(iterations=n), volume_shape=SHAPE
        )
        for n in (4, 60)
    )
    assert len(default.residuals) < 60
    errors = [np.linalg.norm(r.volume - truth) / np.linalg.norm(truth) for r in (short, default)]
    assert errors[1] < errors[0]
    assert errors[1] < 0.25  # the sharp rim and noise; measured 0.19


def test_support_holds_and_without_positivity_the_noise_level_ends_it() -> None:
    support = _distance() < RADIUS + 2.0
    result = reconstruct_scalar(
        _stack(_two_tilts()), support, ScalarSettings(positivity=False), volume_shape=SHAPE
    )
    assert not result.volume[~support].any()
    assert (result.volume < 0.0).any()


def test_zero_data_give_zero() -> None:
    stack = _stack(series_rotations([0.0, 90.0]), noise=0.0)
    empty = DifferencedStack(0 * stack.data, stack.rotations, stack.weights, "scalar", 3e-8, 0.0)
    result = reconstruct_scalar(empty, None, ScalarSettings(), volume_shape=SHAPE)
    assert not result.volume.any()
    assert result.residuals == [0.0]


@pytest.mark.parametrize(("tilt", "pre"), [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0)])
def test_fbp_comes_back_in_the_sample_frame(tilt: float, pre: float) -> None:
    stack = _stack(series_rotations(np.arange(0.0, 180.0, 3.0), tilt, pre), sign=-1.0, noise=0.0)
    result = reconstruct_scalar(stack, None, ScalarSettings(method="fbp"), volume_shape=SHAPE)
    inside = -result.volume[_distance() < 0.7 * RADIUS] / DENSITY
    assert result.volume.shape == SHAPE
    assert inside.mean() == pytest.approx(1.0, abs=0.005)  # discretisation
    assert abs(result.volume[_distance() > 1.3 * RADIUS]).mean() < 0.02 * DENSITY
    assert result.stopped == "direct"


def test_refuses() -> None:
    stack = _stack(_two_tilts())
    with pytest.raises(GeometryError, match="one rotation axis, found 2; use method resire"):
        reconstruct_scalar(stack, None, ScalarSettings(method="fbp"))
    with pytest.raises(
        GeometryError, match=r"expected a support \(36, 34, 36\), found \(32, 30, 32\)"
    ):
        reconstruct_scalar(stack, np.ones(SHAPE, np.bool_), ScalarSettings())
    vector = DifferencedStack(stack.data, stack.rotations, stack.weights, "circular", 3e-8, 0.0)
    with pytest.raises(GeometryError, match="expected scalar, found circular data"):
        reconstruct_scalar(vector, None, ScalarSettings())


class _Broken:
    """A problem whose numbers go wrong after the first gradient."""

    field_shape = (1, 2, 2, 2)
    data_norm2 = 1.0
    n_data = 8

    def __init__(self) -> None:
        self._calls = 0

    def residual_gradient(self, field: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        self._calls += 1
        return np.ones_like(field), 1.0 if self._calls == 1 else float("nan")

    def normal(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        return field


def test_numbers_that_are_not_finite_end_it() -> None:
    stack = _stack(series_rotations([0.0]))
    with pytest.raises(ConvergenceError, match="not finite in iteration 1"):
        reconstruct_scalar(stack, None, ScalarSettings(), problem=_Broken(), volume_shape=(2, 2, 2))
