"""Misorientation of two axes, and what kind of boundary stands between them.

An axis has no sign, so a pair has two angles, `θ` and `180° - θ`: the smaller one is the
misorientation, and the rotation axis is the cross product, the axis of the smallest rotation of one
onto the other. (A crystal may be turned about its own axis as well; linear dichroism does not see
that.) At 0° no rotation axis is defined. At 90° the axis is, but not the sense of the rotation,
since both signs of the second axis are equally near.

Four kinds of boundary, told apart by where the normal `n` lies in the frame of the pair: the two
bisectors `b± = a₁ ± a₂` and the rotation axis `r`, all at right angles:

- *twist*: `n ∥ r`; both axes lie in the plane of the boundary;
- *tilt*: `n ⟂ r`;
- *twin*: the boundary is a mirror of the pair, which is to say `n ∥ b₊` or `n ∥ b₋`: reflection of
  `a₁` in the plane gives `± a₂`. Bisectors are at right angles to `r`, so a twin is the special
  tilt whose plane is symmetric; it ranks first and is called twin, not tilt;
- *mixed*: anything else.

The first three have no extent in the space of normals, so measured normals never lie on them. Each
kind is a hypothesis that spreads the normal: twist and twin around a point, tilt around a great
circle, mixed over the whole sphere; each as wide as the uncertainty of axes and normal and the
width that a special boundary is allowed. Equally likely beforehand, their densities at the measured
normal give their probabilities. Better data therefore draw narrower limits, and where the
uncertainty is larger than what separates two kinds, both keep their probability.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

KINDS = ("undetermined", "tilt", "twist", "twin", "mixed")
"""Names of the codes 0 ... 4; probabilities are in the order of `KINDS[1:]`."""

PARALLEL = 1e-6
"""Sine of an angle below which two axes are the same in single precision."""

WIDEST_RAD = 1.0
"""Largest standard deviation of a direction: wider ones would leave the sphere."""


def misorientation(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest rotation between axes.

    Parameters
    ----------
    first, second : (n, 3) unit vectors x, y, z; their signs do not matter.

    Returns
    -------
    angle (n,) float64 [rad], 0 to π/2, and rotation axis (n, 3) float64 unit vectors, NaN where the
    axes are parallel. Its sign is that of the rotation from `first` to the nearer of `± second`.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    dot = np.sum(a * b, axis=1)
    cross = np.cross(a, b) * np.where(dot < 0, -1.0, 1.0)[:, None]
    length = np.linalg.norm(cross, axis=1)
    # |a x b| and |a . b| together are exact at small and at large angles.
    angle = np.arctan2(length, np.abs(dot))
    known = length > PARALLEL
    axis = np.full(cross.shape, np.nan)
    axis[known] = cross[known] / length[known, None]
    return angle, axis


def tilt_twist_rad(axis: NDArray[np.floating], normal: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angle between rotation axis and boundary normal: 0 for a twist, π/2 for a tilt.

    Parameters
    ----------
    axis, normal : (n, 3) unit vectors, sign-free.

    Returns
    -------
    (n,) float64 [rad]; NaN where the rotation axis is.
    """
    cross = np.linalg.norm(np.cross(axis, normal), axis=1)
    return np.arctan2(cross, np.abs(np.sum(axis * normal, axis=1)))


