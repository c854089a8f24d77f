"""What the energies of a beamtime can tell apart, known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.analyse.chemistry import EnergyModel, energy_model
from pipeline.analyse.reference_spectra import load_reference_spectra
from schemas.beamtime import Beamtime
from schemas.chemistry import Chemistry
from schemas.recipe import ChemistrySettings


def model_of(
    chemistry: Chemistry,
    references: Path,
    energies_ev: Sequence[float],
    settings: ChemistrySettings,
    *,
    absorbing: bool,
) -> EnergyModel:
    """Linear system of a beamtime's energies.

    Parameters
    ----------
    chemistry : components and pre-edge energy.
    references : the file of reference spectra.
    energies_ev : of all series, the pre-edge one among them [eV].
    settings : background and the largest condition number.
    absorbing : whether optical densities were measured, not phases.

    Raises
    ------
    InputError : the file or the energies do not serve.
    """
    # With a fitted offset, or none, the pre-edge series is an energy as any other.
    below = chemistry.pre_edge_ev if settings.background in ("auto", "pre-edge") else None
    return energy_model(
        load_reference_spectra(references, chemistry.components),
        [energy for energy in energies_ev if energy != below],
        settings,
        pre_edge_ev=below,
        quantity="absorption" if absorbing else "phase",
    )


def check_chemistry(beamtime: Beamtime, folder: Path, settings: ChemistrySettings) -> None:
    """See that the energies tell the components apart, where a beamtime asks for that.

    Raises
    ------
    InputError : they do not, or the reference spectra cannot be used.
    """
    chemistry = beamtime.chemistry
    if chemistry is None or (beamtime.products and "chemistry" not in beamtime.products):
        return
    series = beamtime.energy_series()
    model_of(
        chemistry,
        folder / chemistry.references,
        sorted({item.energy.known_ev for item in series}),
        settings,
        absorbing=any(item.absorbing for item in series),
    )
