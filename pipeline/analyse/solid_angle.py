"""Solid angles of a unit vector on the lattice: charges, emergent field, curl.

Every lattice face is two spherical triangles, split along the same diagonal for the cubes on both
sides of it, so that the charges of all cubes inside a closed surface are its flux, always:
Berg, Lüscher, Nucl. Phys. B 190, 412 (1981), doi 10.1016/0550-3213(81)90568-X.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.analyse.winding import FIRST, SECOND, whole_face

FULL = 4.0 * np.pi


NUDGE = 1e-4
"""Angle [rad] by which directions are moved where two of them are exactly opposite: the arc between
them is then one arc, the same one for every triangle."""

DEGENERATE = 1e-6

SMALL = 0.02


@njit(cache=True, nogil=True)
def _direction(m, at, nudge):  # type: ignore[no-untyped-def]
    """Direction at a voxel, moved by a fixed number for each voxel."""
    x, y, z = np.float64(m[0][at]), np.float64(m[1][at]), np.float64(m[2][at])
    if nudge == 0.0:
        return x, y, z
    mixed = (at[0] * 73856093) ^ (at[1] * 19349663) ^ (at[2] * 83492791)
    x += nudge * (((mixed * 2654435761) & 0xFFFF) / 65536.0 - 0.5)
    y += nudge * (((mixed * 2246822519) & 0xFFFF) / 65536.0 - 0.4)
    z += nudge * (((mixed * 3266489917) & 0xFFFF) / 65536.0 - 0.3)
    norm = 1.0 / np.sqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm


@njit(cache=True, nogil=True)
def _triangle(m, a, b, c, nudge):  # type: ignore[no-untyped-def]
    """Solid angle of the directions at three voxels, -2π to 2π."""
    ax, ay, az = _direction(m, a, nudge)
    bx, by, bz = _direction(m, b, nudge)
    cx, cy, cz = _direction(m, c, nudge)
    above = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    ab = ax * bx + ay * by + az * bz
    bc = bx * cx + by * cy + bz * cz
    ca = cx * ax + cy * ay + cz * az
    below = 1.0 + ab + bc + ca
    if abs(above) < SMALL * below:
        # The series of the arc tangent, exact to single precision, in a fifth of the time.
        t = above / below
        return 2.0 * t * (1.0 - t * t / 3.0), False
    return 2.0 * np.arctan2(above, below), abs(above) + abs(below) < DEGENERATE


@njit(cache=True, nogil=True)
def _solid_angle(m, a, b, c):  # type: ignore[no-untyped-def]
    found, degenerate = _triangle(m, a, b, c, 0.0)
    if degenerate:
        found, _ = _triangle(m, a, b, c, NUDGE)
    return found


@njit(cache=True, nogil=True, parallel=True)
def face_fluxes(unit: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Solid angle that a unit vector covers on every face of the lattice.

    Parameters
    ----------
    unit : (3, z, y, x) float32, components x, y, z.
    valid : (z, y, x) bool; faces with a voxel that is not valid are zero.

    Returns
    -------
    (3, z, y, x) float32 [sr]: of the faces whose normal is z, y, x and whose lowest voxel is that
    one, right-handed about the normal.
    """
    nz, ny, nx = valid.shape
    out = np.zeros((3, nz, ny, nx), np.float32)
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if not valid[z, y, x]:
                    continue
                o = (z, y, x)
                for normal in range(3):
                    whole, a, b, c = whole_face(valid, z, y, x, normal)
                    if whole:
                        out[normal, z, y, x] = _solid_angle(unit, o, a, b) + _solid_angle(
                            unit, o, b, c
                        )
    return out


