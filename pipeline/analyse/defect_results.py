"""What the search for defects finds, as plain arrays; positions x, y, z [m] in the sample frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CREATED, ANNIHILATED = 1, -1
"""Codes of events."""


@dataclass(frozen=True)
class SliceDefects:
    """Defects in slices, one row each; positions x, y, z [m].

    Attributes
    ----------
    position_m : (k, 3) float64.
    slice_index : (k,) int64, index of the slice along the normal.
    charge : (k,) float64, winding number about the normal; halves, or whole where two or more
        halves are not resolved.
    line : (k,) int64, row in `lines`, of its first half.
    projected_length : (k,) float64, of the averaged director at the core, 0 to 1: near one in a
        singular core, near zero where it escapes.
    escaped : (k,) bool, integer defects where the director points along the normal.
    surface_distance_m : (k,) float64.
    place : (k,) uint8, code of `pipeline.analyse.surroundings`.
    """

    position_m: NDArray[np.float64]
    slice_index: NDArray[np.int64]
    charge: NDArray[np.float64]
    line: NDArray[np.int64]
    projected_length: NDArray[np.float64]
    escaped: NDArray[np.bool_]
    surface_distance_m: NDArray[np.float64]
    place: NDArray[np.uint8]


@dataclass(frozen=True)
class PlanarLines:
    """Lines of winding one half through the slices.

    Attributes
    ----------
    points_m : (n, 3) float64 x, y, z, running up the normal where the charge is positive.
    starts : (k + 1,) int64.
    closed : (k,) bool; others end at a surface.
    length_m : (k,) float64.
    slices : (k,) int64, slice crossings.
    projected_length : (k,) float64, median along the line.
    """

    points_m: NDArray[np.float64]
    starts: NDArray[np.int64]
    closed: NDArray[np.bool_]
    length_m: NDArray[np.float64]
    slices: NDArray[np.int64]
    projected_length: NDArray[np.float64]


@dataclass(frozen=True)
class Events:
    """Where two opposite halves appear or vanish, going up the normal.

    Attributes
    ----------
    position_m : (k, 3) float64 x, y, z.
    kind : (k,) int64, +1 creation, -1 annihilation.
    line : (k,) int64.
    """

    position_m: NDArray[np.float64]
    kind: NDArray[np.int64]
    line: NDArray[np.int64]


@dataclass(frozen=True)
class PlanarDefects:
    """Defects of the director in slices of one normal.

    Attributes
    ----------
    normal : of the slices.
    pixel_size_m : float.
    defects, lines, events : what was found.
    slice_sums : (n, 4) float64, of each slice: winding of the defects listed, of what noise and
        averaging took away, of the pores, and of the outside. They add up to zero.
    pores : column -> (k,) or (k, 3) array: pores that carry winding, slice by slice.
    charges_before_averaging, charges_after_averaging : halves in all slices.
    cancelled_pairs : opposite halves of one slice with only noise between them.
    cancelled_loops : closed lines smaller than noise allows to tell.
    noise : float, length of `q` below which it is taken for noise.
    notes : sentences.
    """

    normal: Literal["x", "y", "z"]
    pixel_size_m: float
    defects: SliceDefects
    lines: PlanarLines
    events: Events
    slice_sums: NDArray[np.float64]
    pores: Mapping[str, NDArray[np.float64] | NDArray[np.int64]]
    charges_before_averaging: int
    charges_after_averaging: int
    cancelled_pairs: int
    cancelled_loops: int
    noise: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DisclinationLines:
    """Disclination lines of an axis field in three dimensions.

    Attributes
    ----------
    pixel_size_m : float.
    points_m : (n, 3) float64 x, y, z; the direction of a line is arbitrary.
    starts : (k + 1,) int64.
    closed : (k,) bool; others end at a surface.
    length_m : (k,) float64.
    profile : (n,) float64, cosine between the line and the vector about which the director turns
        by half a turn: +1 a wedge of winding +1/2, -1 a wedge of -1/2, 0 a twist.
    rotation : (n, 3) float64 unit vector x, y, z about which the director turns, right-handed about
        the direction of the line.
    surface_distance_m : (n,) float64.
    place : (n,) uint8, code of `pipeline.analyse.surroundings`.
    shares : (k, 3) float64, shares of the length that are +1/2, -1/2, and twist.
    pierced_before_averaging, pierced_after_averaging : lattice faces that lines pass through.
    cancelled_loops : closed lines smaller than noise allows to tell.
    undecided_loops : closed lines along boundaries at which the axes are perpendicular within
        noise, so that noise decides where the line runs; not listed.
    noise_deg : float [degree], from 90, below which neighbours are perpendicular within noise.
    pore_ends : ends of lines near a pore.
    notes : sentences.
    """

    pixel_size_m: float
    points_m: NDArray[np.float64]
    starts: NDArray[np.int64]
    closed: NDArray[np.bool_]
    length_m: NDArray[np.float64]
    profile: NDArray[np.float64]
    rotation: NDArray[np.float64]
    surface_distance_m: NDArray[np.float64]
    place: NDArray[np.uint8]
    shares: NDArray[np.float64]
    pierced_before_averaging: int
    pierced_after_averaging: int
    cancelled_loops: int
    undecided_loops: int
    noise_deg: float
    pore_ends: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hedgehogs:
    """Point defects of a vector field.

    Attributes
    ----------
    pixel_size_m : float.
    position_m : (k, 3) float64 x, y, z.
    charge : (k,) int64, times that the direction covers the sphere around it; +1 also where the
        field points outwards everywhere.
    surface_distance_m : (k,) float64.
    place : (k,) uint8, code of `pipeline.analyse.surroundings`.
    emergent_field : (3, z, y, x) float32 [1/m^2], components x, y, z: solid angle that the
        direction covers per area, the flux of which through a closed surface is 4π times the charge
        inside; None where it was not asked for.
    vorticity : (3, z, y, x) float32 [1/m], curl of the unit vector; None likewise.
    pores : column -> (k,) or (k, 3) array: pores around which the field covers the sphere.
    outside : int, the same of all that is not masked, seen from outside: minus the sum of all
        charges, cancelled ones among them, and of the pores.
    charges_before_averaging, charges_after_averaging : unit charges.
    cancelled_pairs : opposite charges with only noise between them.
    noise : float, length of the vector below which it is taken for noise, in its unit.
    notes : sentences.
    """

    pixel_size_m: float
    position_m: NDArray[np.float64]
    charge: NDArray[np.int64]
    surface_distance_m: NDArray[np.float64]
    place: NDArray[np.uint8]
    emergent_field: NDArray[np.float32] | None
    vorticity: NDArray[np.float32] | None
    pores: Mapping[str, NDArray[np.float64] | NDArray[np.int64]]
    outside: int
    charges_before_averaging: int
    charges_after_averaging: int
    cancelled_pairs: int
    noise: float
    notes: tuple[str, ...] = ()
