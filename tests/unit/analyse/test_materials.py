"""Materials in numbers: planted densities and volumes come out, nothing gives an empty product."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.materials import material_statistics
from pipeline.io.products import DensityMap

PIXEL = 20e-9


def planted() -> DensityMap:
    rng = np.random.default_rng(3)
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[4:26, 4:26, 4:15] = 1
    labels[4:26, 4:26, 15:26] = 2
    true = np.array([0.0, 0.82, 1.2])[labels]
    noisy = (true + 0.02 * rng.standard_normal(true.shape)).astype(np.float32)
    windows = np.array([[0.6, 1.0], [1.0, 1.5]])
    return DensityMap(noisy, labels, ("V2O5", "dense"), windows, noise=0.02)


def test_density_volume_and_histogram_are_those_planted():
    found = material_statistics(planted(), PIXEL)
    product = found.as_product()
    table = product.tables["materials"].columns
    assert table["material"].tolist() == ["V2O5", "dense"]
    assert table["density"] == pytest.approx([0.82, 1.2], abs=0.002)
    assert table["volume"] == pytest.approx([22 * 22 * 11 * PIXEL**3] * 2)
    histogram = product.curves["histogram"]
    assert histogram.lines["V2O5"].sum() == 22 * 22 * 11
    assert histogram.x[np.argmax(histogram.lines["dense"])] == pytest.approx(1.2, abs=0.02)
    # One voxel in a thousand lies outside of the plot.
    assert 0.998 * 30**3 <= histogram.lines["all voxels"].sum() <= 30**3


def test_no_material_is_an_empty_product_that_says_so():
    zero = np.zeros((4, 4, 4), np.float32)
    empty = DensityMap(zero, zero.astype(np.uint8), (), np.zeros((0, 2)))
    product = material_statistics(empty, PIXEL).as_product()
    assert product.notes == ("No material stands out from air.",)
    assert len(product.tables["materials"].columns["density"]) == 0
    nan = DensityMap(np.full_like(zero, np.nan), zero.astype(np.uint8), (), np.zeros((0, 2)))
    assert material_statistics(nan, 1.0).as_product().tables["materials"].units["volume"] == "voxel"
