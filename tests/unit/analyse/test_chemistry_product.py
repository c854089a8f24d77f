"""The chemical product, and its validation against an independent map."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.chemistry import chemical_state, energy_model
from pipeline.analyse.chemistry_product import chemistry_product
from pipeline.analyse.particles import measure_particles
from pipeline.analyse.reference_spectra import ReferenceSpectra
from pipeline.analyse.validation import compare_projection
from pipeline.errors import InputError
from pipeline.io.product import Product
from schemas.recipe import ChemistrySettings

SHAPE = (30, 26, 32)
SETTINGS = ChemistrySettings()
SPECTRA = ReferenceSpectra(
    ("FePO4", "LiFePO4"), np.array([700.0, 710.0, 720.0]), np.array([[0, 0.3, 1.0], [0, 1.0, 0.6]])
)


def sample() -> tuple[np.ndarray, np.ndarray]:
    """Amounts of two components in nine balls, each of one composition."""
    z, y, x = np.indices(SHAPE)
    amounts = np.zeros((2, *SHAPE), np.float32)
    for k in range(9):
        cz, cy, cx = 6 + 9 * (k // 3), 13 + 2 * (k % 2), 5 + 10 * (k % 3)
        inside = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 4.2**2
        amounts[0][inside], amounts[1][inside] = k / 8, 1 - k / 8
    return amounts, amounts.sum(axis=0) > 0


def product(support: np.ndarray, amounts: np.ndarray) -> Product:
    model = energy_model(SPECTRA, [710.0, 720.0], SETTINGS)
    rng = np.random.default_rng(0)
    maps = [
        (np.tensordot(row, amounts, 1) + 0.02 * rng.standard_normal(SHAPE)).astype(np.float32)
        for row in model.matrix
    ]
    state = chemical_state(maps, model, support, [0.02, 0.02], SETTINGS)
    total = state.amounts.sum(axis=0)
    particles = measure_particles(
        state.mask, state.composition, total, state.uncertainty, SETTINGS, 1e-8
    )
    comparison = compare_projection(state.amounts, seen(amounts, 0.0))
    return chemistry_product(state, particles, 1e-8, comparison)


def seen(amounts: np.ndarray, angle: float) -> np.ndarray:
    """Composition along the beam, at 0 or 90 degrees: R_y turns z to x."""
    turned = amounts
    if angle == 90.0:
        # Lab x is sample z, lab z is minus sample x; made odd so that the centre stays.
        turned = np.pad(amounts, [(0, 0), (0, 1), (0, 0), (0, 1)]).transpose(0, 3, 2, 1)
    first, total = turned[0].sum(axis=0), turned.sum(axis=(0, 1))
    return np.where(total > 0.5, first / np.maximum(total, 1e-9), np.nan)


def test_every_part_of_the_product() -> None:
    amounts, support = sample()
    made = product(support, amounts)
    assert set(made.maps) == {
        "composition",
        "composition_uncertainty",
        "phase",
        "particle",
        "amount_fepo4",
        "amount_lifepo4",
    }
    assert {item.values.shape for item in made.maps.values()} == {SHAPE}
    assert made.figures["particles"].value == 9
    assert made.figures["active_fraction_15"].value == pytest.approx(7 / 9)
    assert made.figures["active_fraction_15"].uncertainty == pytest.approx(0.14, abs=0.02)
    assert made.figures["composition_mean"].value == pytest.approx(0.5, abs=0.01)
    assert made.figures["validation_close"].value > 0.95
    assert made.figures["validation_r_factor"].value < 0.05
    assert set(made.curves) == {
        "composition",
        "validation",
        "active_by_volume",
        "active_by_facet_area",
        "active_by_thickness",
    }
    for curve in made.curves.values():
        assert all(line.shape == curve.x.shape for line in curve.lines.values())
    for table in made.tables.values():
        assert table.columns.keys() == table.units.keys()
    np.testing.assert_allclose(
        sorted(made.tables["particles"].columns["composition"]), np.arange(9) / 8, atol=0.02
    )


def test_an_empty_sample_is_a_valid_product() -> None:
    amounts, support = sample()
    made = product(np.zeros_like(support), amounts)
    assert "no voxel holds enough of the components for a composition" in made.notes
    assert "no particle is large enough to be measured" in made.notes
    assert "the independent map and the sample have no pixels in common" in made.notes
    assert made.figures["composition_voxels"].value == 0
    assert len(made.tables["particles"].columns["label"]) == 0


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_projection_agrees_with_a_map_that_is_displaced(angle: float) -> None:
    amounts, _ = sample()
    reference = np.roll(seen(amounts, angle), (2, -3), axis=(0, 1))
    found = compare_projection(amounts, reference, angle)
    assert found.shift_px == pytest.approx((2.0, -3.0), abs=0.3)
    assert found.r_factor < 0.05
    assert found.close > 0.95
    wrong = compare_projection(amounts[::-1], reference, angle)
    assert wrong.r_factor > 0.3
    assert wrong.close < 0.5


def test_a_volume_is_no_map() -> None:
    amounts, _ = sample()
    with pytest.raises(InputError, match=r"expected a map \(ny, nx\), found shape"):
        compare_projection(amounts, amounts[0])
