"""The figures to quote, from products whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.axes import axis_tensor
from pipeline.analyse.grains import segment_grains
from pipeline.analyse.summary import summarise
from pipeline.io.products import (
    UNKNOWN_PIXEL_SIZE_M,
    DensityMap,
    MagnetisationMap,
    OrientationMap,
    ResolutionCurve,
    ResultData,
    SeriesAlignment,
    SeriesQuality,
)
from schemas.recipe import GrainSettings

SHAPE = (12, 12, 12)
PIXEL = 30e-9


def _orientation(axis: np.ndarray) -> OrientationMap:
    ones = np.ones(SHAPE, np.float32)
    return OrientationMap(axis_tensor(axis), axis, 2e-3 * ones, ones, ones > 0, 1.5 * ones)


def test_one_crystal():
    axis = np.zeros((3, *SHAPE), np.float32)
    axis[1] = 1.0
    data = ResultData(
        "crystal",
        PIXEL,
        orientation=_orientation(axis),
        density=DensityMap(
            np.full(SHAPE, 0.82, np.float32),
            np.ones(SHAPE, np.uint8),
            ("V2O5",),
            np.array([[0.74, 0.9]]),
            noise=0.01,
        ),
        grains=segment_grains(axis, np.ones(SHAPE, bool), GrainSettings(), pixel_size_m=PIXEL),
        resolution={"density": ResolutionCurve(*[np.ones(3)] * 4, 44e-9, 60e-9)},
        residuals={"orientation": np.array([1.0, 0.25]), "empty": np.zeros(0)},
        alignment={"a": SeriesAlignment(np.full((4, 2), 3.0), np.arange(4.0))},
    )
    figures = summarise(data)
    values = {name: figure.value for name, figure in figures.items()}
    assert values["voxel_size"] == pytest.approx(30)
    assert values["orientation_voxels"] == 12**3
    assert values["dichroic_contrast"] == pytest.approx(2.0)
    assert values["orientation_uncertainty"] == pytest.approx(1.5)
    assert values["texture"] == pytest.approx(1.0)
    assert values["electron_density_v2o5"] == pytest.approx(0.82)
    assert values["volume_v2o5"] == pytest.approx(0.36**3)
    assert values["grains"] == 1
    assert values["resolution_density"] == pytest.approx(44)
    assert values["residual_orientation"] == 0.25
    assert values["alignment_shift_a"] == pytest.approx(3.0)
    assert "residual_empty" not in values
    assert figures["electron_density_v2o5"].unit == "e/Å³"
    assert all(figure.description.endswith(".") for figure in figures.values())


def test_projections_proposed_for_exclusion_are_counted():
    def quality(outliers):
        n = len(outliers)
        nothing = np.zeros((n, 5))
        reasons = tuple("blur" if out else "" for out in outliers)
        index = np.arange(n)
        return SeriesQuality(np.arange(n) * 1.0, index, nothing, nothing, outliers, reasons, (9,))

    bad = quality(np.array([False, True, True]))
    good = quality(np.zeros(3, bool))
    figures = summarise(ResultData("pillar", PIXEL, quality={"a": bad, "b": good}))
    assert figures["frames_proposed_for_exclusion_a"].value == 2
    assert figures["frames_proposed_for_exclusion_b"].value == 0
    assert bad.proposal == "exclude: [1, 2, 9]"
    assert good.proposal == ""


def test_axes_without_preference_have_no_texture():
    axis = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    figures = summarise(ResultData("powder", PIXEL, orientation=_orientation(axis)))
    assert abs(figures["texture"].value) < 0.06  # 1 / sqrt(n)


def test_products_with_nothing_in_them():
    nothing = np.zeros(SHAPE, bool)
    axis = np.zeros((3, *SHAPE), np.float32)
    grains = segment_grains(axis, nothing, GrainSettings(), pixel_size_m=PIXEL)
    data = ResultData(
        "empty",
        UNKNOWN_PIXEL_SIZE_M,
        orientation=_orientation(axis),
        magnetisation=MagnetisationMap(axis, nothing),
        grains=grains,
    )
    values = {name: figure.value for name, figure in summarise(data).items()}
    assert values == {"orientation_voxels": 0, "magnetisation_voxels": 0, "grains": 0}
