"""Scores against truth that was made to differ by a known amount."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from pipeline.analyse.score import adjusted_rand_index, field_correlation, score_result
from pipeline.errors import InputError
from pipeline.io.results import (
    DensityMap,
    GrainMap,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResultData,
    SeriesAlignment,
    write_result,
)

PIXEL = 30e-9
FINE = PIXEL / 2
SHIFT = np.array([1.0, -0.5, 2.0])  # z, y, x [voxel]: the result's origin in the truth's frame
ERROR_DEG = 3.0


def _write_truth(path: Path) -> np.ndarray:
    """A pillar of four grains in quarters, with a ball of polystyrene; the labels."""
    n = 64
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")
    labels = np.where(z**2 + x**2 < (20 + 0.1 * y) ** 2, 2 + (x > 1) + 2 * (y > 3), 0)
    labels[(np.abs(y) > 25) | (x > 16)] = 0
    labels[(z - 8) ** 2 + (y + 8) ** 2 + (x + 8) ** 2 < 6**2] = 1
    with h5py.File(path, "w") as file:
        file.attrs.update(kind="orientation", pixel_size_m=PIXEL, f_lin_rad=2e-3)
        file["labels"] = labels.astype(np.uint16)
        file["labels"].attrs["voxel_size_m"] = FINE
        file.create_group("table").attrs["names"] = ["air", "V2O5", "polystyrene"]
        file["table/material"] = np.array([0, 2, 1, 1, 1, 1], np.uint8)
        file["table/electron_density"] = np.array([0, 0.34, 0.82, 0.82, 0.82, 0.82])
        axes = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.6, -0.8]])
        file["table/axis"] = axes.astype(float)
        group = file.create_group("series/tilt1_lh")
        group.attrs.update(
            pixel_size_m=PIXEL, tilt="tilt1", mounting=np.eye(3), frame_shape=(64, 64)
        )
        rng = np.random.default_rng(0)
        group["angles_deg"] = np.linspace(0, 175, 36)
        group["origin_px"] = 32 + rng.uniform(-3, 3, (36, 2))
    return labels


def _result(truth_path: Path) -> ResultData:
    """The truth on the coarse grid, displaced, every axis wrong by the same angle."""
    with h5py.File(truth_path) as file:
        labels, axes = file["labels"][()], file["table/axis"][()]
        density, material = file["table/electron_density"][()], file["table/material"][()]
        origin = file["series/tilt1_lh/origin_px"][()]
        angles = file["series/tilt1_lh/angles_deg"][()]
    shape = (36, 40, 34)
    places = [(np.arange(m) - m // 2 + s) * 2 + 32 for m, s in zip(shape, SHIFT, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    smooth = ndimage.uniform_filter(density[labels], 2, origin=-1)
    smooth = 0.5 * (smooth + ndimage.uniform_filter(density[labels], 2, origin=0))
    volume = ndimage.map_coordinates(smooth, grid, order=1).astype(np.float32)
    coarse = ndimage.map_coordinates(labels, grid, order=0)
    axis = axes[coarse].transpose(3, 0, 1, 2)
    other = np.roll(axis, 1, axis=0)
    other = other - np.sum(axis * other, axis=0) * axis
    other /= np.maximum(np.linalg.norm(other, axis=0), 1e-12)
    turn = np.radians(ERROR_DEG)
    support = coarse > 0
    axis = -(np.cos(turn) * axis + np.sin(turn) * other).astype(np.float32)
    magnitude = np.where(support, 1.9e-3, 0).astype(np.float32)
    uncertainty = np.full(shape, 3.0, np.float32)
    tensor = np.zeros((6, *shape), np.float32)
    grains = np.where(coarse > 1, coarse - 1, 0).astype(np.int32)
    return ResultData(
        sample="pillar",
        pixel_size_m=PIXEL,
        orientation=OrientationMap(tensor, axis, magnitude, magnitude, support, uncertainty),
        density=DensityMap(
            volume * np.float32(1.005),
            (material[coarse] == 1).astype(np.uint8),
            ("V2O5",),
            np.array([[0.74, 0.9]]),
        ),
        grains=GrainMap(grains, np.zeros(shape, np.uint8), {}, PIXEL),
        alignment={
            "tilt1_lh": SeriesAlignment(
                # A rigid motion of the sample is not an error of the alignment.
                32 - origin + 0.3 * np.cos(np.radians(angles))[:, None] * [0, 1] + [1.5, 0.0],
                angles,
            )
        },
        mountings={"tilt1": Mounting(np.eye(3), np.zeros(3), 1.0)},
    )


@pytest.fixture
def paths(tmp_path) -> tuple[Path, Path]:
    _write_truth(tmp_path / "truth.h5")
    write_result(tmp_path / "result.nxs", _result(tmp_path / "truth.h5"))
    return tmp_path / "result.nxs", tmp_path / "truth.h5"


def test_every_planted_error_is_reported(paths):
    scores = {name: entry["value"] for name, entry in score_result(*paths).items()}
    assert scores["registration_shift_voxel"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.1)
    assert scores["global_rotation_deg"] < 0.3
    assert scores["orientation_error_median_deg"] == pytest.approx(ERROR_DEG, abs=0.01)
    assert scores["orientation_within_4deg_percent"] > 99
    assert scores["orientation_coverage_percent"] > 99
    assert scores["dichroic_contrast_ratio"] == pytest.approx(0.95, rel=1e-3)
    for part in range(1, 6):
        found = scores[f"uncertainty_fifth_{part}_found_deg"]
        assert found == pytest.approx(ERROR_DEG, abs=0.01)
        assert scores[f"uncertainty_fifth_{part}_stated_deg"] == pytest.approx(2.5, rel=0.01)
    assert scores["orientation_error_median_interior_deg"] == pytest.approx(ERROR_DEG, abs=0.01)
    # Stated rms 3 predicts a median of 2.5.
    assert scores["uncertainty_calibration"] == pytest.approx(1 / np.sqrt(np.log(2)), rel=0.01)
    assert scores["electron_density_v2o5_error_percent"] == pytest.approx(0.5, abs=0.1)
    assert scores["materials_accuracy_percent"] > 98
    assert scores["grains_adjusted_rand_index"] > 0.99
    # The grain with axis (0, 0.6, -0.8) touches z at 37 degrees, so nothing is merged at 10.
    separable = scores["grains_adjusted_rand_index_separable"]
    assert separable == scores["grains_adjusted_rand_index"]
    assert scores["grains_true"] == 4
    assert scores["alignment_residual_px"] < 1e-9
    assert scores["alignment_residual_px"] == scores["alignment_residual_tilt1_lh_px"]
    assert scores["mounting_error_max_deg"] < 1e-5


def test_every_score_has_a_unit_and_a_description(paths):
    for name, entry in score_result(*paths).items():
        assert entry.keys() == {"value", "unit", "description"}, name
        assert entry["description"], name


def test_a_misplaced_rotation_axis_is_an_error_of_the_alignment(paths):
    result = _result(paths[1])
    series = result.alignment["tilt1_lh"]
    moved = dataclasses.replace(series, shifts_px=np.add(series.shifts_px, [0.0, 0.4]))
    write_result(paths[0], dataclasses.replace(result, alignment={"tilt1_lh": moved}))
    found = score_result(*paths)["alignment_residual_px"]["value"]
    # Over half a turn part of a constant looks like the sine of a displaced sample.
    assert 0.05 < found < 0.4 / np.sqrt(2)


def test_true_grains_that_no_threshold_separates_are_told(paths):
    result = _result(paths[1])
    labels = result.grains.label
    merged = np.where(labels == 4, 3, labels).astype(np.int32)
    grains = dataclasses.replace(result.grains, label=merged)
    with h5py.File(paths[1], "a") as file:
        file["table/axis"][5] = [0, 0.1, 0.995]
    write_result(paths[0], dataclasses.replace(result, grains=grains))
    scores = {name: entry["value"] for name, entry in score_result(*paths).items()}
    assert scores["grains_adjusted_rand_index"] < 0.9
    assert scores["grains_adjusted_rand_index_separable"] > 0.99


def test_missing_axes_are_misses(paths):
    result = _result(paths[1])
    axis = result.orientation.axis.copy()
    axis[:, :, :20] = 0.0
    orientation = dataclasses.replace(result.orientation, axis=axis)
    write_result(paths[0], dataclasses.replace(result, orientation=orientation))
    scores = score_result(*paths)
    covered = scores["orientation_coverage_percent"]["value"]
    assert covered < 80
    assert scores["orientation_within_10deg_percent"]["value"] == pytest.approx(covered, abs=0.5)


def test_correlation_keeps_the_means():
    a = np.array([1.0, 1.0, 1.0])
    assert field_correlation(a, 2 * a) == pytest.approx(1.0)
    assert field_correlation(a, np.array([1.0, -1.0, 0.0])) == pytest.approx(0.0)
    assert field_correlation(a, np.zeros(3)) == 0.0


def test_magnetisation_is_correlated_over_the_whole_volume(tmp_path):
    rng = np.random.default_rng(0)
    true = rng.standard_normal((3, 6, 7, 8)).astype(np.float32)
    found = true + 0.5 * rng.standard_normal(true.shape).astype(np.float32)
    support = np.ones(true.shape[1:], bool)
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file.attrs["kind"] = "magnetisation"
        file["magnetisation/vector"] = true
        file["magnetisation/support"] = support.astype(np.uint8)
    maps = MagnetisationMap(found, support)
    write_result(tmp_path / "result.nxs", ResultData("m", 1e-9, magnetisation=maps))
    scores = score_result(tmp_path / "result.nxs", tmp_path / "truth.h5")
    for name, a, b in zip("xyz", found, true, strict=True):
        assert scores[f"correlation_{name}"]["value"] == pytest.approx(field_correlation(a, b))
    assert 0 < scores["direction_error_median_deg"]["value"] < 45


def test_what_cannot_be_scored_is_said_in_one_line(tmp_path):
    result, truth = tmp_path / "result.nxs", tmp_path / "truth.h5"
    write_result(result, ResultData("m", 1e-9))
    with pytest.raises(InputError, match=r"truth\.h5: file does not exist"):
        score_result(result, truth)
    with h5py.File(truth, "w") as file:
        file.attrs["kind"] = "magnetisation"
        file["magnetisation/vector"] = np.zeros((3, 2, 2, 2))
    with pytest.raises(InputError, match=r"result\.nxs: nothing in it can be compared with"):
        score_result(result, truth)
    maps = MagnetisationMap(np.zeros((3, 2, 2, 3), np.float32), np.ones((2, 2, 3), bool))
    write_result(result, ResultData("m", 1e-9, magnetisation=maps))
    with pytest.raises(InputError, match=r"vector: expected the result's shape \(3, 2, 2, 3\)"):
        score_result(result, truth)
    with h5py.File(truth, "a") as file:
        file.attrs["kind"] = "alchemy"
    with pytest.raises(InputError, match=r"kind: expected kind 'orientation', 'magnet.* 'alchemy'"):
        score_result(result, truth)


def test_rand_index_of_known_partitions():
    a = np.array([0, 0, 1, 1, 2, 2])
    assert adjusted_rand_index(a, a + 7) == 1.0
    # Pairs by hand: 3 in a, 1 + 6 in b, 3 in both, 15 in all.
    b = np.array([0, 0, 1, 1, 1, 1])
    expected = 3 * 7 / 15
    assert adjusted_rand_index(a, b) == pytest.approx((3 - expected) / (5 - expected))
    assert adjusted_rand_index(np.zeros(4, int), np.zeros(4, int)) == 1.0
    assert np.isnan(adjusted_rand_index(np.zeros(0, int), np.zeros(0, int)))
    rng = np.random.default_rng(0)
    assert abs(adjusted_rand_index(*rng.integers(0, 5, (2, 4000)))) < 0.01
