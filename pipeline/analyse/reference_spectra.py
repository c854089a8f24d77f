"""Reference spectra: what one unit of each component absorbs at each energy.

A text file with the energy in its first column, such as Athena and other programs of X-ray
absorption write (XDI, `.nor`, CSV).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from schemas.chemistry import Component

COMMENTS = "#%"


@dataclass(frozen=True)
class ReferenceSpectra:
    """Spectra of the components.

    Attributes
    ----------
    names : of the components.
    energies_ev : (n,) float64, rising [eV].
    values : (n_components, n) float64, usually normalised to an edge step of 1.
    path : file that they come from, for messages.
    """

    names: tuple[str, ...]
    energies_ev: NDArray[np.float64]
    values: NDArray[np.float64]
    path: Path | None = None

    def at(self, energies_ev: Sequence[float]) -> NDArray[np.float64]:
        """(n_energies, n_components) float64, linear between the points of the file.

        Raises
        ------
        InputError : an energy outside of the spectra.
        """
        low, high = self.energies_ev[0], self.energies_ev[-1]
        for energy in energies_ev:
            if not low <= energy <= high:
                raise InputError(
                    f"expected spectra that reach {energy:g} eV, found {low:g} to {high:g} eV",
                    path=self.path,
                    field="energy",
                )
        return np.stack([np.interp(energies_ev, self.energies_ev, row) for row in self.values], 1)


def load_reference_spectra(path: Path, components: Sequence[Component]) -> ReferenceSpectra:
    """Read the spectra of the components from a text file.

    Parameters
    ----------
    path : text file, columns parted by blanks, tabs, commas or semicolons; lines before the numbers
        or behind a comment sign are its head, whose last line of as many words names the columns.
    components : names and columns.

    Raises
    ------
    InputError : it cannot be read, holds no table, its energies do not differ, or a column is
        missing.
    """
    titles, table = _read_table(path)
    order = np.argsort(table[:, 0], kind="stable")
    energies = table[order, 0]
    if len(energies) < 2 or np.any(np.diff(energies) <= 0.0):
        raise InputError("expected two or more different energies", path=path, field="column 1")
    columns = [_column(item, titles, table.shape[1], path) for item in components]
    values = table[order][:, columns].T
    if not np.isfinite(values).all():
        raise InputError("expected finite numbers in the columns of the components", path=path)
    names = tuple(item.name for item in components)
    return ReferenceSpectra(names, energies, np.ascontiguousarray(values), path)


def _column(item: Component, titles: list[str], n_columns: int, path: Path) -> int:
    if isinstance(item.column, int):
        if not 2 <= item.column <= n_columns:
            raise InputError(
                f"expected a column from 2 to {n_columns}, found {item.column}",
                path=path,
                field=f"component '{item.name}'",
            )
        return item.column - 1
    wanted = item.column or item.name
    if wanted not in titles[1:]:
        raise InputError(
            f"expected one of the columns {', '.join(titles[1:]) or '(none is named)'}, "
            f"found '{wanted}'",
            path=path,
            field=f"component '{item.name}'",
        )
    return titles.index(wanted, 1)


def _read_table(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Titles of the columns (possibly none) and the numbers (n, columns)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError("file does not exist", path=path) from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError("expected a text file of reference spectra", path=path) from error
    head: list[list[str]] = []
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        parted = r"\s*[,;\t]\s*" if re.search("[,;\t]", line.strip()) else r"\s+"
        words = [word for word in re.split(parted, line.strip()) if word]
        if not words:
            continue
        values = None if line.lstrip()[0] in COMMENTS else _numbers(words)
        if values is None and not rows:
            head.append([word for word in words if word not in COMMENTS])
        elif values is not None:
            if rows and len(values) != len(rows[0]):
                raise InputError(
                    f"expected {len(rows[0])} numbers, found {len(values)}",
                    path=path,
                    field=f"line {number}",
                )
            rows.append(values)
    if not rows or len(rows[0]) < 2:
        raise InputError("expected columns of numbers, energy first, found none", path=path)
    table = np.asarray(rows, np.float64)
    fitting = [words for words in head if len(words) == table.shape[1]]
    titles = fitting[-1] if fitting else []
    return [word.strip("#\"'") for word in titles], table


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None
