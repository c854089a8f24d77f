"""Which components of a field a set of projections determines, at each spatial frequency.

By the Fourier slice theorem a projection measures `w · X(k)` for the frequencies `k` in the plane
across its beam. Where the normal matrix, the sum of `w wᵀ` over the projections that see `k`, has a
small eigenvalue, that component of `X(k)` comes from the prior, not from the data. The analysis is
that of RESIRE-V (Pham et al., doi 10.1038/s41598-024-59140-1), by direction and size of `k`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.align.views import match_views
from pipeline.errors import GeometryError
from pipeline.io.beamtime import series_angles
from pipeline.io.rotations import nominal_rotations
from pipeline.plan_views import Rows, view_groups
from pipeline.stacks import Contrast
from pipeline.tomography.contrast import contrast_weights, polarised_weights
from schemas.beamtime import Beamtime, Product
from schemas.recipe import Polarisations
from schemas.series import Series

DIRECTIONS = 400
"""Directions on the half sphere at which the geometry is judged: 7 degrees apart."""

FREQUENCIES = (0.1, 0.25, 0.5, 1.0)
"""Spatial frequencies, as fractions of the Nyquist frequency."""

SHOWN = 0.5
"""Frequency at which directions are shown, and sets of mountings compared: finer detail than half
of Nyquist is mostly noise."""

OBSERVED = 1e-2
"""A component counts as determined if its weight is this fraction of the largest possible."""

NEVER = 0.02
"""A component that is determined in a smaller share of directions is not seen at all."""

MOSTLY = 0.8
"""A component of which this share lies in what is never seen is named for itself; what is left of
the others is a mixture."""

ROOT_TWO = math.sqrt(2.0)

NAMES: dict[Contrast, tuple[str, ...]] = {
    "scalar": ("value",),
    "circular": ("x", "y", "z"),
    "linear": ("xx", "yy", "zz", "yz", "xz", "xy"),
}

SEEN: dict[Contrast, int] = {"scalar": 1, "circular": 3, "linear": 5}
"""Components that a contrast can determine at best; a linear difference never sees the trace."""

FIELD: dict[Contrast, str] = {
    "scalar": "the scalar field",
    "circular": "the magnetisation",
    "linear": "the orientation tensor",
}

WANTED: dict[Contrast, tuple[Product, ...]] = {
    "scalar": ("scalar", "density", "orientation", "grains", "magnetisation", "chemistry"),
    "circular": ("magnetisation",),
    "linear": ("orientation", "grains"),
}
"""Products that are made of a contrast."""


@dataclass(frozen=True)
class Measured:
    """Projections of one contrast as the beamtime file states them.

    Attributes
    ----------
    rotations : (n, 3, 3) sample to lab.
    weights : (n, c); c is 7 for polarisations that are fitted jointly.
    mountings : (n,) name of the mounting of each.
    """

    rotations: NDArray[np.float64]
    weights: NDArray[np.float64]
    mountings: NDArray[np.str_]


@dataclass(frozen=True)
class Conditioning:
    """What a set of projections determines at one spatial frequency.

    Attributes
    ----------
    frequency : fraction of the Nyquist frequency.
    complete : share of all directions in which every component is determined that the contrast
        can determine at all.
    components : mean number of determined components: the rank of the normal matrix.
    observed : mean determined share of each component, 0 to 1.
    condition : median ratio of the largest to the smallest determined eigenvalue.
    """

    frequency: float
    complete: float
    components: float
    observed: list[float]
    condition: float


@dataclass(frozen=True)
class Mountings:
    """What the first mountings alone would determine, at half of the Nyquist frequency.

    Attributes
    ----------
    names : of the mountings.
    missing : components that they see in no direction.
    at : conditioning.
    """

    names: list[str]
    missing: list[str]
    at: Conditioning


@dataclass(frozen=True)
class Geometry:
    """Conditioning of all projections of one contrast.

    Attributes
    ----------
    contrast, n_projections : what was judged.
    names : of the components.
    frequencies : conditioning at each frequency.
    most : components that can be determined at best.
    missing : components that are seen in no direction.
    mountings : the same for the first mounting, the first two, and so on.
    directions, rank : (d, 3) directions of spatial frequency, and at half of Nyquist the number of
        components that are determined there, (d,).
    """

    contrast: Contrast
    n_projections: int
    names: tuple[str, ...]
    frequencies: list[Conditioning]
    most: int
    missing: list[str] = field(default_factory=list)
    mountings: list[Mountings] = field(default_factory=list)
    directions: list[list[float]] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Why this geometry cannot determine the field; None if it can."""
        if not self.missing:
            return None
        return (
            f"the geometry cannot determine {', '.join(self.missing)} of {FIELD[self.contrast]}: "
            f"none of its {self.n_projections} projections depends on it; add a mounting with "
            "another rotation axis, or set geometry.force to have it made up by the prior"
        )


