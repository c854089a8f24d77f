"""Rotations of the sample, and projections grouped by the axis that they share.

Frames and conventions: the table in `pipeline/__init__.py`. Every rotation here is active and
right-handed and maps sample to lab coordinates, `r_lab = R r_sample`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import GeometryError

_ORTHOGONALITY = 1e-6


def rotation_x(angle_rad: float) -> NDArray[np.float64]:
    """Rotate about x by `angle_rad` [rad]: (3, 3) float64."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def rotation_y(angle_rad: float) -> NDArray[np.float64]:
    """Rotate about y by `angle_rad` [rad]: (3, 3) float64."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def rotation_z(angle_rad: float) -> NDArray[np.float64]:
    """Rotate about z by `angle_rad` [rad]: (3, 3) float64."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def series_rotations(
    angles_deg: ArrayLike, tilt_deg: float = 0.0, pre_rotation_deg: float = 0.0
) -> NDArray[np.float64]:
    """Rotations of a laminography-like tilt series, `R_y(theta) R_z(tilt) R_y(pre)`.

    Parameters
    ----------
    angles_deg : (n,) tomographic angles about the vertical lab axis [degree].
    tilt_deg : tilt of the stage about lab z [degree].
    pre_rotation_deg : rotation of the sample about its own axis before mounting [degree].

    Returns
    -------
    (n, 3, 3) float64.

    Raises
    ------
    GeometryError
        If the angles are not one row of finite numbers.

    Notes
    -----
    The mountings of Apseros et al., doi 10.1038/s41586-024-08233-y.
    """
    angles = _angle_table(angles_deg, "series_rotations", ndim=1)
    mounting = rotation_z(np.deg2rad(tilt_deg)) @ rotation_y(np.deg2rad(pre_rotation_deg))
    turned = [rotation_y(theta) @ mounting for theta in np.deg2rad(angles)]
    return np.array(turned).reshape(-1, 3, 3)


def euler_rotations(euler_deg: ArrayLike) -> NDArray[np.float64]:
    """Rotations of RESIRE-V's Euler angles, `(R_z(phi) R_y(theta) R_x(psi))^T`.

    Parameters
    ----------
    euler_deg : (n, 3) angles phi, theta, psi [degree].

    Returns
    -------
    (n, 3, 3) float64.

    Raises
    ------
    GeometryError
        If the table is not (n, 3) finite numbers.

    Notes
    -----
    Pham et al., doi 10.1038/s41598-024-59140-1. The weight of the magnetisation is the third
    row of the returned matrix (the paper calls it the last column of R†).
    """
    angles = np.deg2rad(_angle_table(euler_deg, "euler_rotations", ndim=2))
    turned = [
        (rotation_z(phi) @ rotation_y(theta) @ rotation_x(psi)).T for phi, theta, psi in angles
    ]
    return np.array(turned).reshape(-1, 3, 3)


def euler_angles_deg(rotations: ArrayLike) -> NDArray[np.float64]:
    """Angles phi, theta, psi of `euler_rotations` [degree], (n, 3) float64, theta within ±90.

    Raises
    ------
    GeometryError
        If `rotations` are not proper rotations.
    """
    turned = check_rotations(rotations, "euler_angles_deg").transpose(0, 2, 1)
    theta = np.arcsin(np.clip(-turned[:, 2, 0], -1.0, 1.0))
    phi = np.arctan2(turned[:, 1, 0], turned[:, 0, 0])
    psi = np.arctan2(turned[:, 2, 1], turned[:, 2, 2])
    return np.rad2deg(np.stack([phi, theta, psi], axis=1))


def _angle_table(angles_deg: ArrayLike, name: str, *, ndim: int) -> NDArray[np.float64]:
    angles = np.asarray(angles_deg, dtype=np.float64)
    expected = "(n,)" if ndim == 1 else "(n, 3)"
    if angles.ndim != ndim or (ndim == 2 and angles.shape[1] != 3):
        raise GeometryError(f"{name}: expected angles of shape {expected}, found {angles.shape}")
    if not np.isfinite(angles).all():
        raise GeometryError(f"{name}: expected finite angles, found NaN or infinity")
    return angles


