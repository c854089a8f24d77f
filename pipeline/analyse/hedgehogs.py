"""Point defects (hedgehogs) of a vector field, its emergent field and its vorticity.

The direction of the field around a point defect covers the whole sphere. The solid angle that it
covers on the faces of a lattice cube, over 4π, is a whole number (`pipeline.analyse.solid_angle`);
per area it is the emergent field, Volovik, J. Phys. C 20, L83 (1987),
doi 10.1088/0022-3719/20/7/003; divided by 4π, the magnetic vorticity of Cooper, Phys. Rev. Lett.
82, 1554 (1999), doi 10.1103/PhysRevLett.82.1554. The vorticity here is the plain curl.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse.averaging import average_vector, noise_level, sampled, usable
from pipeline.analyse.cores import trilinear_zero
from pipeline.analyse.defect_results import Hedgehogs
from pipeline.analyse.noise_pairs import cancel, weak_regions
from pipeline.analyse.solid_angle import (
    cube_charges,
    curl,
    face_fluxes,
    hole_charges,
    voxel_fluxes,
)
from pipeline.analyse.surroundings import PLACES, find_surroundings, to_metres
from pipeline.analyse.winding import EVERYWHERE, label_holes
from pipeline.io.product import Map, Product, Table
from pipeline.io.products import Figure
from schemas.recipe import DefectSettings

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

STRONGEST_LIMIT = 0.5
"""Share of the typical length beyond which noise would cancel everything."""


def find_hedgehogs(
    vector: Volume,
    mask: Mask,
    pixel_size_m: float,
    settings: DefectSettings | None = None,
    maps: bool = True,
) -> Hedgehogs:
    """Find the point defects of a vector field.

    Parameters
    ----------
    vector : (3, z, y, x) float32, components x, y, z, of any length.
    mask : (z, y, x) bool, voxels that carry a vector.
    pixel_size_m : float [m].
    settings : the averaging, and what noise is.
    maps : whether the emergent field and the vorticity are wanted too.

    Returns
    -------
    What was found; empty, with a note, where the mask is.

    Raises
    ------
    InputError : the shapes do not fit.
    """
    settings = settings or DefectSettings()
    carrying, valid = usable(vector, mask)
    before = cube_charges(face_fluxes(_unit(vector, carrying), carrying), carrying)
    mean = average_vector(vector, carrying, valid, settings.average_voxels)
    limit = _limit(vector, mean, carrying, settings)
    unit = _unit(mean, valid)
    flux = face_fluxes(unit, valid)
    charges = cube_charges(flux, valid)
    cells = np.argwhere(charges).astype(np.int64)
    charge = charges[tuple(cells.T)].astype(np.int64)
    point = trilinear_zero(mean, cells)
    cells, point, charge = (
        np.repeat(values, np.abs(charge), axis=0) for values in (cells, point, np.sign(charge))
    )
    gone = cancel(weak_regions(mean, valid, cells, limit, False), charge, point)
    distance, place = find_surroundings(valid).of(point[~gone], settings.surface_voxels)
    pores, outside = _pores(flux, valid, pixel_size_m)
    field = turning = None
    if maps:
        field, turning = voxel_fluxes(flux, valid), curl(unit, valid)
        field *= np.float32(pixel_size_m**-2)
        turning /= np.float32(pixel_size_m)
    return Hedgehogs(
        pixel_size_m,
        to_metres(point[~gone], valid.shape, pixel_size_m),
        charge[~gone],
        distance * pixel_size_m,
        place,
        field,
        turning,
        pores,
        outside,
        int(np.abs(before.astype(np.int64)).sum()),
        len(charge),
        int(gone.sum()) // 2,
        limit,
        () if valid.any() else ("No voxel carries a vector, so that nothing was looked at.",),
    )


def _unit(vector: Volume, valid: Mask) -> Volume:
    """Unit vectors, zero where not valid; z where the vector is zero itself, so that a defect
    that lies on a voxel has a cube to be in."""
    length = np.zeros(valid.shape, np.float32)
    for component in vector:
        length += np.square(component, where=valid, out=np.zeros_like(length))
    np.sqrt(length, out=length)
    out = np.zeros_like(vector)
    np.divide(vector, length, out=out, where=valid & (length > 0))
    out[2, valid & (length == 0)] = 1.0
    return out


def _limit(vector: Volume, mean: Volume, carrying: Mask, settings: DefectSettings) -> float:
    """Length of the averaged vector below which it is taken for noise."""
    places = sampled(carrying)
    squared = [np.square(part.ravel()[places], dtype=np.float64) for part in mean]
    typical = float(np.sqrt(np.median(np.sum(squared, axis=0)))) if len(places) else 0.0
    noise = noise_level(vector, mean, carrying, settings.average_voxels)
    return min(settings.significance * noise, STRONGEST_LIMIT * typical)


def _pores(
    flux: Volume, valid: Mask, pixel_size_m: float
) -> tuple[dict[str, NDArray[np.float64] | NDArray[np.int64]], int]:
    """Pores that carry a charge, and the charge of the outside."""
    label, count = label_holes(valid, EVERYWHERE)
    total = hole_charges(flux, valid, label, count)
    around = label[0, 0, 0]
    outside, total[around] = int(total[around]), 0
    carrying = np.flatnonzero(total)
    boxes = ndimage.find_objects(label) if len(carrying) else []
    point = np.zeros((len(carrying), 3))
    for row, hole in enumerate(carrying):
        box = boxes[hole - 1]
        own = np.argwhere(label[box] == hole)
        point[row] = own.mean(axis=0) + [part.start - 1 for part in box]
    position = to_metres(point, valid.shape, pixel_size_m)
    return {"position_m": position, "charge": total[carrying]}, outside


def as_product(found: Hedgehogs) -> Product:
    """Maps, table and figures of the point defects."""
    table = Table(
        {
            "position_m": found.position_m,
            "charge": found.charge,
            "surface_distance_m": found.surface_distance_m,
            "place": PLACES[found.place],
        },
        {"position_m": "m", "charge": "", "surface_distance_m": "m", "place": ""},
        "Point defects of the vector field",
    )
    pores = Table(
        found.pores, {"position_m": "m", "charge": ""}, "Pores around which it covers the sphere"
    )
    pixel, maps = found.pixel_size_m, {}
    if found.emergent_field is not None:
        maps["emergent_field"] = Map(
            found.emergent_field, "1/m^2", "vector", pixel, "Solid angle of the direction per area"
        )
    if found.vorticity is not None:
        maps["vorticity"] = Map(found.vorticity, "1/m", "vector", pixel, "Curl of the unit vector")
    plus, minus = (int(np.count_nonzero(found.charge == sign)) for sign in (1, -1))
    notes = (
        *found.notes,
        f"Averaging changed the number of charged cubes from {found.charges_before_averaging} to "
        f"{found.charges_after_averaging}; {found.cancelled_pairs} pairs of opposite charges with "
        f"a field below {found.noise:.3g} between them were taken for noise.",
    )
    return Product(
        "hedgehogs",
        "Point defects",
        f"{plus} hedgehogs of charge +1 and {minus} of charge -1.",
        maps=maps,
        tables={"hedgehogs": table, "pores": pores},
        figures=_figures(found, plus, minus),
        notes=notes,
    )


def _figures(found: Hedgehogs, plus: int, minus: int) -> dict[str, Figure]:
    rest = int(found.charge.sum()) + int(found.pores["charge"].sum()) + found.outside
    return {
        "plus_one": Figure(plus, ""),
        "minus_one": Figure(minus, ""),
        "charged_pores": Figure(len(found.pores["charge"]), ""),
        "charge_outside": Figure(found.outside, "", description="seen from outside"),
        "cancelled_pairs": Figure(found.cancelled_pairs, "", description="taken for noise"),
        "unbalanced_charge": Figure(
            rest, "", description="hedgehogs, pores and the outside together; 0 is right"
        ),
    }