def nominal_geometry(
    beamtime: Beamtime, folder: Path, polarisations: Polarisations = "auto"
) -> dict[Contrast, Measured]:
    """Rotations and weights of every contrast, as the beamtime file states them.

    Parameters
    ----------
    beamtime, folder : as loaded.
    polarisations : the recipe's `orientation.polarisations`.
    """
    found: dict[Contrast, list[Measured]] = {}

    def add(contrast: Contrast, series: Series, rows: Rotated, weights: RowWeights) -> None:
        names = np.full(len(rows), series.tilt.name)
        found.setdefault(contrast, []).append(Measured(rows, weights, names))

    for series in beamtime.scalar_series():
        rotations = nominal_rotations(series, folder)
        add("scalar", series, rotations, contrast_weights("scalar", rotations, 1.0))
    groups = zip(
        beamtime.dichroic_groups(), view_groups(beamtime, folder, polarisations), strict=True
    )
    for members, used in groups:
        if used.joint:
            for series in members:
                rotations = nominal_rotations(series, folder)
                polarisation = series.polarisation
                angle = polarisation.angle_deg or 0.0
                weights = polarised_weights(rotations, angle, polarisation.degree)
                add("linear", series, rotations, weights)
            continue
        views = match_views([series_angles(series, folder) for series in members[:2]])
        chosen = views[0, (views >= 0).all(axis=0)]
        contrast: Contrast = "linear" if members[0].polarisation.kind == "linear" else "circular"
        rotations = nominal_rotations(members[0], folder)[chosen]
        degree = float(np.mean([series.polarisation.degree for series in members[:2]]))
        add(contrast, members[0], rotations, contrast_weights(contrast, rotations, degree))
    for series in beamtime.series:
        if series.state == "differenced" and series.contrast is not None:
            rotations = nominal_rotations(series, folder)
            weights = contrast_weights(series.contrast, rotations, series.polarisation.degree)
            add(series.contrast, series, rotations, weights)
    return {
        contrast: Measured(
            np.concatenate([part.rotations for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.mountings for part in parts]),
        )
        for contrast, parts in found.items()
    }


Rotated = NDArray[np.float64]
RowWeights = NDArray[np.float64]


def judge_beamtime(
    beamtime: Beamtime, folder: Path, width: int, polarisations: Polarisations = "auto"
) -> list[Geometry]:
    """Judge the geometry of every contrast of a beamtime.

    Parameters
    ----------
    beamtime, folder, polarisations : as in `nominal_geometry`.
    width : of the frames, taken for the diameter of the sample [pixel].
    """
    geometries = []
    for contrast, measured in nominal_geometry(beamtime, folder, polarisations).items():
        geometries.append(
            judge_geometry(
                contrast,
                measured.rotations,
                measured.weights,
                width,
                mountings=measured.mountings,
            )
        )
    return geometries


def check_geometry(beamtime: Beamtime, geometries: Sequence[Geometry]) -> None:
    """Refuse to reconstruct a field that the geometry cannot determine.

    Raises
    ------
    GeometryError
        Names the components that are seen in no direction.
    """
    for geometry in geometries:
        wanted = not beamtime.products or set(beamtime.products) & set(WANTED[geometry.contrast])
        if wanted and geometry.problem is not None:
            raise GeometryError(geometry.problem)


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
    *,
    mountings: NDArray[np.str_] | None = None,
) -> Geometry:
    """Which components the projections determine, by direction and size of spatial frequency.

    A sample of finite diameter `D` blurs the plane that a projection sees to a slab of thickness
    `1 / D`, so low frequencies are seen by many projections and high ones by few.

    Parameters
    ----------
    contrast : of the weights.
    rotations : (n, 3, 3) sample to lab.
    weights : (n, c).
    diameter : of the sample [voxel].
    frequencies : as fractions of Nyquist.
    directions : number of directions on the half sphere.
    mountings : (n,) name of the mounting of each, to tell what fewer of them would do.

    Returns
    -------
    Geometry.
    """
    along = half_sphere(directions)
    joint = weights.shape[1] > len(NAMES[contrast])
    names = (*NAMES[contrast], "isotropic") if joint else NAMES[contrast]
    most = SEEN[contrast] + int(joint)
    every = [
        _normal(contrast, along, rotations, weights, frequency, diameter)
        for frequency in frequencies
    ]
    shown = _normal(contrast, along, rotations, weights, SHOWN, diameter)
    cumulative = []
    labels = np.zeros(0, np.str_) if mountings is None else mountings
    order = list(dict.fromkeys(labels.tolist()))
    for n in range(1, len(order) + 1):
        chosen = np.isin(labels, order[:n])
        some = [
            _normal(contrast, along, rotations[chosen], weights[chosen], frequency, diameter)
            for frequency in (min(frequencies), SHOWN)
        ]
        cumulative.append(
            Mountings(order[:n], _missing(some[0], names, contrast), some[1].conditioning(most))
        )
    return Geometry(
        contrast,
        len(rotations),
        names,
        [normal.conditioning(most) for normal in every],
        most,
        _missing(every[int(np.argmin(frequencies))], names, contrast),
        cumulative,
        along.round(6).tolist(),
        shown.determined.sum(axis=1).tolist(),
    )


