"""Numbers about grains, and products of degenerate maps."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.grain_statistics import grain_statistics, rank_correlation
from pipeline.analyse.grains import segment_grains
from pipeline.io.product_files import load_product, save_product
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M
from schemas.recipe import GrainSettings

PIXEL = 31e-9


def _row_of_blocks(edges, pixel=PIXEL, density=None):
    """Blocks of these lengths in a row along x, axes 30 degrees apart in turn."""
    turn = np.radians(np.repeat(30.0 * np.arange(len(edges)), edges))
    axis = np.zeros((3, 6, 6, len(turn)), np.float32)
    axis[0], axis[1] = np.cos(turn), np.sin(turn)
    mask = np.ones(axis.shape[1:], bool)
    electrons = None if density is None else np.broadcast_to(np.repeat(density, edges), mask.shape)
    electrons = None if electrons is None else np.ascontiguousarray(electrons, np.float32)
    return segment_grains(
        axis, mask, GrainSettings(), pixel_size_m=pixel, electron_density=electrons
    )


def test_neighbours_and_contacts():
    found = grain_statistics(_row_of_blocks([9, 8, 7]))
    assert found.neighbours.tolist() == [[1, 2], [2, 3]]
    # The rim is rounded by a tenth of a voxel.
    np.testing.assert_allclose(found.contact_m2, 36 * PIXEL**2, rtol=0.08)
    product = found.as_product()
    assert product.tables["grains"].columns["neighbours"].tolist() == [1, 2, 1]
    assert product.curves["neighbours"].lines["grains"].tolist() == [0, 2, 1]
    for line in product.curves["diameter"].lines.values():
        assert line.sum() == pytest.approx(100.0)
    assert "density" not in product.curves
    assert product.notes == ()


def test_density_that_goes_with_the_size_is_seen():
    edges = [12, 11, 10, 9, 8, 7]
    rising = grain_statistics(_row_of_blocks(edges, density=0.05 * np.array(edges)))
    value, error = rising.correlations["diameter"]
    assert value == pytest.approx(1.0)
    assert error < 0.01
    figure = rising.as_product().figures["grain_density_diameter_correlation"]
    assert figure.value == pytest.approx(1.0)
    same = grain_statistics(_row_of_blocks(edges, density=np.full(6, 0.8)))
    assert "diameter" not in same.correlations
    assert "Fewer than 5 different grains" in same.as_product().notes[0]


def test_rank_correlation_of_independent_values_is_within_its_error():
    rng = np.random.default_rng(0)
    found = [rank_correlation(*rng.standard_normal((2, 40))) for _ in range(200)]
    values, errors = np.array(found).T
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.15)
    assert rank_correlation(np.zeros(9), np.arange(9.0)) is None


def test_lengths_are_in_voxels_where_their_size_is_not_known():
    product = grain_statistics(_row_of_blocks([9, 8], pixel=UNKNOWN_PIXEL_SIZE_M)).as_product()
    assert product.curves["diameter"].x_label == "equivalent diameter [voxel]"


@pytest.mark.parametrize(("edges", "note"), [([9], "There is one grain only."), ([], "no voxel")])
def test_degenerate_maps_give_a_valid_product(tmp_path, edges, note):
    product = grain_statistics(_row_of_blocks(edges)).as_product()
    assert note in product.notes[0]
    assert len(product.tables["grains"].columns["label"]) == len(edges)
    assert len(product.tables["neighbours"].columns["first_grain"]) == 0
    save_product(tmp_path, product)
    assert load_product(tmp_path).notes == product.notes