@njit(cache=True, nogil=True)
def cube_charges(flux: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Charge of every cube of eight valid voxels, by its lowest one: (z, y, x) int8."""
    nz, ny, nx = valid.shape
    out = np.zeros((nz, ny, nx), np.int8)
    for z in range(nz - 1):
        for y in range(ny - 1):
            for x in range(nx - 1):
                whole = True
                for k in range(8):
                    whole = whole and valid[z + (k >> 2), y + ((k >> 1) & 1), x + (k & 1)]
                if whole:
                    total = (
                        (flux[0, z + 1, y, x] - flux[0, z, y, x])
                        + (flux[1, z, y + 1, x] - flux[1, z, y, x])
                        + (flux[2, z, y, x + 1] - flux[2, z, y, x])
                    )
                    out[z, y, x] = np.int8(np.rint(total / FULL))
    return out


@njit(cache=True, nogil=True)
def hole_charges(
    flux: NDArray[np.float32], valid: NDArray[np.bool_], label: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    """Charge of every hole of the mask, by its label.

    Parameters
    ----------
    flux, valid : of `face_fluxes`.
    label, count : of `pipeline.analyse.winding.label_holes` in `EVERYWHERE`.

    Returns
    -------
    (count + 1,) int64; with the cubes, and the outside (label 1), the sum is zero.
    """
    nz, ny, nx = valid.shape
    total = np.zeros(count + 1, np.float64)
    inside = np.zeros((2, 2, 2), np.bool_)
    for z in range(-1, nz):
        for y in range(-1, ny):
            for x in range(-1, nx):
                hole = 0
                for k in range(8):
                    i, j, m = k >> 2, (k >> 1) & 1, k & 1
                    a, b, c = z + i, y + j, x + m
                    inside[i, j, m] = 0 <= a < nz and 0 <= b < ny and 0 <= c < nx and valid[a, b, c]
                    if not inside[i, j, m]:
                        hole = label[a + 1, b + 1, c + 1]
                if hole == 0:
                    continue
                for side in range(2):
                    sign = 2.0 * side - 1.0
                    if inside[side].all():
                        total[hole] += sign * flux[0, z + side, y, x]
                    if inside[:, side].all():
                        total[hole] += sign * flux[1, z, y + side, x]
                    if inside[:, :, side].all():
                        total[hole] += sign * flux[2, z, y, x + side]
    return np.rint(total / FULL).astype(np.int64)


@njit(cache=True, nogil=True)
def voxel_fluxes(flux: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over the four faces around every voxel, components x, y, z, per face.

    Faces that are not there are left out; a voxel without any is zero.
    """
    nz, ny, nx = valid.shape
    out = np.zeros((3, nz, ny, nx), np.float32)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if not valid[z, y, x]:
                    continue
                for normal in range(3):
                    f, s = FIRST[normal], SECOND[normal]
                    total, count = 0.0, 0
                    for k in range(4):
                        i, j = k >> 1, k & 1
                        a = z - i * f[0] - j * s[0]
                        b = y - i * f[1] - j * s[1]
                        c = x - i * f[2] - j * s[2]
                        there = a >= 0 and b >= 0 and c >= 0
                        if there and whole_face(valid, a, b, c, normal)[0]:
                            total += flux[normal, a, b, c]
                            count += 1
                    if count:
                        out[2 - normal, z, y, x] = total / count
    return out


@njit(cache=True, nogil=True)
def _slope(values, valid, z, y, x, dz, dy, dx):  # type: ignore[no-untyped-def]
    """Derivative per voxel from the valid ones of two neighbours."""
    nz, ny, nx = valid.shape
    here = values[z, y, x]
    low = z - dz >= 0 and y - dy >= 0 and x - dx >= 0 and valid[z - dz, y - dy, x - dx]
    high = z + dz < nz and y + dy < ny and x + dx < nx and valid[z + dz, y + dy, x + dx]
    if low and high:
        return 0.5 * (values[z + dz, y + dy, x + dx] - values[z - dz, y - dy, x - dx])
    if high:
        return values[z + dz, y + dy, x + dx] - here
    if low:
        return here - values[z - dz, y - dy, x - dx]
    return np.float32(0.0)


@njit(cache=True, nogil=True)
def curl(unit: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Curl of a vector (3, z, y, x) in components x, y, z, per voxel; zero where not valid."""
    nz, ny, nx = valid.shape
    out = np.zeros((3, nz, ny, nx), np.float32)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if not valid[z, y, x]:
                    continue
                out[0, z, y, x] = _slope(unit[2], valid, z, y, x, 0, 1, 0) - _slope(
                    unit[1], valid, z, y, x, 1, 0, 0
                )
                out[1, z, y, x] = _slope(unit[0], valid, z, y, x, 1, 0, 0) - _slope(
                    unit[2], valid, z, y, x, 0, 0, 1
                )
                out[2, z, y, x] = _slope(unit[1], valid, z, y, x, 0, 0, 1) - _slope(
                    unit[0], valid, z, y, x, 0, 1, 0
                )
    return out