@dataclass(frozen=True)
class _Normal:
    """Eigensystem of the normal matrix at every direction.

    Attributes
    ----------
    frequency : fraction of Nyquist.
    values : (d, c) eigenvalues, ascending.
    vectors : (d, c, c) eigenvectors in the columns.
    determined : (d, c) which of them the data determine.
    """

    frequency: float
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    determined: NDArray[np.bool_]

    def conditioning(self, most: int) -> Conditioning:
        """Numbers over all directions."""
        count = self.determined.sum(axis=1)
        shown = self.determined.astype(np.float64)
        share = np.einsum("dij,dj,dij->di", self.vectors, shown, self.vectors)
        smallest = np.where(self.determined, self.values, np.inf).min(axis=1)
        seen = count > 0
        ratio = self.values[seen, -1] / smallest[seen] if seen.any() else np.array([1.0])
        return Conditioning(
            frequency=self.frequency,
            complete=float(np.mean(count >= most)),
            components=float(count.mean()),
            observed=[float(value) for value in share.mean(axis=0)],
            condition=float(np.median(ratio)),
        )


def _normal(
    contrast: Contrast,
    along: NDArray[np.float64],
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    frequency: float,
    diameter: int,
) -> _Normal:
    orthonormal = weights.copy()
    if contrast == "linear":
        # An off-diagonal component stands twice in the tensor: divide by root two, so that the
        # length of a packed tensor is its Frobenius norm and no frame is preferred.
        orthonormal[:, 3:6] /= ROOT_TWO
    # k = frequency * 0.5 cycles per voxel; the slab's half thickness is 1 / (2 D).
    reach = 1.0 / (frequency * diameter)
    sees = (np.abs(along @ rotations[:, 2, :].T) <= reach).astype(np.float64)
    outer = orthonormal[:, :, None] * orthonormal[:, None, :]
    values, vectors = np.linalg.eigh(np.tensordot(sees, outer, axes=1))
    largest = np.maximum(values[:, -1:], 1e-300)
    typical = float(np.median(np.sum(orthonormal**2, axis=1)))
    determined = (values > OBSERVED * largest) & (values > OBSERVED * typical)
    return _Normal(frequency, values, vectors, determined)


def _missing(normal: _Normal, names: Sequence[str], contrast: Contrast) -> list[str]:
    """Components that no direction determines; mixtures are named by their parts."""
    shown = normal.determined.astype(np.float64)
    seen = np.einsum("dij,dj,dkj->ik", normal.vectors, shown, normal.vectors) / len(shown)
    if contrast == "linear":
        # What no polarisation tells from the isotropic part is not asked for.
        trace = np.zeros(len(names))
        trace[:3] = 1.0 / math.sqrt(3.0)
        seen += np.outer(trace, trace)
    values, vectors = np.linalg.eigh(seen)
    lost = vectors[:, values < NEVER]
    share = np.sum(lost**2, axis=1)
    found = [name for name, part in zip(names, share, strict=True) if part > MOSTLY]
    if lost.shape[1] > len(found):
        parts = [n for n, part in zip(names, share, strict=True) if 1.0 - MOSTLY < part <= MOSTLY]
        if parts:
            found.append(f"a mixture of {' and '.join(parts)}")
    return found


def geometry_table(geometry: Geometry) -> Rows:
    """Title, headers and rows of what the data determine."""
    title = (
        f"Geometry, {geometry.contrast} contrast, {geometry.n_projections} projections: what the "
        f"data determine of at most {geometry.most} components"
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


def mountings_table(geometry: Geometry) -> Rows:
    """Title, headers and rows of what the first mountings alone would determine."""
    title = (
        f"How many tilts? {geometry.contrast.capitalize()} contrast at {SHOWN:g} of the Nyquist "
        "frequency"
    )
    headers = ["mountings", "complete directions", "components", "condition", "never seen"]
    rows = [
        [
            f"{len(item.names)}: {item.names[-1]}"
            if len(item.names) == 1
            else f"{len(item.names)}: and {item.names[-1]}",
            f"{100 * item.at.complete:.0f} %",
            f"{item.at.components:.1f} of {geometry.most}",
            f"{item.at.condition:.1f}",
            ", ".join(item.missing) or "–",
        ]
        for item in geometry.mountings
    ]
    return title, headers, rows
