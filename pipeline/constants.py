"""CODATA values and the conversions built on them: the only place for both."""

from __future__ import annotations

from scipy import constants as codata

CLASSICAL_ELECTRON_RADIUS_M: float = codata.physical_constants["classical electron radius"][0]
"""r_e [m]."""

ELECTRON_VOLT_METRE: float = codata.h * codata.c / codata.e
"""Product of photon energy [eV] and wavelength [m]."""

ANGSTROM_M = 1e-10


def wavelength_m(energy_ev: float) -> float:
    """Wavelength [m] of photons of `energy_ev` [eV]."""
    return ELECTRON_VOLT_METRE / energy_ev


def density_per_radian(energy_ev: float, voxel_size_m: float) -> float:
    """Electron density [e/Å³] per radian of phase and voxel, off resonance.

    From `phase = -(2π/λ) δ L` and `n_e = 2πδ / (r_e λ²)`: `n_e = -phase / (r_e λ L)`. Multiply
    the *negative* phase per voxel with the returned factor.
    """
    per_cubic_metre = 1.0 / (CLASSICAL_ELECTRON_RADIUS_M * wavelength_m(energy_ev) * voxel_size_m)
    return per_cubic_metre * ANGSTROM_M**3
