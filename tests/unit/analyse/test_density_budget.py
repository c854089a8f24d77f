"""What a density may be wrong by: each term is found where it is planted, and no other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.analyse.density import Materials, block_error, material_densities
from pipeline.analyse.density_budget import air_offset, density_budget
from pipeline.analyse.density_components import fit_components, material_table
from pipeline.analyse.mixture import fit_mixture
from schemas.beamtime import Material

SHAPE = (48, 40, 48)
WINDOWS = np.array([[0.5, 1.2]])


def body() -> np.ndarray:
    z, y, x = np.indices(SHAPE) - np.array([24, 20, 24])[:, None, None, None]
    return z**2 + x**2 + 0 * y < 14**2


def budget(density: np.ndarray, halves: tuple = ()):
    inside = body()
    known = Materials(inside.astype(np.uint8), ("oxide",), WINDOWS)
    return density_budget(density.astype(np.float32), known, inside, halves=halves)[0]


def test_nothing_is_uncertain_without_errors() -> None:
    found = budget(0.8 * body())
    assert found.terms == pytest.approx((0.0, 0.0, 0.0, 0.0), abs=1e-6)


def test_each_term_is_what_was_planted() -> None:
    clean = 0.8 * body()
    assert budget(clean + 0.003).air == pytest.approx(0.003, rel=1e-3)
    halves = tuple((clean + d).astype(np.float32) for d in (0.004, -0.002))
    assert budget(clean, halves).halves == pytest.approx(0.003, rel=1e-3)
    depth = ndimage.distance_transform_edt(body())
    cupped = clean - 0.001 * depth * body()
    # A layer less raises the median depth by about a third of a voxel in a round body.
    assert 0.0001 < budget(cupped).edge < 0.001
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(SHAPE)
    found = budget(noisy)
    interior = ndimage.binary_erosion(body(), iterations=2, border_value=1)
    assert found.scatter == pytest.approx(0.05 / np.sqrt(interior.sum()), rel=0.5)
    assert found.total == pytest.approx(np.linalg.norm(found.terms))
    assert found.systematic < found.total


def test_scatter_of_correlated_errors_is_that_of_their_mean() -> None:
    """Errors as wide as a block: plain blocks of four would say half of it."""
    rng = np.random.default_rng(1)
    inside = np.ones((64, 64, 64), bool)
    means, stated = [], []
    for _ in range(12):
        error = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 3.0, mode="wrap")
        means.append(error.mean())
        stated.append(block_error(error.astype(np.float32), inside))
    true = np.sqrt(np.mean(np.square(means)))
    assert 0.6 < np.mean(stated) / true < 2.0


def test_few_voxels_count_as_one_value() -> None:
    values = np.random.default_rng(2).standard_normal((8, 8, 8)).astype(np.float32)
    few = np.zeros(values.shape, bool)
    few[3, 3, :5] = True
    assert block_error(values, few) == pytest.approx(values[few].std())
    assert np.isnan(block_error(values, np.zeros(values.shape, bool)))


def test_no_air_and_no_interior() -> None:
    everywhere = np.ones(SHAPE, bool)
    assert air_offset(np.ones(SHAPE, np.float32), everywhere) == 0.0
    none = Materials(np.zeros(SHAPE, np.uint8), ("absent",), WINDOWS)
    found = density_budget(np.ones(SHAPE, np.float32), none, everywhere)[0]
    assert np.isnan(found.scatter)
    assert (
        density_budget(
            np.ones(SHAPE, np.float32), Materials(none.labels, (), WINDOWS[:0]), everywhere
        )
        == []
    )


def test_systematic_part_enters_the_uncertainty() -> None:
    density = (0.8 * body() + 0.01 * np.random.default_rng(3).standard_normal(SHAPE)).astype("f4")
    known = Materials(body().astype(np.uint8), ("oxide",), WINDOWS)
    alone = material_densities(density, known)[0].uncertainty
    both = material_densities(density, known, systematic=[0.003])[0].uncertainty
    assert both == pytest.approx(np.hypot(alone, 0.003))


def test_components_of_two_materials_of_very_different_volume() -> None:
    rng = np.random.default_rng(4)
    density = np.full((40, 40, 40), 0.82)
    density[:6, :20, :20] = 0.34
    density += 0.05 * rng.standard_normal(density.shape)
    found = fit_components(density.astype(np.float32), np.ones(density.shape, bool), 0.05)
    assert found.mixture is not None
    np.testing.assert_allclose(found.mixture.mean, [0.34, 0.82], atol=0.005)
    np.testing.assert_allclose(found.mixture.sigma, 0.05, rtol=0.05)
    np.testing.assert_allclose(found.mixture.weight[0], 2400 / 64000, rtol=0.05)
    # Where both are equally probable: nearer to the rarer one than the middle.
    assert 0.5 < found.windows[0, 1] < 0.58
    product = found.as_product()
    assert product.curves["histogram"].lines.keys() == {
        "measured",
        "component 1",
        "component 2",
        "shared voxels",
        "sum",
    }
    assert product.figures["density_component_2"].value == pytest.approx(0.82, abs=0.005)


@pytest.mark.parametrize("values", [np.zeros(SHAPE), np.full(SHAPE, np.nan)])
def test_components_of_nothing(values: np.ndarray) -> None:
    found = fit_components(values.astype(np.float32), np.ones(SHAPE, bool))
    assert found.mixture is None
    assert len(found.notes) == 1
    assert len(found.as_product().tables["components"].columns["mean"]) == 0


def test_shared_voxels_do_not_widen_a_component() -> None:
    rng = np.random.default_rng(6)
    values = np.concatenate([rng.normal(0.8, 0.01, 30000), rng.uniform(0.0, 0.9, 6000)])
    counts, edges = np.histogram(values, 200, (0.0, 0.9))
    plain = fit_mixture(counts, edges, np.array([0.8]))
    found = fit_mixture(counts, edges, np.array([0.8]), background=True)
    assert plain is not None
    assert found is not None
    assert plain.sigma[0] > 0.1
    assert found.mean[0] == pytest.approx(0.8, abs=1e-3)
    assert found.sigma[0] == pytest.approx(0.01, rel=0.05)
    assert found.background == pytest.approx(1 / 6, rel=0.05)
    assert found.background + found.weight.sum() == pytest.approx(1.0)


def test_mixture_of_overlapping_gaussians() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(0.3, 0.1, 40000), rng.normal(0.6, 0.05, 20000)])
    counts, edges = np.histogram(values, 120, (-0.2, 1.0))
    found = fit_mixture(counts, edges, np.array([0.2, 0.8]))
    assert found is not None
    np.testing.assert_allclose(found.mean, [0.3, 0.6], atol=0.005)
    np.testing.assert_allclose(found.sigma, [0.1, 0.05], rtol=0.03)
    np.testing.assert_allclose(found.weight, [2 / 3, 1 / 3], rtol=0.03)
    assert found.separation == pytest.approx(np.sqrt(2) * 0.3 / np.hypot(0.1, 0.05), rel=0.05)
    assert found.counts_in(edges).sum() == pytest.approx(values.size, rel=1e-3)
    assert fit_mixture(np.zeros(10), np.linspace(0, 1, 11), np.array([0.5])) is None


def test_formulas_give_mass_density_and_true_electrons() -> None:
    density = (0.8 * body()).astype(np.float32)
    known = Materials(body().astype(np.uint8), ("oxide",), WINDOWS)
    rows = material_densities(density, known)
    terms = np.array([[0.001, 0.002, 0.0, 0.0]])
    material = Material(
        name="oxide", electron_density_min=0.5, electron_density_max=1.2, formula="V2O5"
    )
    tables = material_table(rows, terms, [material], 5468.0, lambda symbol, energy: 20.0)
    assert tables["uncertainty"].columns["total"][0] == pytest.approx(np.hypot(0.001, 0.002))
    # 86 electrons of which 7 atoms of 20 scatter.
    assert tables["formulas"].columns["density"][0] == pytest.approx(0.8 * 86 / 140, rel=1e-6)
    plain = material_table(rows, terms, [material], 5468.0)["formulas"].columns
    # 0.8 e/A^3 of 86 electrons and 181.88 g/mol.
    assert plain["mass_density"][0] == pytest.approx(0.8e30 / 86 * 0.18188 / 6.02214e23, rel=1e-4)
    assert "formulas" not in material_table(rows, terms, [], 5468.0)