def mirror_rad(
    first: NDArray[np.floating], second: NDArray[np.floating], normal: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Angle between the normal and the nearer bisector of the axes: 0 for a twin.

    Parameters
    ----------
    first, second, normal : (n, 3) unit vectors, sign-free.

    Returns
    -------
    (n,) float64 [rad].
    """
    frame = pair_frame(first, second)
    places = np.abs(np.einsum("nij,nj->ni", frame, normal.astype(np.float64)))
    return np.arccos(np.minimum(places[:, :2].max(axis=1), 1.0))


def pair_frame(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Frame of pairs of axes.

    Parameters
    ----------
    first, second : (n, 3) unit vectors, sign-free.

    Returns
    -------
    (n, 3, 3) float64, rows: bisector of the acute angle `b₊`, of the obtuse angle `b₋`, rotation
    axis `r`. Of parallel axes the last two are any directions across.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    b = b * np.where(np.sum(a * b, axis=1) < 0, -1.0, 1.0)[:, None]
    plus = a + b
    plus /= np.maximum(np.linalg.norm(plus, axis=1, keepdims=True), PARALLEL)
    minus = a - b
    same = np.linalg.norm(minus, axis=1) < PARALLEL
    # The unit vector that is most across, for axes without a difference.
    minus[same] = np.eye(3)[np.abs(plus[same]).argmin(axis=1)]
    minus -= np.sum(minus * plus, axis=1, keepdims=True) * plus
    minus /= np.maximum(np.linalg.norm(minus, axis=1, keepdims=True), PARALLEL)
    return np.stack([plus, minus, np.cross(plus, minus)], axis=1)


def kind_probabilities(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    normal: NDArray[np.floating],
    *,
    first_sigma: NDArray[np.floating],
    second_sigma: NDArray[np.floating],
    normal_sigma: NDArray[np.floating],
    width: float,
) -> NDArray[np.float64]:
    """Probabilities of the four kinds of boundary.

    Parameters
    ----------
    first, second : (n, 3) unit vectors, axes of the two grains, sign-free.
    normal : (n, 3) unit vectors, sign-free.
    first_sigma, second_sigma, normal_sigma : (n,) standard deviation of each of the two
        components of the direction [rad].
    width : standard deviation [rad] by which a special boundary may itself be off.

    Returns
    -------
    (n, 4) float64 in the order of `KINDS[1:]`; rows add up to one.

    Notes
    -----
    Errors `e₁, e₂` of the axes across their plane turn the rotation axis by
    `(e₁ + e₂) / (2 cos θ/2)` towards `b₊` and `(e₁ - e₂) / (2 sin θ/2)` towards `b₋`: the smaller
    the misorientation, the less is known about its axis.
    """
    frame = pair_frame(first, second)
    place = np.einsum("nij,nj->ni", frame, normal.astype(np.float64))
    place /= np.maximum(np.linalg.norm(place, axis=1, keepdims=True), PARALLEL)
    half = 0.5 * misorientation(first, second)[0]
    axes = first_sigma.astype(np.float64) ** 2 + second_sigma.astype(np.float64) ** 2
    base = normal_sigma.astype(np.float64) ** 2 + width**2
    towards_plus = axes / (4.0 * np.cos(half) ** 2)
    towards_minus = axes / np.maximum(4.0 * np.sin(half) ** 2, PARALLEL)
    plus, minus, along = place.T
    elevation = np.arcsin(np.clip(along, -1.0, 1.0))
    azimuth = np.arctan2(minus, plus)
    out = _sigma(base + plus**2 * towards_plus + minus**2 * towards_minus)
    across = np.exp(-0.5 * (elevation / out) ** 2) / (math.sqrt(2 * math.pi) * out)
    turn = _sigma(base + axes / 4.0)
    at_bisector = sum(
        np.exp(-0.5 * (_folded(azimuth - place) / turn) ** 2) for place in (0.0, math.pi / 2)
    ) / (2.0 * math.sqrt(2 * math.pi) * turn)
    apart = np.arccos(np.minimum(np.abs(along), 1.0))
    share = apart / np.maximum(np.sin(apart), PARALLEL)
    to_plus, to_minus = _sigma(base + towards_plus), _sigma(base + towards_minus)
    exponent = (share * plus / to_plus) ** 2 + (share * minus / to_minus) ** 2
    twist = np.exp(-0.5 * exponent) / (2 * math.pi * to_plus * to_minus)
    mixed = np.full(len(place), 1.0 / (2 * math.pi))
    density = np.stack([across / math.pi, twist, across * at_bisector, mixed], axis=1)
    return np.asarray(density / density.sum(axis=1, keepdims=True))


def _sigma(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(np.sqrt(variance), WIDEST_RAD)


def _folded(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle of a direction without a sign, -π/2 to π/2."""
    return np.mod(angle + math.pi / 2, math.pi) - math.pi / 2


def most_probable(probabilities: NDArray[np.float64], confidence: float) -> NDArray[np.int8]:
    """Code of the kind, in the order of `KINDS`.

    Parameters
    ----------
    probabilities : (n, 4) float64, of `KINDS[1:]`.
    confidence : least probability; with less the kind is undetermined. Twin and tilt that only
        together have it are a tilt, which both are.

    Returns
    -------
    (n,) int8.
    """
    best = probabilities.argmax(axis=1)
    code = np.where(probabilities.max(axis=1, initial=0.0) >= confidence, best + 1, 0)
    tilt, twin = KINDS.index("tilt"), KINDS.index("twin")
    either = probabilities[:, tilt - 1] + probabilities[:, twin - 1] >= confidence
    return np.where((code == 0) & either, tilt, code).astype(np.int8)
