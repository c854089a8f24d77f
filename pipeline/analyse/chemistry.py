"""Chemical state: how much of each component a voxel holds, from tomograms at several energies.

At each energy a voxel absorbs the sum of what its components absorb. With reference spectra that is
a small linear system for each voxel, solved by least squares with amounts that are not negative.
The composition is the share of the first component: with the amounts `(x₁, x₂)` as a vector at the
polar angle `θ = atan2(x₁, x₂)` it is `tan θ / (1 + tan θ)`, which does not depend on how much
matter there is. Soft X-ray tomography of battery cathodes: Yu et al., Nat. Commun. 9, 921 (2018),
doi 10.1038/s41467-018-03401-x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.mixture import Mixture, fit_mixture
from pipeline.analyse.reference_spectra import ReferenceSpectra
from pipeline.errors import InputError
from schemas.recipe import ChemistrySettings

Background = Literal["pre-edge", "offset", "none"]

BINS = 150
"""Bins of the histogram from -0.25 to 1.25: noise carries pure voxels beyond 0 and 1."""

RANGE = (-0.25, 1.25)

BLOCK = 4096
"""Voxels that one thread takes at a time."""

POOR, MIXED, RICH = 1, 2, 3
"""Classes of voxels: little, some, and mostly of the first component; 0 is none."""

WITHOUT_BACKGROUND = (
    "no background was taken off: a pre-edge image or a third energy would keep other absorbers "
    "out of the composition"
)


@dataclass(frozen=True)
class EnergyModel:
    """What the tomograms at the energies say about the amounts: `maps = matrix @ amounts`.

    Attributes
    ----------
    names : of the components.
    energies_ev : (n,) float64 [eV], of the rows.
    matrix : (n, n_components) float64, or one column more for a fitted offset.
    background : what was done about other absorbers.
    pre_edge_ev : energy of the map that is subtracted, None without one.
    pre_edge_scale : (n,) float64, what that map is multiplied with for each energy.
    condition : condition number of the matrix, its columns at equal length.
    notes : sentences that the reader must know.
    """

    names: tuple[str, ...]
    energies_ev: NDArray[np.float64]
    matrix: NDArray[np.float64]
    background: Background
    pre_edge_ev: float | None
    pre_edge_scale: NDArray[np.float64]
    condition: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChemicalState:
    """Composition of every voxel.

    Attributes
    ----------
    names : of the components.
    amounts : (n_components, z, y, x) float32, in the maps' unit per unit of the spectra; not
        negative, 0 outside the sample.
    composition : (z, y, x) float32, share of the first component; NaN where `mask` is False.
    uncertainty : (z, y, x) float32, standard deviation of it from the noise in air; NaN as above.
    phase : (z, y, x) uint8: 0 none, `POOR`, `MIXED` or `RICH`.
    mask : (z, y, x) bool, where there is enough matter for a composition.
    edges, counts : (n + 1,) and (n,) float64, histogram of the composition that least squares give
        without the constraint, which would pile up the noise of pure voxels at 0 and 1.
    mixture : its two Gaussians; None where there is nothing to fit.
    model : what was solved.
    noise : (n,) float64, rms of each map in air; the pre-edge one last, if there is one.
    notes : sentences that the reader must know.
    """

    names: tuple[str, ...]
    amounts: NDArray[np.float32]
    composition: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    phase: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    mixture: Mixture | None
    model: EnergyModel
    noise: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def shares(self) -> NDArray[np.float64]:
        """(3,) share of the voxels that are poor, mixed and rich; NaN without any."""
        found = np.bincount(self.phase[self.mask], minlength=4)[1:].astype(np.float64)
        return found / found.sum() if found.sum() else np.full(3, math.nan)


def energy_model(
    spectra: ReferenceSpectra,
    energies_ev: Sequence[float],
    settings: ChemistrySettings,
    *,
    pre_edge_ev: float | None = None,
    quantity: Literal["absorption", "phase"] = "absorption",
) -> EnergyModel:
    """Set up the linear system of the energies, and see that it tells the components apart.

    Parameters
    ----------
    spectra : of the components.
    energies_ev : of the tomograms, without the pre-edge one [eV].
    settings : background and the largest condition number.
    pre_edge_ev : energy of the pre-edge tomogram, if there is one; spectra that begin above it are
        taken to be zero there.
    quantity : of the tomograms, for the fall of the background with the energy.

    Raises
    ------
    InputError : too few energies, energies outside of the spectra, or spectra too much alike at
        these energies.
    """
    energies = np.asarray(energies_ev, np.float64)
    n_components = len(spectra.names)
    values = spectra.at(energies_ev)
    scale = np.zeros(len(energies))
    if settings.background == "pre-edge" and pre_edge_ev is None:
        raise InputError(
            "expected pre_edge_ev in the beamtime's chemistry, found none",
            field="chemistry.background",
        )
    if settings.background in ("auto", "pre-edge") and pre_edge_ev is not None:
        power = settings.pre_edge_exponent
        power = power if power is not None else {"absorption": 3.0, "phase": 2.0}[quantity]
        scale = (pre_edge_ev / energies) ** power
        inside = pre_edge_ev >= spectra.energies_ev[0]
        below = spectra.at([pre_edge_ev])[0] if inside else np.zeros(n_components)
        values = values - scale[:, None] * below
        background: Background = "pre-edge"
    elif settings.background == "offset":
        background = "offset"
    else:
        background = "none"
    with_offset = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    if settings.background == "auto" and background == "none" and len(energies) > n_components:
        background = "offset" if condition_of(with_offset) < settings.max_condition else "none"
    matrix = with_offset if background == "offset" else values
    _check_matrix(matrix, spectra.names, energies, background, settings.max_condition)
    return EnergyModel(
        spectra.names,
        energies,
        matrix,
        background,
        pre_edge_ev if background == "pre-edge" else None,
        scale,
        condition_of(matrix),
        (WITHOUT_BACKGROUND,) if background == "none" else (),
    )


def condition_of(matrix: NDArray[np.float64]) -> float:
    """Condition number with all columns at length 1; infinite where they are not independent."""
    length = np.linalg.norm(matrix, axis=0)
    if matrix.shape[0] < matrix.shape[1] or np.any(length == 0.0):
        return math.inf
    singular = np.linalg.svd(matrix / length, compute_uv=False)
    smallest = float(singular[-1])
    return float(singular[0]) / smallest if smallest > 1e-12 else math.inf


def _check_matrix(
    matrix: NDArray[np.float64],
    names: tuple[str, ...],
    energies: NDArray[np.float64],
    background: Background,
    limit: float,
) -> None:
    unknowns = matrix.shape[1]
    what = " and ".join(names) + (" and an offset" if background == "offset" else "")
    if len(energies) < unknowns:
        besides = " beside the pre-edge one" if background == "pre-edge" else ""
        raise InputError(
            f"expected at least {unknowns} energies{besides} to tell {what} apart, "
            f"found {len(energies)}",
            field="chemistry",
        )
    condition = condition_of(matrix)
    if condition > limit:
        found = ", ".join(f"{energy:g}" for energy in energies)
        raise InputError(
            f"the energies {found} eV do not tell {what} apart: expected a condition number of at "
            f"most {limit:g}, found {condition:.4g}",
            field="chemistry",
        )


def chemical_state(
    maps: Sequence[NDArray[np.float32]],
    model: EnergyModel,
    support: NDArray[np.bool_],
    noise: Sequence[float],
    settings: ChemistrySettings,
    *,
    pre_edge: NDArray[np.float32] | None = None,
) -> ChemicalState:
    """Composition of every voxel of the sample.

    Parameters
    ----------
    maps : one (z, y, x) float32 for each energy of the model, matter positive.
    model : as from `energy_model`.
    support : (z, y, x) bool, where the sample is.
    noise : rms of each map in air, of the pre-edge map last; zeros where unknown, and then there is
        no uncertainty and every voxel of the support with matter has a composition.
    settings : classes and significance.
    pre_edge : (z, y, x) float32, if the model subtracts one.

    Returns
    -------
    ChemicalState; where no voxel has a composition it is empty, and a note says so.

    Raises
    ------
    InputError : maps of other number or shape than expected.
    """
    _check_maps(maps, model, support, noise, pre_edge)
    covariance = _data_covariance(model, np.asarray(noise, np.float64))
    usable = support.copy()
    for values in (*maps, *(() if pre_edge is None else (pre_edge,))):
        usable &= np.isfinite(values)
    index = np.flatnonzero(usable)
    data = np.empty((index.size, len(maps)), np.float32)
    for column, values in enumerate(maps):
        data[:, column] = values.ravel()[index]
        if pre_edge is not None:
            data[:, column] -= np.float32(model.pre_edge_scale[column]) * pre_edge.ravel()[index]
    n_components = len(model.names)
    sigma = np.sqrt(np.diagonal(covariance))
    weights = 1.0 / sigma if np.all(sigma > 0) else np.ones(len(sigma))
    solvers, members = _solvers(model.matrix * weights[:, None], n_components)
    solvers = solvers * weights[None, None, :]
    spread = (solvers[0] @ covariance @ solvers[0].T)[:n_components, :n_components].copy()
    amounts, free, uncertainty = _invert(
        data, np.ascontiguousarray(model.matrix), weights, solvers, members, spread
    )
    least = settings.significance * math.sqrt(max(spread.sum(), 0.0))
    total = np.sum(list(amounts.T), axis=0)
    enough = (total > max(least, 0.0)) & np.isfinite(free)
    if enough.any():
        enough &= total >= settings.least_amount * np.median(total[enough])
    return _gather(
        model, support.shape, index, amounts, free, uncertainty, enough, np.asarray(noise), settings
    )


def _check_maps(
    maps: Sequence[NDArray[np.float32]],
    model: EnergyModel,
    support: NDArray[np.bool_],
    noise: Sequence[float],
    pre_edge: NDArray[np.float32] | None,
) -> None:
    if len(maps) != len(model.energies_ev):
        raise InputError(f"expected {len(model.energies_ev)} maps, found {len(maps)}")
    if (pre_edge is None) != (model.pre_edge_ev is None):
        raise InputError("expected a pre-edge map just where the model subtracts one")
    every = [*maps, *(() if pre_edge is None else (pre_edge,))]
    if len(noise) != len(every):
        raise InputError(f"expected the noise of {len(every)} maps, found {len(noise)} values")
    for values in every:
        if values.shape != support.shape:
            raise InputError(
                f"expected maps of the support's shape {support.shape}, found {values.shape}"
            )


def _data_covariance(model: EnergyModel, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the maps with the pre-edge one taken off, whose noise they then share."""
    n = len(model.energies_ev)
    covariance = np.diag(noise[:n] ** 2)
    if model.pre_edge_ev is not None:
        covariance = covariance + noise[n] ** 2 * np.outer(
            model.pre_edge_scale, model.pre_edge_scale
        )
    return covariance


