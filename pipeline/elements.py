"""Elements and formulas: how many electrons a formula unit has, and what it weighs.

Standard atomic weights, abridged: Prohaska et al., Pure Appl. Chem. 94, 573 (2022),
doi 10.1515/pac-2019-0603; the mass number of the longest-lived isotope for elements without one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import constants as codata

from pipeline.errors import InputError

_TABLE = """
H 1.008 He 4.0026 Li 6.94 Be 9.0122 B 10.81 C 12.011 N 14.007 O 15.999 F 18.998 Ne 20.180 Na
22.990 Mg 24.305 Al 26.982 Si 28.085 P 30.974 S 32.06 Cl 35.45 Ar 39.95 K 39.098 Ca 40.078 Sc
44.956 Ti 47.867 V 50.942 Cr 51.996 Mn 54.938 Fe 55.845 Co 58.933 Ni 58.693 Cu 63.546 Zn 65.38
Ga 69.723 Ge 72.630 As 74.922 Se 78.971 Br 79.904 Kr 83.798 Rb 85.468 Sr 87.62 Y 88.906 Zr
91.224 Nb 92.906 Mo 95.95 Tc 97 Ru 101.07 Rh 102.91 Pd 106.42 Ag 107.87 Cd 112.41 In 114.82 Sn
118.71 Sb 121.76 Te 127.60 I 126.90 Xe 131.29 Cs 132.91 Ba 137.33 La 138.91 Ce 140.12 Pr 140.91
Nd 144.24 Pm 145 Sm 150.36 Eu 151.96 Gd 157.25 Tb 158.93 Dy 162.50 Ho 164.93 Er 167.26 Tm 168.93
Yb 173.05 Lu 174.97 Hf 178.49 Ta 180.95 W 183.84 Re 186.21 Os 190.23 Ir 192.22 Pt 195.08 Au
196.97 Hg 200.59 Tl 204.38 Pb 207.2 Bi 208.98 Po 209 At 210 Rn 222 Fr 223 Ra 226 Ac 227 Th
232.04 Pa 231.04 U 238.03
"""

_WORDS = _TABLE.split()

ATOMIC_NUMBER: Mapping[str, int] = {symbol: z for z, symbol in enumerate(_WORDS[::2], start=1)}

ATOMIC_WEIGHT: Mapping[str, float] = {
    symbol: float(weight) for symbol, weight in zip(_WORDS[::2], _WORDS[1::2], strict=True)
}
"""[g/mol]."""


@dataclass(frozen=True)
class Formula:
    """A chemical formula.

    Attributes
    ----------
    text : as it was given.
    atoms : symbol -> number in a formula unit.
    """

    text: str
    atoms: Mapping[str, float]

    @property
    def electrons(self) -> float:
        """Electrons of a formula unit."""
        return sum(n * ATOMIC_NUMBER[symbol] for symbol, n in self.atoms.items())

    @property
    def mass_kg(self) -> float:
        """Mass of a formula unit [kg]."""
        grams = sum(n * ATOMIC_WEIGHT[symbol] for symbol, n in self.atoms.items())
        return float(grams * 1e-3 / codata.N_A)

    def mass_density(self, electron_density: float) -> float:
        """Mass density [kg/m³] of a material of so many electrons [e/Å³]."""
        return electron_density * 1e30 / self.electrons * self.mass_kg

    def atom_density(self, symbol: str, electron_density: float) -> float:
        """Atoms of one element [1/m³] in a material of so many electrons [e/Å³]."""
        return electron_density * 1e30 / self.electrons * self.atoms.get(symbol, 0.0)


def parse_formula(text: str, *, field: str | None = None) -> Formula:
    """Read a formula such as `V2O5`, `LiFePO4` or `Li0.5FePO4`, without brackets.

    Raises
    ------
    InputError : anything else than symbols of elements up to uranium and numbers above 0.
    """
    atoms: dict[str, float] = {}
    position = 0
    for match in re.finditer(r"([A-Z][a-z]?)(\d*\.?\d*)", text):
        symbol, number = match.groups()
        if match.start() != position or symbol not in ATOMIC_NUMBER or number == ".":
            break
        count = float(number) if number else 1.0
        if count <= 0.0:
            break
        atoms[symbol] = atoms.get(symbol, 0.0) + count
        position = match.end()
    if position != len(text) or not atoms:
        raise InputError(f"expected a formula such as V2O5, found '{text}'", field=field)
    return Formula(text, atoms)


def element_of_edge(edge: str | None) -> str | None:
    """Element that an edge such as `V K` or `Fe L3` belongs to; None where it names none."""
    words = (edge or "").replace("-", " ").split()
    return words[0] if words and words[0] in ATOMIC_NUMBER else None
