"""Composition from several energies: planted answers, with noise and with other absorbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from pipeline.analyse.chemistry import MIXED, POOR, RICH, chemical_state, energy_model
from pipeline.analyse.reference_spectra import ReferenceSpectra, load_reference_spectra
from pipeline.errors import InputError
from schemas.chemistry import Component
from schemas.recipe import ChemistrySettings

SHAPE = (24, 20, 28)
ENERGIES = np.arange(700.0, 721.0)
SETTINGS = ChemistrySettings()


def peak(centre: float) -> np.ndarray:
    step = 1.0 / (1.0 + np.exp(-(ENERGIES - centre)))
    return step + 1.5 * np.exp(-0.5 * ((ENERGIES - centre - 1.0) / 1.5) ** 2)


@pytest.fixture
def spectra() -> ReferenceSpectra:
    values = np.stack([peak(712.0), peak(708.0)])
    return ReferenceSpectra(("oxidised", "reduced"), ENERGIES, values)


def planted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Composition in steps along x, amount of matter between 1 and 2, and where it is."""
    share = np.broadcast_to(np.linspace(0.0, 1.0, 7).repeat(4), SHAPE).astype(np.float64)
    return share, rng.uniform(1.0, 2.0, SHAPE), np.ones(SHAPE, bool)


def seen(
    spectra: ReferenceSpectra,
    energies: list[float],
    share: np.ndarray,
    amount: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    return [
        (
            amount * (row[0] * share + row[1] * (1.0 - share)) + noise * rng.standard_normal(SHAPE)
        ).astype(np.float32)
        for row in spectra.at(energies)
    ]


def test_two_energies_give_the_planted_composition(spectra: ReferenceSpectra) -> None:
    rng = np.random.default_rng(0)
    share, amount, support = planted(rng)
    model = energy_model(spectra, [709.0, 713.0], SETTINGS)
    maps = seen(spectra, [709.0, 713.0], share, amount, 0.05, rng)
    found = chemical_state(maps, model, support, [0.05, 0.05], SETTINGS)
    assert found.mask.all()
    error = found.composition - share
    assert np.sqrt(np.mean(error**2)) < 0.05
    # Away from 0 and 1, where the constraint helps, the stated uncertainty is the error.
    middle = (share > 0.2) & (share < 0.8)
    stated = np.sqrt(np.mean(found.uncertainty[middle] ** 2))
    assert stated == pytest.approx(np.sqrt(np.mean(error[middle] ** 2)), rel=0.05)
    assert np.abs(np.mean(error[middle])) < 0.002
    assert any("no background" in note for note in found.notes)


def test_amounts_are_those_of_scipy(spectra: ReferenceSpectra) -> None:
    """Pure noise: every set of present components occurs."""
    three = ReferenceSpectra(
        ("a", "b", "c"), ENERGIES, np.stack([peak(712.0), peak(708.0), peak(704.0)])
    )
    energies = [705.0, 709.0, 711.0, 713.0]
    rng = np.random.default_rng(1)
    maps = [rng.standard_normal((3, 4, 5)).astype(np.float32) for _ in energies]
    settings = SETTINGS.model_copy(update={"background": "none"})
    for components in (three, ReferenceSpectra(("a", "b"), ENERGIES, three.values[:2])):
        model = energy_model(components, energies, settings)
        found = chemical_state(maps, model, np.ones((3, 4, 5), bool), [1.0] * 4, settings)
        for voxel in np.ndindex(3, 4, 5):
            expected = nnls(model.matrix, np.array([values[voxel] for values in maps]))[0]
            np.testing.assert_allclose(found.amounts[:, *voxel], expected, atol=1e-5)


@pytest.mark.parametrize("background", ["pre-edge", "offset"])
def test_other_absorbers_are_taken_off(spectra: ReferenceSpectra, background: str) -> None:
    rng = np.random.default_rng(2)
    share, amount, support = planted(rng)
    energies = [709.0, 713.0, 718.0]
    other = rng.uniform(0.5, 1.5, SHAPE).astype(np.float32)
    maps = [values + other for values in seen(spectra, energies, share, amount, 0.03, rng)]
    pre_edge = other + 0.03 * rng.standard_normal(SHAPE).astype(np.float32)
    settings = ChemistrySettings(background=background, pre_edge_exponent=0.0)
    below = 700.0 if background == "pre-edge" else None
    model = energy_model(spectra, energies, settings, pre_edge_ev=below)
    noise = [0.03] * (4 if below else 3)
    found = chemical_state(
        maps, model, support, noise, settings, pre_edge=pre_edge if below else None
    )
    error = found.composition - share
    middle = (share > 0.2) & (share < 0.8)
    assert np.abs(error[middle].mean()) < 0.01
    assert np.sqrt(np.mean(error[middle] ** 2)) < 0.1
    stated = np.sqrt(np.mean(found.uncertainty[middle] ** 2))
    assert stated == pytest.approx(np.sqrt(np.mean(error[middle] ** 2)), rel=0.1)
    without = SETTINGS.model_copy(update={"background": "none"})
    biased = chemical_state(
        maps, energy_model(spectra, energies, without), support, [0.03] * 3, without
    )
    assert np.abs((biased.composition - share)[middle]).mean() > 0.05


def test_the_background_is_chosen_by_what_there_is(spectra: ReferenceSpectra) -> None:
    assert energy_model(spectra, [709.0, 713.0], SETTINGS).background == "none"
    assert energy_model(spectra, [709.0, 713.0, 718.0], SETTINGS).background == "offset"
    model = energy_model(spectra, [709.0, 713.0], SETTINGS, pre_edge_ev=690.0)
    assert model.background == "pre-edge"
    np.testing.assert_allclose(model.pre_edge_scale, [(690 / 709) ** 3, (690 / 713) ** 3])


def test_histogram_shows_two_phases_with_their_widths(spectra: ReferenceSpectra) -> None:
    rng = np.random.default_rng(3)
    share = np.where(rng.random(SHAPE) < 0.4, 0.1, 0.85)
    amount, support = np.ones(SHAPE), np.ones(SHAPE, bool)
    support[0] = False
    model = energy_model(spectra, [709.0, 713.0], SETTINGS)
    maps = seen(spectra, [709.0, 713.0], share, amount, 0.05, rng)
    found = chemical_state(maps, model, support, [0.05, 0.05], SETTINGS)
    assert found.mixture is not None
    np.testing.assert_allclose(found.mixture.mean, [0.1, 0.85], atol=0.005)
    np.testing.assert_allclose(found.mixture.weight, [0.4, 0.6], atol=0.02)
    true = [np.std(found.composition[support & (share == s)] - s) for s in (0.1, 0.85)]
    np.testing.assert_allclose(found.mixture.sigma, true, rtol=0.1)
    assert np.isnan(found.composition[0]).all()
    np.testing.assert_allclose(found.shares[[0, 2]], [0.4, 0.6], atol=0.02)
    assert set(np.unique(found.phase[support])) <= {POOR, MIXED, RICH}


def test_energies_that_say_nothing_are_refused(spectra: ReferenceSpectra) -> None:
    with pytest.raises(InputError, match="at least 2 energies to tell oxidised and reduced apart"):
        energy_model(spectra, [709.0], SETTINGS)
    with pytest.raises(InputError, match=r"720, 719\.5 eV do not tell .* condition number of at"):
        energy_model(spectra, [720.0, 719.5], SETTINGS)
    with pytest.raises(InputError, match="expected spectra that reach 730 eV, found 700 to 720"):
        energy_model(spectra, [709.0, 730.0], SETTINGS)
    with pytest.raises(InputError, match="and an offset apart, found 2"):
        energy_model(spectra, [709.0, 713.0], ChemistrySettings(background="offset"))
    with pytest.raises(InputError, match="expected pre_edge_ev in the beamtime's chemistry"):
        energy_model(spectra, [709.0, 713.0], ChemistrySettings(background="pre-edge"))


def test_empty_and_bad_voxels(spectra: ReferenceSpectra) -> None:
    model = energy_model(spectra, [709.0, 713.0], SETTINGS)
    maps = [np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)]
    empty = chemical_state(maps, model, np.zeros(SHAPE, bool), [0.1, 0.1], SETTINGS)
    assert not empty.mask.any()
    assert empty.notes[-1] == "no voxel holds enough of the components for a composition"
    rng = np.random.default_rng(4)
    share, amount, support = planted(rng)
    maps = seen(spectra, [709.0, 713.0], share, amount, 0.05, rng)
    maps[1][5] = np.nan
    found = chemical_state(maps, model, support, [0.05, 0.05], SETTINGS)
    assert not found.mask[5].any()
    assert found.mask[[4, 6]].all()


