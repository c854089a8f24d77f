"""The forward scattering factor f₁ near an edge, where an electron counts for less than one.

Off resonance `n_e = 2πδ / (r_e λ²)`. Near an edge of an element this is the density of *effective*
electrons: of its `Z` electrons only `f₁(E)` scatter. For a material of known formula the true
density is larger by `Σ ν Z / Σ ν f₁(E)`. The tables disagree by ten percent within some tens of eV
of an edge (vanadium pentoxide at 5468 eV: δ = 1.83e-5 after Chantler, 1.70e-5 after Henke).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.elements import Formula
from pipeline.errors import InputError

F1 = Callable[[str, float], float]
"""Symbol of the element and energy [eV] to f₁ [electrons]."""


def electrons_per_effective(formula: Formula, energy_ev: float, f1: F1) -> float:
    """True electrons for each effective one, `Σ ν Z / Σ ν f₁(E)`.

    Parameters
    ----------
    formula : of the material.
    energy_ev : at which the density was measured [eV].
    f1 : of the elements.

    Raises
    ------
    InputError : the scattering factors of the material do not add up to a positive number.
    """
    effective = sum(n * f1(symbol, energy_ev) for symbol, n in formula.atoms.items())
    if not effective > 0.0:
        raise InputError(
            f"expected a positive f1 of {formula.text} at {energy_ev:g} eV, found {effective:g}"
        )
    return formula.electrons / effective


def f1_of_file(path: Path) -> F1:
    """Scattering factors in a text file: lines `SYMBOL ENERGY_EV F1`, interpolated linearly.

    Raises
    ------
    InputError : the file cannot be read; when asked, an element or an energy that it lacks.
    """
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            symbol, energy, value = words[0], float(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise InputError(
                f"expected an element, an energy and f1, found '{line.strip()[:40]}'",
                path=path,
                field=f"line {number}",
            ) from None
        found.setdefault(symbol, []).append((energy, value))

    def f1(symbol: str, energy_ev: float) -> float:
        points = np.array(sorted(found.get(symbol, [])))
        if not len(points) or not points[0, 0] <= energy_ev <= points[-1, 0]:
            raise InputError(f"expected f1 of {symbol} at {energy_ev:g} eV, found none", path=path)
        return float(np.interp(energy_ev, points[:, 0], points[:, 1]))

    return f1


def f1_of_xraydb() -> F1:
    """Scattering factors after Chantler from the package xraydb, if it is installed.

    Raises
    ------
    InputError : it is not installed.
    """
    try:
        xraydb = importlib.import_module("xraydb")
    except ImportError:
        raise InputError(
            "the tables of xraydb are asked for, but the package is not installed; install it, or "
            "name a file of scattering factors",
            field="density.f1",
        ) from None
    from pipeline.elements import ATOMIC_NUMBER

    def f1(symbol: str, energy_ev: float) -> float:
        return float(ATOMIC_NUMBER[symbol] + xraydb.f1_chantler(symbol, energy_ev))

    return f1
