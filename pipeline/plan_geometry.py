"""Which components of a field a set of projections determines, at each spatial frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.io.rotations import nominal_rotations
from pipeline.stacks import Contrast
from pipeline.tomography.contrast import contrast_weights, scalar_weights
from schemas.beamtime import Beamtime

Rows = tuple[str, list[str], list[list[str]]]
"""Title, headers and rows of a table."""

DIRECTIONS = 400
"""Directions on the half sphere at which the geometry is judged: 7 degrees apart."""

FREQUENCIES = (0.1, 0.25, 0.5, 1.0)
"""Spatial frequencies, as fractions of the Nyquist frequency."""

OBSERVED = 1e-2
"""A component counts as determined if its weight is this fraction of the largest possible."""

ROOT_TWO = math.sqrt(2.0)

NAMES: dict[Contrast, tuple[str, ...]] = {
    "scalar": ("value",),
    "circular": ("x", "y", "z"),
    "linear": ("xx", "yy", "zz", "yz", "xz", "xy"),
}

SEEN: dict[Contrast, int] = {"scalar": 1, "circular": 3, "linear": 5}
"""Components that a contrast can determine at best; a linear difference never sees the trace."""


@dataclass(frozen=True)
class Conditioning:
    """What a set of projections determines at one spatial frequency.

    Attributes
    ----------
    frequency : fraction of the Nyquist frequency.
    complete : share of all directions in which every component is determined that the contrast
        can determine at all.
    components : mean number of determined components.
    observed : mean determined share of each component, 0 to 1.
    condition : median ratio of the largest to the smallest determined eigenvalue.
    """

    frequency: float
    complete: float
    components: float
    observed: list[float]
    condition: float


@dataclass(frozen=True)
class Geometry:
    """Conditioning of all projections of one contrast."""

    contrast: Contrast
    n_projections: int
    names: tuple[str, ...]
    frequencies: list[Conditioning]


def nominal_geometry(
    beamtime: Beamtime, folder: Path
) -> dict[Contrast, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rotations and weights of every contrast, as the beamtime file states them.

    Returns
    -------
    contrast -> rotations (n, 3, 3) and weights (n, c).
    """
    found: dict[Contrast, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for series in beamtime.scalar_series():
        rotations = nominal_rotations(series, folder)
        found.setdefault("scalar", []).append((rotations, scalar_weights(len(rotations))))
    for first, _ in beamtime.pairs():
        contrast: Contrast = "linear" if first.polarisation.kind == "linear" else "circular"
        rotations = nominal_rotations(first, folder)
        weights = contrast_weights(contrast, rotations, first.polarisation.degree)
        found.setdefault(contrast, []).append((rotations, weights))
    for series in beamtime.series:
        if series.state == "differenced" and series.contrast is not None:
            rotations = nominal_rotations(series, folder)
            weights = contrast_weights(series.contrast, rotations, series.polarisation.degree)
            found.setdefault(series.contrast, []).append((rotations, weights))
    return {
        contrast: (
            np.concatenate([rotations for rotations, _ in parts]),
            np.concatenate([weights for _, weights in parts]),
        )
        for contrast, parts in found.items()
    }


def half_sphere(n: int) -> NDArray[np.float64]:
    """Evenly spread unit vectors x, y, z on half a sphere, (n, 3): a Fibonacci spiral."""
    index = np.arange(n) + 0.5
    z = index / n
    azimuth = math.pi * (1.0 + math.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def judge_geometry(
    contrast: Contrast,
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    diameter: int,
    frequencies: Sequence[float] = FREQUENCIES,
    directions: int = DIRECTIONS,
) -> Geometry:
    """Which components the projections determine, by direction and size of spatial frequency.

    By the Fourier slice theorem a projection measures `w · X(k)` for the frequencies `k` in the
    plane across its beam. A sample of finite diameter `D` blurs that plane to a slab of thickness
    `1 / D`, so low frequencies are seen by many projections and high ones by few. Where the sum of
    `w wᵀ` over the projections that see `k` has a small eigenvalue, that component of `X(k)` comes
    from the prior, not from the data.

    Parameters
    ----------
    contrast : of the weights.
    rotations : (n, 3, 3) sample to lab.
    weights : (n, c).
    diameter : of the sample [voxel].
    frequencies : as fractions of Nyquist.
    directions : number of directions on the half sphere.

    Returns
    -------
    Geometry.
    """
    along = half_sphere(directions)
    beams = rotations[:, 2, :]
    orthonormal = weights.copy()
    if contrast == "linear":
        # An off-diagonal component stands twice in the tensor: divide by root two, so that the
        # length of a packed tensor is its Frobenius norm and no frame is preferred.
        orthonormal[:, 3:] /= ROOT_TWO
    return Geometry(
        contrast,
        len(rotations),
        NAMES[contrast],
        [
            _conditioning(contrast, along, beams, orthonormal, frequency, diameter)
            for frequency in frequencies
        ],
    )


def _conditioning(
    contrast: Contrast,
    along: NDArray[np.float64],
    beams: NDArray[np.float64],
    weights: NDArray[np.float64],
    frequency: float,
    diameter: int,
) -> Conditioning:
    # k = frequency * 0.5 cycles per voxel; the slab's half thickness is 1 / (2 D).
    reach = 1.0 / (frequency * diameter)
    sees = (np.abs(along @ beams.T) <= reach).astype(np.float64)
    outer = weights[:, :, None] * weights[:, None, :]
    matrices = np.tensordot(sees, outer, axes=1)
    values, vectors = np.linalg.eigh(matrices)
    largest = np.maximum(values[:, -1:], 1e-300)
    typical = float(np.median(np.sum(weights**2, axis=1)))
    determined = (values > OBSERVED * largest) & (values > OBSERVED * typical)
    count = determined.sum(axis=1)
    share = np.einsum("dij,dj,dij->di", vectors, determined.astype(np.float64), vectors)
    smallest = np.where(determined, values, np.inf).min(axis=1)
    seen = count > 0
    ratio = (largest[seen, 0] / smallest[seen]) if seen.any() else np.array([1.0])
    return Conditioning(
        frequency=frequency,
        complete=float(np.mean(count >= SEEN[contrast])),
        components=float(count.mean()),
        observed=[float(value) for value in share.mean(axis=0)],
        condition=float(np.median(ratio)),
    )


def geometry_table(geometry: Geometry) -> Rows:
    """Title, headers and rows of what the data determine."""
    title = (
        f"Geometry, {geometry.contrast} contrast, {geometry.n_projections} projections: what the "
        f"data determine of at most {SEEN[geometry.contrast]} components"
    )
    headers = ["frequency / Nyquist", "complete directions", "components", "condition"]
    headers += [f"{name} seen" for name in geometry.names]
    rows = [
        [
            f"{item.frequency:g}",
            f"{100 * item.complete:.0f} %",
            f"{item.components:.1f}",
            f"{item.condition:.1f}",
            *[f"{100 * value:.0f} %" for value in item.observed],
        ]
        for item in geometry.frequencies
    ]
    return title, headers, rows