def check_rotations(rotations: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return `rotations` as (n, 3, 3) float64, or say why they are none.

    Raises
    ------
    GeometryError
        If the shape is wrong, a number is not finite, or a matrix is no proper rotation.
    """
    matrices = np.asarray(rotations, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise GeometryError(f"{name}: expected rotations (n, 3, 3), found {matrices.shape}")
    if not np.isfinite(matrices).all():
        raise GeometryError(f"{name}: expected finite rotations, found NaN or infinity")
    off = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    # Matrices from single-precision files are orthogonal to about 1e-7.
    bad = np.flatnonzero((off > _ORTHOGONALITY) | (np.linalg.det(matrices) < 0.0))
    if bad.size:
        raise GeometryError(
            f"{name}: rotation {bad[0]} is not a proper rotation "
            f"(|R R^T - 1| = {off[bad[0]]:.1e}, det = {np.linalg.det(matrices[bad[0]]):.3f})"
        )
    return matrices


@dataclass(frozen=True)
class AxisGroup:
    """Projections that differ by a rotation about the vertical lab axis only.

    Attributes
    ----------
    indices : (k,) int64 positions in the whole set, ascending.
    base : (3, 3) float64, so that `R_m = R_y(angle_m) @ base`. It always has the form
        `R_x(beta) R_z(gamma)`: two turns, each in one plane of the grid.
    angles_rad : (k,) float64 in (-pi, pi] [rad].
    """

    indices: NDArray[np.int64]
    base: NDArray[np.float64]
    angles_rad: NDArray[np.float64]


def axis_turns(axis: NDArray[np.float64]) -> tuple[float, float]:
    """Angles `(gamma, beta)` [rad] of the `R_x(beta) R_z(gamma)` that brings `axis` onto lab y.

    Parameters
    ----------
    axis : (3,) unit vector, rotation axis in the sample frame: the second row of every `R`.
    """
    gamma = float(np.arctan2(axis[0], axis[1])) if np.hypot(axis[0], axis[1]) > 1e-12 else 0.0
    beta = float(np.arctan2(-axis[2], np.hypot(axis[0], axis[1])))
    return gamma, beta


def group_by_axis(rotations: ArrayLike, tolerance_rad: float = 1e-6) -> list[AxisGroup]:
    """Group projections that share one rotation axis.

    `R_y` leaves the second row of a rotation as it is, so projections of one series are those
    whose second rows agree: that row is the lab's vertical in sample coordinates.

    Parameters
    ----------
    rotations : (n, 3, 3) sample to lab.
    tolerance_rad : largest angle between axes of one group [rad]; 1e-6 moves a voxel 1000 voxels
        off the centre by a thousandth of a voxel.

    Returns
    -------
    Groups in the order of their first projection; a group of one is as good as any.

    Raises
    ------
    GeometryError
        If `rotations` are not proper rotations.
    """
    matrices = check_rotations(rotations, "group_by_axis")
    axes = matrices[:, 1, :] / np.linalg.norm(matrices[:, 1, :], axis=1, keepdims=True)
    left = np.ones(len(axes), dtype=bool)
    groups = []
    while left.any():
        first = int(np.argmax(left))
        distance = np.linalg.norm(axes - axes[first], axis=1)
        members = np.flatnonzero(left & (distance <= tolerance_rad))
        left[members] = False
        gamma, beta = axis_turns(axes[members].mean(axis=0))
        base = rotation_x(beta) @ rotation_z(gamma)
        about_y = matrices[members] @ base.T
        angles = np.arctan2(
            about_y[:, 0, 2] - about_y[:, 2, 0], about_y[:, 0, 0] + about_y[:, 2, 2]
        )
        groups.append(AxisGroup(members.astype(np.int64), base, angles))
    return groups