TEXT = "# Energy  Fe2 Fe3\n# ----\n700 0 0\n710 1.0 0.25\n720 1 1\n"


def test_spectra_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "spectra.txt"
    path.write_text(TEXT)
    wanted = [Component(name="Fe3"), Component(name="reduced", column=2)]
    spectra = load_reference_spectra(path, wanted)
    assert spectra.names == ("Fe3", "reduced")
    np.testing.assert_allclose(spectra.at([705.0, 715.0]), [[0.125, 0.5], [0.625, 1.0]])
    path.write_text("energy,iron two,iron three\n710,1,0\n700,0,0\n")
    spectra = load_reference_spectra(path, [Component(name="iron two")])
    np.testing.assert_allclose(spectra.at([705.0]), [[0.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected columns of numbers, energy first, found none"),
        ("# e a b\n1 2 3\n2 3\n", "line 3: expected 3 numbers, found 2"),
        ("# e a b\n1 2 3\n1 3 4\n", "column 1: expected two or more different energies"),
        ("# e a b\n1 2 3\n2 3 4\n", "component 'Fe3': expected one of the columns a, b, found"),
        ("# e Fe3 b\n1 nan 3\n2 3 4\n", "expected finite numbers in the columns"),
    ],
)
def test_bad_spectra_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spectra.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_reference_spectra(path, [Component(name="Fe3")])
    with pytest.raises(InputError, match="file does not exist"):
        load_reference_spectra(tmp_path / "none.txt", [])


FILE = Path(__file__).parents[3] / "../shared/data/fe-k-edge-references/FeLibNov2021.nor"


@pytest.mark.skipif(not FILE.is_file(), reason="../shared/data/fe-k-edge-references is not there")
def test_published_iron_spectra() -> None:
    wanted = [
        Component(name="FePO4", column="Fe(III)PO4"),
        Component(name="LiFePO4", column="LiFe(II)PO4"),
    ]
    spectra = load_reference_spectra(FILE, wanted)
    assert spectra.values.shape == (2, 196)
    # Half edges of the published table.
    for row, expected in zip(spectra.values, (7125.56, 7120.63), strict=True):
        half = spectra.energies_ev[int(np.argmax(row > 0.5))]
        assert half == pytest.approx(expected, abs=0.36)  # the step of the table
    model = energy_model(spectra, [7126.0, 7133.0], SETTINGS, pre_edge_ev=7100.0)
    assert model.condition < 10
