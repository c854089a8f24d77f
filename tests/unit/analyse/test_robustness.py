"""Less data: the parts are those that their names say, and the errors those that were planted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.robustness import (
    Part,
    Robustness,
    angle_deg,
    horizontal,
    one_polarisation,
    parts_of,
)
from pipeline.errors import InputError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights, linear_weights, scalar_weights
from pipeline.tomography.geometry import euler_rotations, series_rotations
from pipeline.tomography.projector import Projector

SHAPE = (12, 12, 12)


def tilt_series(n: int, tilts: tuple[float, ...]) -> np.ndarray:
    angles = np.linspace(0.0, 180.0, n, endpoint=False)
    return np.concatenate([series_rotations(angles, tilt, 0.0) for tilt in tilts])


def stack_of(rotations: np.ndarray, data: np.ndarray | None = None) -> DifferencedStack:
    values = np.ones((len(rotations), 12, 12), np.float32) if data is None else data
    weights = linear_difference_weights(rotations, 0.6)
    return DifferencedStack(values, rotations, weights, "linear", 1e-8, 0.0)


def test_parts_of_a_measurement_in_three_tilts():
    stack = stack_of(tilt_series(16, (0.0, 30.0, -30.0)))
    parts = {part.name: part for part in parts_of(stack, with_means=True)}
    assert list(parts) == ["angles-2", "angles-4", "tilts-2", "tilts-1", "polarisation-1"]
    assert parts["angles-2"].title == "half of the angles"
    assert parts["angles-2"].indices.tolist() == list(range(0, 48, 2))
    assert parts["tilts-2"].indices.tolist() == list(range(32))
    assert parts["tilts-2"].title == "2 of 3 tilts"
    assert len(parts["polarisation-1"].indices) == 48
    assert "polarisation-1" not in [part.name for part in parts_of(stack)]


def test_every_second_angle_is_so_by_angle_not_by_place_in_the_file():
    rotations = tilt_series(16, (0.0,))
    order = np.random.default_rng(0).permutation(16)
    half = parts_of(stack_of(rotations[order]))[0]
    kept = np.sort(order[half.indices])
    assert set(np.diff(kept).tolist()) == {2}


def test_few_projections_are_left_alone():
    assert parts_of(stack_of(tilt_series(4, (0.0,)))) == []
    scattered = euler_rotations(np.random.default_rng(0).uniform(0, 180, (20, 3)))
    assert parts_of(stack_of(scattered)) == []


def test_angles_of_axes_and_of_vectors():
    rng = np.random.default_rng(0)
    axis = rng.standard_normal((3, 50))
    assert angle_deg(-2 * axis, axis, signed=False) == pytest.approx(0.0, abs=1e-4)
    assert angle_deg(-2 * axis, axis, signed=True) == pytest.approx(180.0, abs=1e-4)
    x, y = np.eye(3)[:, :1], np.eye(3)[:, 1:2]
    assert angle_deg(x + y, x, signed=False)[0] == pytest.approx(45.0)
    assert angle_deg(0 * x, x, signed=False)[0] == 90.0


def test_one_polarisation_is_what_that_polarisation_measures():
    rng = np.random.default_rng(1)
    rotations = tilt_series(6, (0.0, 30.0))
    tensor = rng.standard_normal((6, *SHAPE)).astype(np.float32)
    matter = rng.random((1, *SHAPE)).astype(np.float32)

    def project(field: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return Projector(SHAPE, (12, 12), rotations, weights).forward(field)

    isotropic = project(matter, np.ones((12, 1)))
    seen = {
        angle: isotropic + project(tensor, linear_weights(rotations, angle, 0.6))
        for angle in (0.0, 90.0)
    }
    difference = stack_of(rotations, seen[0.0] - seen[90.0])
    mean = DifferencedStack(
        0.5 * (seen[0.0] + seen[90.0]), rotations, scalar_weights(12), "scalar", 1e-8, 0.0
    )
    single = horizontal(difference, mean)
    assert single.data == pytest.approx(seen[0.0], abs=1e-4)
    rest = one_polarisation(difference, single, matter[0])
    assert rest.data == pytest.approx(project(tensor, rest.weights), abs=2e-4)
    with pytest.raises(InputError, match="a linear stack and its mean of one shape"):
        horizontal(
            difference, DifferencedStack(mean.data[1:], rotations, mean.weights, "scalar", 1, 0)
        )


def test_planted_errors_are_told():
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3] = True
    indices = np.arange(10, dtype=np.int64)
    parts = (Part("angles-2", "half of the angles", indices[::2]), Part("p", "one", indices, True))
    errors = {
        "angles-2": np.full(32, 5.0, np.float32),
        "p": np.linspace(0, 40, 32).astype(np.float32),
    }
    product = Robustness(parts, 10, errors, mask, 1e-8, False).as_product()
    table = product.tables["parts"].columns
    assert table["exposures"].tolist() == [50.0, 50.0]
    assert table["median_error"] == pytest.approx([5.0, 20.0])
    assert table["within_10_degrees"] == pytest.approx([100.0, 25.0])
    curve = product.curves["cumulative"]
    at_ten = np.argmin(np.abs(curve.x - 10.0))
    assert curve.lines["half of the angles"][at_ten] == 100.0
    assert curve.lines["one"][at_ten] == pytest.approx(25.0)
    error = product.maps["error_angles_2"].values
    assert (error[mask] == 5.0).all()
    assert np.isnan(error[~mask]).all()
    assert product.figures["robustness_angles_2"].value == 5.0
    assert any("one polarisation" in note for note in product.notes)


def test_nothing_to_compare_is_said():
    mask = np.zeros((2, 2, 2), bool)
    empty = Robustness((), 3, {}, mask, 1e-8, True).as_product()
    assert len(empty.notes) == 2
    assert empty.curves == {}
    none = Robustness(
        (Part("a", "half", np.arange(2)),), 4, {"a": np.zeros(0, np.float32)}, mask, 1.0, True
    ).as_product()
    assert np.isnan(none.tables["parts"].columns["median_error"][0])
    assert none.figures == {}
