"""Units as files of others spell them, as factors to metre, electronvolt and degree."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import constants as codata

from pipeline.errors import InputError

LENGTH_M: Mapping[str, float] = {
    "m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0,
    "cm": 1e-2, "mm": 1e-3, "millimeter": 1e-3, "millimetre": 1e-3,
    "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "micrometer": 1e-6,
    "micrometre": 1e-6, "nm": 1e-9, "nanometer": 1e-9, "nanometre": 1e-9,
    "angstrom": 1e-10, "angstroms": 1e-10, "å": 1e-10, "pm": 1e-12,
}  # fmt: skip

ENERGY_EV: Mapping[str, float] = {
    "ev": 1.0, "electronvolt": 1.0, "kev": 1e3, "kiloelectronvolt": 1e3,
    "gev": 1e9, "j": 1.0 / codata.e, "joule": 1.0 / codata.e, "joules": 1.0 / codata.e,
}  # fmt: skip

ANGLE_DEG: Mapping[str, float] = {
    "deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0,
    "rad": math.degrees(1.0), "radian": math.degrees(1.0), "radians": math.degrees(1.0),
    "mrad": math.degrees(1e-3),
}  # fmt: skip


def factor(unit: str, table: Mapping[str, float]) -> float:
    """Factor from `unit` to the unit of a table.

    Raises
    ------
    InputError : the table does not know the unit. MeV is in none of them: files mean meV or MeV.
    """
    known = unit.strip().lower()
    if known not in table:
        raise InputError(f"expected a unit such as {', '.join(list(table)[:6])}, found '{unit}'")
    return table[known]
