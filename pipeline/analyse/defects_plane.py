"""Winding of the director in slices: comets, trefoils and integer defects, linked to lines.

The director's projection on a slice is `q = (a_u + i a_v)²`, which does not know the sign of `a`
and whose turns are twice the director's. Plaquettes around which it turns are found in the slices
and across them, so that lines need not be guessed (`pipeline.analyse.tracing`); where a line turns
back, a pair is created or annihilated.

Where the director points along the normal, `q` is zero too: there the winding number is an integer,
two halves at one place, and the director itself is smooth: it has escaped into the third dimension
(Meyer, Philos. Mag. 27, 405 (1973), doi 10.1080/14786437308227417). Such defects are marked.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse.averaging import average_axis, noise_level, usable
from pipeline.analyse.cores import Frames, at_corners, face_corners, points_on_faces, refine
from pipeline.analyse.defect_results import (
    ANNIHILATED,
    CREATED,
    Events,
    PlanarDefects,
    PlanarLines,
    SliceDefects,
)
from pipeline.analyse.halves import Halves, sort_out, unresolved
from pipeline.analyse.noise_pairs import sample
from pipeline.analyse.surroundings import PLACES, find_surroundings, to_metres
from pipeline.analyse.tracing import Faces, Paths, charged_faces, trace
from pipeline.analyse.winding import IN_SLICE, hole_windings, label_holes, winding_charges
from pipeline.io.product import Lines, Product, Table
from pipeline.io.products import Figure
from schemas.recipe import DefectSettings

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

ORDER: Mapping[str, tuple[int, int, int]] = {"z": (0, 1, 2), "y": (1, 2, 0), "x": (2, 0, 1)}
"""Axes of (z, y, x) that become (n, v, u) for each normal, `(u, v, n)` right-handed."""

PARTS: Mapping[str, tuple[int, int, int, int]] = {
    "z": (0, 1, 5, 2),
    "y": (2, 0, 4, 1),
    "x": (1, 2, 3, 0),
}
"""Components uu, vv, uv, nn of a tensor xx yy zz yz xz xy for each normal."""

SMOOTH = 5
"""Faces of a line over which its refined displacement is averaged."""

STRONGEST_LIMIT = 0.5
"""Noise beyond half of full order would cancel everything; what is left is then still reported."""


def find_planar_defects(
    axis: Volume,
    mask: Mask,
    pixel_size_m: float,
    settings: DefectSettings | None = None,
    averaged: Volume | None = None,
) -> PlanarDefects:
    """Find the defects of the director in all slices of one normal.

    Parameters
    ----------
    axis : (3, z, y, x) float32 unit vectors of either sign.
    mask : (z, y, x) bool, voxels that carry an orientation.
    pixel_size_m : float [m].
    settings : the normal, the averaging, and what noise is.
    averaged : (6, z, y, x) float32 of `average_axis`, if it is there already.

    Returns
    -------
    What was found; empty, with a note, where the mask is.

    Raises
    ------
    InputError : the shapes do not fit.
    """
    settings = settings or DefectSettings()
    carrying, valid = usable(axis, mask)
    tensor = averaged
    if tensor is None:
        tensor = average_axis(axis, carrying, valid, settings.average_voxels)
    order, parts = ORDER[settings.normal], PARTS[settings.normal]
    inside = np.ascontiguousarray(valid.transpose(order))
    raw = _double_angle_of_axis(axis, carrying, settings.normal)
    q = double_angle(tensor, parts, order)
    known = np.ascontiguousarray(carrying.transpose(order))
    before = int(np.count_nonzero(winding_charges(raw, known, True)))
    limit = max(
        float(np.sin(np.radians(settings.escape_deg)) ** 2),
        settings.significance * noise_level(raw, q, known, settings.average_voxels),
    )
    limit = min(limit, STRONGEST_LIMIT)
    faces = charged_faces(winding_charges(q, inside))
    faces = Faces(
        faces.normal,
        faces.voxel,
        faces.charge,
        points_on_faces(faces, at_corners(q, face_corners(faces))),
    )
    shape = (inside.shape[0], inside.shape[1], inside.shape[2])
    paths = trace(faces, shape, signed=True)
    halves = sort_out(faces, paths, q, inside, limit, settings)
    to_xyz = _Frame(order, mask.shape, pixel_size_m)
    length = _projected_length(tensor[parts[3]], to_xyz.volume_points(faces.point))
    group = unresolved(faces, halves, settings.core_voxels)
    faces = _refine(faces, paths, halves, group, raw)
    lines, row_of_line = _lines(faces, paths, halves, length, to_xyz)
    row = row_of_line[halves.line]
    sums, pores = _balance(faces, halves, q, inside, to_xyz)
    return PlanarDefects(
        settings.normal,
        pixel_size_m,
        _resolve(faces, halves, group, row, length, valid, to_xyz, settings),
        lines,
        _events(faces, paths, row_of_line, to_xyz),
        sums,
        pores,
        before,
        int(np.count_nonzero(faces.normal == 0)),
        int(halves.gone.sum()) // 2,
        int(halves.tiny.sum()),
        limit,
        () if valid.any() else ("No voxel carries an orientation, so that nothing was looked at.",),
    )


def double_angle(
    tensor: Volume, parts: tuple[int, int, int, int], order: tuple[int, int, int]
) -> Volume:
    """Projection of an averaged director on slices, (2, n, v, u) float32: `(a_u + i a_v)²`."""
    uu, vv, uv, _ = parts
    return np.ascontiguousarray(
        np.stack([(tensor[uu] - tensor[vv]).transpose(order), (2.0 * tensor[uv]).transpose(order)])
    )


def _double_angle_of_axis(axis: Volume, carrying: Mask, normal: str) -> Volume:
    """The same of the director itself, zero where there is none."""
    order = ORDER[normal]
    v, u = (axis[2 - order[k]].transpose(order) for k in (1, 2))
    inside = carrying.transpose(order)
    out = np.zeros((2, *inside.shape), np.float32)
    np.subtract(u * u, v * v, out=out[0], where=inside)
    np.multiply(2.0 * u, v, out=out[1], where=inside)
    return out


@dataclass(frozen=True)
class _Frame:
    """From points n, v, u [voxel] to the sample frame."""

    order: tuple[int, int, int]
    shape: tuple[int, ...]
    pixel_size_m: float

    def volume_points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points z, y, x [voxel]."""
        out = np.empty_like(points)
        out[:, list(self.order)] = points
        return out

    def metres(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points x, y, z [m]."""
        return to_metres(self.volume_points(points), self.shape, self.pixel_size_m)


def _projected_length(normal_part: Volume, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rms length of the director's projection at points z, y, x."""
    return np.sqrt(np.clip(1.0 - sample(normal_part[None], points)[0], 0.0, 1.0))


def _lines(
    faces: Faces, paths: Paths, halves: Halves, length: NDArray[np.float64], frame: _Frame
) -> tuple[PlanarLines, NDArray[np.int64]]:
    """Lines that are listed, and the row of each line among them (-1: none)."""
    listed = np.flatnonzero(halves.listed)
    rows = np.full(len(paths.closed), -1)
    rows[listed] = np.arange(len(listed))
    chosen = [paths.order[paths.starts[i] : paths.starts[i + 1]] for i in listed]
    # A closed line ends where it began.
    whole = [
        np.append(c, c[:1]) if paths.closed[i] else c for i, c in zip(listed, chosen, strict=True)
    ]
    points = [frame.metres(faces.point[c]) for c in whole]
    found = PlanarLines(
        np.concatenate([np.zeros((0, 3)), *points]),
        np.cumsum([0, *map(len, points)]).astype(np.int64),
        paths.closed[listed],
        np.array([np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in points], np.float64),
        np.array([np.count_nonzero(faces.normal[c] == 0) for c in chosen], np.int64),
        np.array([np.median(length[c]) for c in chosen], np.float64),
    )
    return found, rows


def _mean_of(group: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the members of each group, (count, ...)."""
    count = int(group.max(initial=-1)) + 1
    size = np.maximum(np.bincount(group, minlength=count), 1)
    if values.ndim == 1:
        return np.bincount(group, values, count) / size
    return np.stack([_mean_of(group, column) for column in values.T], axis=1)


def _refine(
    faces: Faces, paths: Paths, halves: Halves, group: NDArray[np.int64], raw: Volume
) -> Faces:
    """Move kept halves, and the lines between them, to where the field itself turns."""
    kept = np.flatnonzero(halves.kept)
    if len(kept) == 0:
        return faces
    point = _mean_of(group, faces.point[kept])
    along_u, along_v = np.zeros((2, *point.shape))
    along_u[:, 2] = along_v[:, 1] = 1.0
    turns = np.bincount(group, faces.charge[kept]).astype(np.float64)

    def look_up(_: slice, voxel: NDArray[np.int64]) -> NDArray[np.complex128]:
        n, v, u = np.moveaxis(voxel, -1, 0)
        return raw[0, n, v, u] + 1j * raw[1, n, v, u].astype(np.float64)

    moved = refine(Frames(point, along_u, along_v, turns), raw.shape[1:], look_up, in_slice=True)
    shift = np.full(faces.point.shape, np.nan)
    shift[kept] = moved[group]
    _fill_along(shift, paths)
    return Faces(faces.normal, faces.voxel, faces.charge, faces.point + shift)


def _fill_along(shift: NDArray[np.float64], paths: Paths) -> None:
    """Displacements along each line, in place: linear between refined faces, and smooth, since
    the bias that they take away changes slowly, and their noise does not."""
    for start, stop in itertools.pairwise(paths.starts):
        along = paths.order[start:stop]
        known = np.flatnonzero(np.isfinite(shift[along, 0]))
        if len(known) == 0:
            shift[along] = 0.0
            continue
        filled = np.stack(
            [np.interp(np.arange(len(along)), known, shift[along[known], k]) for k in range(3)],
            axis=1,
        )
        shift[along] = ndimage.uniform_filter1d(filled, SMOOTH, axis=0, mode="nearest")


def _resolve(
    faces: Faces,
    halves: Halves,
    group: NDArray[np.int64],
    row: NDArray[np.int64],
    length: NDArray[np.float64],
    valid: Mask,
    frame: _Frame,
    settings: DefectSettings,
) -> SliceDefects:
    """Join halves that are not resolved to integer defects."""
    kept = np.flatnonzero(halves.kept)
    point = _mean_of(group, faces.point[kept])
    charge = 0.5 * np.bincount(group, faces.charge[kept], len(point)).astype(np.float64)
    _, first = np.unique(group, return_index=True)
    projected = _mean_of(group, length[kept])
    points = frame.volume_points(point)
    distance, place = find_surroundings(valid).of(points, settings.surface_voxels)
    order = np.lexsort((point[:, 2], point[:, 1], point[:, 0]))
    whole = np.rint(2.0 * charge).astype(np.int64) % 2 == 0
    return SliceDefects(
        frame.metres(point)[order],
        np.rint(point[order, 0]).astype(np.int64),
        charge[order],
        row[kept[first]][order],
        projected[order],
        (whole & (projected**2 < 0.5))[order],
        (distance * frame.pixel_size_m)[order],
        place[order],
    )


def _events(faces: Faces, paths: Paths, row_of_line: NDArray[np.int64], frame: _Frame) -> Events:
    """Where listed lines turn back along the normal."""
    points, kinds, rows = [], [], []
    for line in np.flatnonzero(row_of_line >= 0):
        along = paths.order[paths.starts[line] : paths.starts[line + 1]]
        at = np.flatnonzero(faces.normal[along] == 0)
        charge = faces.charge[along[at]]
        following = np.roll(charge, -1) if paths.closed[line] else np.append(charge[1:], 0)
        for k in np.flatnonzero(charge * following < 0):
            stop = at[(k + 1) % len(at)]
            stop += len(along) if stop <= at[k] else 0
            between = along[np.arange(at[k], stop + 1) % len(along)]
            points.append(faces.point[between].mean(axis=0))
            kinds.append(ANNIHILATED if charge[k] > 0 else CREATED)
            rows.append(row_of_line[line])
    return Events(
        frame.metres(np.array(points, np.float64).reshape(-1, 3)),
        np.array(kinds, np.int64),
        np.array(rows, np.int64),
    )


def _balance(
    faces: Faces, halves: Halves, q: Volume, inside: Mask, frame: _Frame
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64] | NDArray[np.int64]]]:
    """Winding of every slice by what carries it, and the pores that carry some."""
    slices, in_slice = faces.voxel[:, 0], faces.normal == 0
    n = inside.shape[0]
    label, count = label_holes(inside, IN_SLICE)
    total = hole_windings(q, inside, label, count)
    outside = label[1:-1, 0, 0]
    lost = in_slice & ~halves.kept
    sums = np.zeros((n, 4))
    sums[:, 0] = np.bincount(slices[halves.kept], faces.charge[halves.kept], n)
    sums[:, 1] = np.bincount(slices[lost], faces.charge[lost], n)
    sums[:, 3] = total[outside]
    total[outside] = 0
    carrying = np.flatnonzero(total)
    boxes = ndimage.find_objects(label) if len(carrying) else []
    point = np.zeros((len(carrying), 3))
    for row, hole in enumerate(carrying):
        box = boxes[hole - 1]
        own = np.argwhere(label[box] == hole)
        point[row] = own.mean(axis=0) + [part.start - 1 for part in box]
    at = np.rint(point[:, 0]).astype(np.int64)
    sums[:, 2] = np.bincount(at, total[carrying], n)
    pores = {"position_m": frame.metres(point), "slice": at, "charge": 0.5 * total[carrying]}
    return 0.5 * sums, pores


def as_product(found: PlanarDefects) -> Product:
    """Tables, lines and figures of the defects in slices."""
    d, e, lines = found.defects, found.events, found.lines
    defects = Table(
        {
            "position_m": d.position_m,
            "slice": d.slice_index,
            "charge": d.charge,
            "line": d.line,
            "projected_length": d.projected_length,
            "escaped": d.escaped,
            "surface_distance_m": d.surface_distance_m,
            "place": PLACES[d.place],
        },
        {
            "position_m": "m",
            "slice": "",
            "charge": "",
            "line": "",
            "projected_length": "",
            "escaped": "",
            "surface_distance_m": "m",
            "place": "",
        },
        f"Defects of the director in slices normal to {found.normal}",
    )
    events = Table(
        {"position_m": e.position_m, "kind": e.kind, "line": e.line},
        {"position_m": "m", "kind": "", "line": ""},
        f"Creation (+1) and annihilation (-1) of pairs going up {found.normal}",
    )
    pores = Table(
        found.pores,
        {"position_m": "m", "slice": "", "charge": ""},
        "Pores whose rim carries winding, slice by slice",
    )
    polylines = Lines(
        lines.points_m,
        lines.starts,
        {
            "closed": lines.closed,
            "length_m": lines.length_m,
            "slices": lines.slices,
            "projected_length": lines.projected_length,
        },
        "Lines of winding one half; upwards where it is positive",
    )
    return Product(
        "defects_plane",
        "Defects in slices",
        _summary(found),
        tables={"defects": defects, "events": events, "pores": pores},
        lines={"lines": polylines},
        figures=_figures(found),
        notes=(*found.notes, _noise_note(found)),
    )


def _counts(found: PlanarDefects) -> dict[str, int]:
    charge, escaped = found.defects.charge, found.defects.escaped
    return {
        "comets": int(np.count_nonzero(charge == 0.5)),
        "trefoils": int(np.count_nonzero(charge == -0.5)),
        "integer_defects": int(np.count_nonzero(np.abs(charge) >= 1)),
        "escaped_integer_defects": int(np.count_nonzero(escaped)),
    }


def _summary(found: PlanarDefects) -> str:
    counts = _counts(found)
    return (
        f"Winding of the director in the slices normal to {found.normal}: {counts['comets']} "
        f"comets (+1/2), {counts['trefoils']} trefoils (-1/2) and {counts['integer_defects']} "
        f"integer defects, {counts['escaped_integer_defects']} of them escaped, in "
        f"{len(found.lines.closed)} lines."
    )


def _noise_note(found: PlanarDefects) -> str:
    return (
        f"Averaging changed the number of charged plaquettes from "
        f"{found.charges_before_averaging} to {found.charges_after_averaging}; "
        f"{found.cancelled_pairs} pairs of opposite halves with a projected order below "
        f"{found.noise:.3f} between them and {found.cancelled_loops} small closed loops were taken "
        "for noise."
    )


def _figures(found: PlanarDefects) -> dict[str, Figure]:
    unbalanced = np.count_nonzero(found.slice_sums.sum(axis=1))
    return {
        **{name: Figure(value, "") for name, value in _counts(found).items()},
        "lines": Figure(len(found.lines.closed), "", description="through two or more slices"),
        "creations": Figure(int(np.count_nonzero(found.events.kind == CREATED)), ""),
        "annihilations": Figure(int(np.count_nonzero(found.events.kind == ANNIHILATED)), ""),
        "cancelled_pairs": Figure(found.cancelled_pairs, "", description="taken for noise"),
        "cancelled_loops": Figure(found.cancelled_loops, "", description="taken for noise"),
        "unbalanced_slices": Figure(
            float(unbalanced), "", description="where defects, pores and the outside do not add up"
        ),
    }