def _solvers(
    matrix: NDArray[np.float64], n_components: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Least-squares solution for every set of components that may be present, all of them first.

    Among so few components that is the exact solution without negative amounts: of the sets whose
    amounts are not negative, the one that fits best. Columns beyond the components (an offset) are
    always in.

    Returns
    -------
    (n_sets, n_columns, n_energies) float64 with zero rows for what is left out, and
    (n_sets, n_columns) bool.
    """
    columns = matrix.shape[1]
    solvers, members = [], []
    for size in range(n_components, -1, -1):
        for chosen in itertools.combinations(range(n_components), size):
            inside = np.zeros(columns, np.bool_)
            inside[list(chosen)] = True
            inside[n_components:] = True
            solver = np.zeros(matrix.T.shape)
            solver[inside] = np.linalg.pinv(matrix[:, inside]) if inside.any() else 0.0
            solvers.append(solver)
            members.append(inside)
    return np.stack(solvers), np.stack(members)


@numba.njit(cache=True, parallel=True, nogil=True)
def _invert(
    data: NDArray[np.float32],
    matrix: NDArray[np.float64],
    weights: NDArray[np.float64],
    solvers: NDArray[np.float64],
    members: NDArray[np.bool_],
    covariance: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Amounts, composition without the constraint, and its standard deviation with it."""
    n_voxels = len(data)
    n_components = covariance.shape[0]
    amounts = np.zeros((n_voxels, n_components), np.float32)
    free = np.empty(n_voxels, np.float32)
    uncertainty = np.empty(n_voxels, np.float32)
    for block in numba.prange((n_voxels + BLOCK - 1) // BLOCK):
        trial, best = np.empty(matrix.shape[1]), np.empty(matrix.shape[1])
        for voxel in range(block * BLOCK, min((block + 1) * BLOCK, n_voxels)):
            best[:] = 0.0
            free[voxel] = _best_set(
                data[voxel], matrix, weights, solvers, members, trial, best, n_components
            )
            for i in range(n_components):
                amounts[voxel, i] = best[i]
            uncertainty[voxel] = _share_error(best, covariance)
    return amounts, free, uncertainty


@numba.njit(cache=True, nogil=True)
def _best_set(
    values: NDArray[np.float32],
    matrix: NDArray[np.float64],
    weights: NDArray[np.float64],
    solvers: NDArray[np.float64],
    members: NDArray[np.bool_],
    trial: NDArray[np.float64],
    best: NDArray[np.float64],
    n_components: int,
) -> float:
    """Fill `best` with the amounts of one voxel; returns the share without the constraint."""
    n_sets, columns, n_energies = solvers.shape
    least, free = np.inf, np.nan
    for k in range(n_sets):
        allowed = True
        for i in range(columns):
            trial[i] = 0.0
            if members[k, i]:
                for j in range(n_energies):
                    trial[i] += solvers[k, i, j] * values[j]
            allowed = allowed and (i >= n_components or trial[i] >= 0.0)
        if k == 0:
            whole = trial[:n_components].sum()
            free = trial[0] / whole if whole > 0.0 else np.nan
        if not allowed:
            continue
        misfit = 0.0
        for j in range(n_energies):
            left = np.float64(values[j])
            for i in range(columns):
                left -= matrix[j, i] * trial[i]
            misfit += (weights[j] * left) ** 2
        if misfit < least:
            least = misfit
            best[:] = trial
        if k == 0:  # Without a negative amount the free solution is the constrained one.
            break
    return free


@numba.njit(cache=True, nogil=True)
def _share_error(amounts: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Standard deviation of `x₁ / Σ x` to first order; NaN where there is nothing."""
    n_components = covariance.shape[0]
    total = amounts[:n_components].sum()
    if total <= 0.0:
        return np.nan
    variance = 0.0
    for i in range(n_components):
        first = ((total if i == 0 else 0.0) - amounts[0]) / total**2
        for j in range(n_components):
            second = ((total if j == 0 else 0.0) - amounts[0]) / total**2
            variance += first * covariance[i, j] * second
    return np.sqrt(max(variance, 0.0))


def _gather(
    model: EnergyModel,
    shape: tuple[int, ...],
    index: NDArray[np.intp],
    amounts: NDArray[np.float32],
    free: NDArray[np.float32],
    uncertainty: NDArray[np.float32],
    enough: NDArray[np.bool_],
    noise: NDArray[np.float64],
    settings: ChemistrySettings,
) -> ChemicalState:
    """Put the solved voxels into their places."""
    n_components = amounts.shape[1]
    volumes = np.zeros((n_components, int(np.prod(shape))), np.float32)
    volumes[:, index] = amounts.T
    kept = index[enough]
    chosen = amounts[enough]
    share = chosen[:, 0] / np.sum(list(chosen.T), axis=0)
    composition = np.full(volumes.shape[1], np.nan, np.float32)
    spread = np.full(volumes.shape[1], np.nan, np.float32)
    phase = np.zeros(volumes.shape[1], np.uint8)
    mask = np.zeros(volumes.shape[1], np.bool_)
    composition[kept], spread[kept], mask[kept] = share, uncertainty[enough], True
    above = (share >= np.float32(1.0 - settings.rich), share >= np.float32(settings.rich))
    phase[kept] = np.uint8(POOR) + above[0] + above[1]
    counts, edges = np.histogram(free[enough], bins=BINS, range=RANGE)
    mixture = fit_mixture(counts, edges, np.array([0.1, 0.9]))
    notes = list(model.notes)
    if kept.size == 0:
        notes.append("no voxel holds enough of the components for a composition")
    elif mixture is None:
        notes.append("too few voxels for a fit of the histogram")
    elif mixture.separation < 2.0:
        notes.append("the two Gaussians of the composition overlap; their widths are not separate")
    return ChemicalState(
        names=model.names,
        amounts=volumes.reshape(n_components, *shape),
        composition=composition.reshape(shape),
        uncertainty=spread.reshape(shape),
        phase=phase.reshape(shape),
        mask=mask.reshape(shape),
        edges=edges,
        counts=counts.astype(np.float64),
        mixture=mixture,
        model=model,
        noise=noise,
        notes=tuple(notes),
    )
