"""Errors of a result against known truth.

The truth of a simulated beamtime is a map of labels on a grid of its own, finer than the result.
Where the origin of the sample lies cannot be measured, so the two are first brought together by a
translation, found from the densities; nothing else is fitted away. A voxel counts for orientation
and grains when the whole cube that it covers has one label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.align.consistency import alignment_residual
from pipeline.align.register import register_volumes
from pipeline.analyse.density import Materials, material_densities
from pipeline.analyse.merging import find_roots, join_edges
from pipeline.analyse.score_chemistry import score_composition
from pipeline.analyse.score_uncertainty import score_uncertainty
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_alone
from pipeline.io.products import ResultData
from pipeline.io.results import read_result
from pipeline.simulate.presets import preset_named
from schemas.recipe import GrainSettings, Recipe, RegisterSettings

Scores = dict[str, dict[str, Any]]
"""Name -> value, unit, description."""

SMALLEST_GRAIN = 27
"""Grains of fewer voxels of the result are too small to be asked for."""


def score_result(result_path: Path, truth_path: Path) -> Scores:
    """Errors of a result against the truth that belongs to it.

    Parameters
    ----------
    result_path : `result.nxs`.
    truth_path : `truth.h5` of a simulated beamtime or of an imported data set with a model.

    Returns
    -------
    Name -> `value`, `unit` and `description`, for every product that both have.

    Raises
    ------
    InputError
        If a file cannot be read, the kind of truth is unknown, or nothing can be compared.
    """
    result = read_result(result_path)
    with open_alone(truth_path) as file:
        kind = file.attrs.get("kind")
        if kind == "magnetisation":
            scores = _score_magnetisation(result, file, truth_path)
        elif kind == "orientation":
            scores = _score_labels(result, file)
        elif kind == "chemistry":
            made = result.products.get("chemistry")
            scores = {} if made is None else score_composition(made, file)
            scores |= _score_alignment(result, file)
        else:
            raise InputError(
                f"expected kind 'orientation', 'magnetisation' or 'chemistry', found {kind!r}",
                path=truth_path,
                field="kind",
            )
    if not scores:
        raise InputError(f"nothing in it can be compared with {truth_path}", path=result_path)
    return scores


def _entry(value: SupportsFloat, unit: str, description: str) -> dict[str, Any]:
    return {"value": float(value), "unit": unit, "description": description}


def field_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """`sum(a b) / sqrt(sum a² sum b²)` over the whole volume, means kept, as RESIRE-V scores it.

    Returns
    -------
    -1 to 1; 0 where either field vanishes.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0


def _score_magnetisation(result: ResultData, file: h5py.File, path: Path) -> Scores:
    if result.magnetisation is None:
        return {}
    found = result.magnetisation.vector
    true = file["magnetisation/vector"][()]
    if found.shape != true.shape:
        raise InputError(
            f"expected the result's shape {found.shape}, found {true.shape}",
            path=path,
            field="magnetisation/vector",
        )
    scores = {}
    for index, name in enumerate("xyz"):
        value = field_correlation(found[index], true[index])
        scores[f"correlation_{name}"] = _entry(
            value, "", f"correlation of m_{name} with the model, whole volume, means kept"
        )
    inside = file["magnetisation/support"][()] > 0
    a, b = found[:, inside].astype(np.float64), true[:, inside].astype(np.float64)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b, axis=0), axis=0), np.sum(a * b, axis=0))
    scores["direction_error_median_deg"] = _entry(
        np.degrees(np.median(angle)), "degree", "median angle to the model inside its support"
    )
    return scores


def adjusted_rand_index(found: NDArray[np.integer], true: NDArray[np.integer]) -> float:
    """Agreement of two partitions: 1 for the same, 0 on average for chance.

    Parameters
    ----------
    found, true : labels of the same shape; every value is a class of its own.

    Returns
    -------
    The index; 1 where both put everything into one class, NaN for no voxel at all.

    Notes
    -----
    Hubert, Arabie, J. Classif. 2, 193 (1985), doi 10.1007/BF01908075, eq. 5.
    """
    n = found.size
    if n == 0:
        return math.nan
    a = np.unique(found.ravel(), return_inverse=True)[1].reshape(-1).astype(np.int64)
    b = np.unique(true.ravel(), return_inverse=True)[1].reshape(-1).astype(np.int64)
    joint = np.unique(a * (b.max() + 1) + b, return_counts=True)[1]

    def pairs(counts: NDArray[np.integer]) -> float:
        real = counts.astype(np.float64)
        return float(np.sum(real * (real - 1.0)) / 2.0)

    in_a, in_b = pairs(np.bincount(a)), pairs(np.bincount(b))
    every = n * (n - 1.0) / 2.0
    expected = in_a * in_b / every if every > 0 else 0.0
    largest = 0.5 * (in_a + in_b)
    return 1.0 if largest == expected else (pairs(joint) - expected) / (largest - expected)


@dataclass(frozen=True)
class LabelTruth:
    """Truth of a simulated beamtime, as in the file that the simulation wrote."""

    labels: NDArray[np.uint16]
    voxel_m: float
    material: NDArray[np.uint8]
    names: tuple[str, ...]
    axis: NDArray[np.float64]
    electron_density: NDArray[np.float64]
    f_lin_per_m: float

    @classmethod
    def load(cls, file: h5py.File) -> LabelTruth:
        """Read it from an open `truth.h5`."""
        table = file["table"]
        return cls(
            labels=file["labels"][()],
            voxel_m=float(file["labels"].attrs["voxel_size_m"]),
            material=table["material"][()],
            names=tuple(str(name) for name in table.attrs["names"]),
            axis=table["axis"][()],
            electron_density=table["electron_density"][()],
            f_lin_per_m=float(file.attrs["f_lin_rad"]) / float(file.attrs["pixel_size_m"]),
        )

    def density_on(self, shape: tuple[int, ...], pixel_m: float) -> NDArray[np.float32]:
        """Electron density averaged exactly over the voxels of another grid, same origin."""
        values = self.electron_density.astype(np.float32)[self.labels]
        for axis, n in enumerate(shape):
            overlap = overlap_matrix(n, pixel_m, self.labels.shape[axis], self.voxel_m)
            values = np.moveaxis(np.tensordot(overlap, values, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(values, np.float32)

    def pure_values(
        self, shape: tuple[int, ...], pixel_m: float, shift_m: NDArray[np.float64], table: Any
    ) -> NDArray[np.int32]:
        """`table[label]` where it is one and the same in the whole cube of a voxel, else -1.

        Parameters
        ----------
        shape : of the other grid.
        pixel_m : edge of its voxels [m].
        shift_m : (z, y, x) of its origin in the frame of the truth [m].
        table : (n_labels,) int, what a label stands for.
        """
        taps = [
            _covered(n, pixel_m, n_fine, self.voxel_m, shift)
            for n, n_fine, shift in zip(shape, self.labels.shape, shift_m, strict=True)
        ]
        # One label of air around the map, so that indices beyond it find air.
        fine = np.pad(np.asarray(table, np.int32)[self.labels], 1, constant_values=int(table[0]))
        value = fine[np.ix_(taps[0][0], taps[1][0], taps[2][0])]
        pure = np.ones(value.shape, bool)
        for z in taps[0]:
            for y in taps[1]:
                for x in taps[2]:
                    pure &= fine[np.ix_(z, y, x)] == value
        return np.where(pure, value, np.int32(-1))


def overlap_matrix(
    n: int, pixel_m: float, n_fine: int, fine_m: float, shift_m: float = 0.0
) -> NDArray[np.float32]:
    """(n, n_fine) share of each voxel that every fine voxel covers; origins at `n // 2`."""
    low = (np.arange(n) - n // 2 - 0.5) * pixel_m + shift_m
    fine_low = (np.arange(n_fine) - n_fine // 2 - 0.5) * fine_m
    top = np.minimum(low[:, None] + pixel_m, fine_low[None, :] + fine_m)
    overlap = np.maximum(top - np.maximum(low[:, None], fine_low[None, :]), 0.0)
    return (overlap / pixel_m).astype(np.float32)


def _covered(
    n: int, pixel_m: float, n_fine: int, fine_m: float, shift_m: float
) -> list[NDArray[np.int64]]:
    """Indices (padded by one) of the fine voxels that each voxel touches, as lists of taps."""
    tiny = 1e-6 * fine_m
    low = (np.arange(n) - n // 2 - 0.5) * pixel_m + shift_m + tiny
    taps = math.ceil(pixel_m / fine_m) + 1
    positions = [np.minimum(low + k * fine_m, low + pixel_m - 2 * tiny) for k in range(taps)]
    indices = [np.floor(position / fine_m + 0.5).astype(np.int64) for position in positions]
    return [np.clip(index + n_fine // 2 + 1, 0, n_fine + 1) for index in indices]


def _score_labels(result: ResultData, file: h5py.File) -> Scores:
    truth = LabelTruth.load(file)
    volume = _scalar_volume(result)
    scores: Scores = {}
    if volume is not None:
        shift_px, registration = _register(volume, truth, result.pixel_size_m)
        shift_m = shift_px * result.pixel_size_m
        stages: list[Callable[..., Scores]] = [_score_orientation, _score_density, _score_grains]
        for stage in stages:
            scores.update(stage(result, truth, shift_m))
        scores.update(registration)
    return {**scores, **_score_mountings(result, file), **_score_alignment(result, file)}


def _scalar_volume(result: ResultData) -> NDArray[np.float32] | None:
    """The volume that says best where the sample is."""
    if result.density is not None:
        return result.density.electron_density
    if result.scalar is not None:
        return result.scalar.volume
    return None if result.orientation is None else result.orientation.support.astype(np.float32)


def _register(
    volume: NDArray[np.float32], truth: LabelTruth, pixel_m: float
) -> tuple[NDArray[np.float64], Scores]:
    """Place of the result's origin in the frame of the truth, (z, y, x) [voxel of the result]."""
    shape = tuple(
        max(n, math.ceil(m * truth.voxel_m / pixel_m))
        for n, m in zip(volume.shape, truth.labels.shape, strict=True)
    )
    density = truth.density_on(shape, pixel_m)
    identity = np.eye(3)
    moved = register_volumes(
        volume, density, identity, RegisterSettings(enabled=True, refine_rotation=False)
    )
    turned = register_volumes(volume, density, identity, RegisterSettings(enabled=True))
    cosine = (np.trace(turned.rotation) - 1.0) / 2.0
    scores = {
        "registration_shift_voxel": _entry(
            np.linalg.norm(moved.shift), "voxel", "translation that was taken away before scoring"
        ),
        "global_rotation_deg": _entry(
            np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))),
            "degree",
            "rotation of the result against the truth, not taken away",
        ),
    }
    return moved.shift[::-1].copy(), scores


def _score_orientation(
    result: ResultData, truth: LabelTruth, shift_m: NDArray[np.float64]
) -> Scores:
    maps = result.orientation
    if maps is None:
        return {}
    every = np.arange(len(truth.material))
    label = truth.pure_values(maps.support.shape, result.pixel_size_m, shift_m, every)
    dichroic = np.linalg.norm(truth.axis, axis=1) > 0.5
    pure = (label >= 0) & dichroic[label]
    if not pure.any():
        return {}
    axis = maps.axis[:, pure].astype(np.float64)
    length = np.linalg.norm(axis, axis=0)
    dot = np.abs(np.sum(axis * truth.axis[label[pure]].T, axis=0)) / np.maximum(length, 1e-12)
    # A voxel without an axis is a miss, not an omission.
    error = np.where(length > 0.5, np.degrees(np.arccos(np.minimum(dot, 1.0))), 90.0)
    over = "over voxels that belong to one grain"
    scores = {
        "orientation_error_median_deg": _entry(
            np.median(error), "degree", f"median angle between found and true axis, {over}"
        ),
        "orientation_error_rms_deg": _entry(
            np.sqrt(np.mean(error**2)), "degree", f"rms angle between found and true axis, {over}"
        ),
        "orientation_within_10deg_percent": _entry(
            100 * np.mean(error <= 10), "%", f"share within 10 degrees, {over}"
        ),
        "orientation_within_4deg_percent": _entry(
            100 * np.mean(error <= 4), "%", f"share within 4 degrees, {over}"
        ),
        "orientation_coverage_percent": _entry(
            100 * np.mean(length > 0.5), "%", f"share that has an axis at all, {over}"
        ),
        "orientation_voxels": _entry(error.size, "voxel", "voxels that belong to one grain"),
        "dichroic_contrast_ratio": _entry(
            np.median(maps.magnitude[pure]) / (truth.f_lin_per_m * result.pixel_size_m),
            "",
            f"median of found over true dichroic contrast, {over}",
        ),
    }
    if maps.uncertainty_deg is not None:
        scores.update(score_uncertainty(error, maps.uncertainty_deg[pure]))
    return scores


def _score_density(result: ResultData, truth: LabelTruth, shift_m: NDArray[np.float64]) -> Scores:
    maps = result.density
    if maps is None:
        return {}
    scores: Scores = {}
    materials = Materials(maps.materials, maps.names, maps.windows)
    for found in material_densities(maps.electron_density, materials, maps.keep):
        if found.name not in truth.names:
            continue
        key = f"electron_density_{found.name.lower()}"
        index = truth.names.index(found.name)
        true = float(truth.electron_density[truth.material == index][0])
        where = f"of {found.name}, median over the interior of its segmented voxels"
        scores[key] = _entry(found.density, "e/Å³", f"electron density {where}")
        scores[f"{key}_error_percent"] = _entry(
            100 * (found.density / true - 1.0), "%", f"error of the electron density {where}"
        )
    shape = maps.materials.shape
    true_material = truth.pure_values(shape, result.pixel_size_m, shift_m, truth.material)
    scored = true_material > 0
    if scored.any():
        # Materials that the result does not know of belong to none of its windows.
        number = {name: i + 1 for i, name in enumerate(maps.names)}
        expected = np.array([number.get(name, 0) for name in truth.names])
        right = maps.materials[scored] == expected[true_material[scored]]
        scores["materials_accuracy_percent"] = _entry(
            100 * np.mean(right), "%", "share of rightly labelled voxels of one true material"
        )
    return scores


def _score_grains(result: ResultData, truth: LabelTruth, shift_m: NDArray[np.float64]) -> Scores:
    maps = result.grains
    if maps is None:
        return {}
    every = np.arange(len(truth.material))
    origin = shift_m + np.array(maps.offset_m)
    label = truth.pure_values(maps.label.shape, maps.pixel_size_m, origin, every)
    dichroic = np.linalg.norm(truth.axis, axis=1) > 0.5
    pure = (label >= 0) & dichroic[label] & (maps.label > 0)
    if not pure.any():
        return {}
    sizes = np.bincount(label[pure], minlength=len(every))
    large = pure & (sizes[np.maximum(label, 0)] >= SMALLEST_GRAIN)
    threshold = _grain_threshold_deg(result)
    merged = _merge_close(truth, threshold)
    over = f"true grains of {SMALLEST_GRAIN} voxels and more"
    return {
        "grains_adjusted_rand_index": _entry(
            adjusted_rand_index(maps.label[large], label[large]),
            "",
            f"agreement of the grains, {over}",
        ),
        "grains_adjusted_rand_index_separable": _entry(
            adjusted_rand_index(maps.label[large], merged[label[large]]),
            "",
            f"the same, touching true grains closer than {threshold:g} degrees counted as one",
        ),
        "grains_found": _entry(maps.label.max(), "", "number of grains found"),
        "grains_true": _entry(
            np.count_nonzero(sizes >= SMALLEST_GRAIN), "", f"number of {over} where sought"
        ),
    }


def _grain_threshold_deg(result: ResultData) -> float:
    """Misorientation at which the result tells grains apart, from its own recipe."""
    if result.provenance is None:
        return GrainSettings().misorientation_deg
    return Recipe.model_validate_json(result.provenance.recipe).grains.misorientation_deg


def _merge_close(truth: LabelTruth, threshold_deg: float) -> NDArray[np.int64]:
    """(n_labels,) one number for grains that hang together by touching pairs below a threshold."""
    pairs = []
    for axis in range(3):
        along = np.moveaxis(truth.labels, axis, 0)
        first, second = along[:-1].astype(np.int64), along[1:].astype(np.int64)
        touching = first != second
        n = len(truth.material)
        code = np.unique(first[touching] * n + second[touching])
        pairs.append(np.stack([code // n, code % n], axis=1))
    edges = np.concatenate(pairs)
    dot = np.abs(np.sum(truth.axis[edges[:, 0]] * truth.axis[edges[:, 1]], axis=1))
    close = edges[dot > math.cos(math.radians(threshold_deg))]
    return find_roots(join_edges(close, len(truth.material)))


def _score_alignment(result: ResultData, file: h5py.File) -> Scores:
    """Error of the shifts of every series, apart from the rigid motion that it cannot see."""
    each: Scores = {}
    squares, count = 0.0, 0
    for name, series in result.alignment.items():
        if f"series/{name}" not in file:
            continue
        group = file[f"series/{name}"]
        rows = _matching(series.angles_deg, group["angles_deg"][()])
        if rows is None:
            continue
        scale = float(group.attrs["pixel_size_m"]) / result.pixel_size_m
        # The rotation axis belongs to the centre of the frame; resampling keeps that in place.
        centre = np.array(_frame_shape(group)) // 2
        true = scale * (centre - group["origin_px"][()][rows])
        rms, residual = alignment_residual(series.shifts_px, true, np.radians(series.angles_deg))
        each[f"alignment_residual_{name}_px"] = _entry(
            rms, "pixel", f"rms error of the shifts of {name}"
        )
        squares, count = squares + float(np.sum(residual**2)), count + residual.size
    if not count:
        return {}
    overall = _entry(math.sqrt(squares / count), "pixel", "rms error of the shifts, all series")
    return {"alignment_residual_px": overall, **each}


def _frame_shape(group: h5py.Group) -> tuple[int, int]:
    """(ny, nx) of the raw frames of a series."""
    if "frame_shape" in group.attrs:
        ny, nx = group.attrs["frame_shape"]
        return int(ny), int(nx)
    return preset_named(group.file.attrs["preset"]).frame_shape


def _score_mountings(result: ResultData, file: h5py.File) -> Scores:
    true = {group.attrs["tilt"]: group.attrs["mounting"] for group in file["series"].values()}
    errors = []
    for name, mounting in result.mountings.items():
        if name in true:
            cosine = (np.trace(mounting.rotation.T @ true[name]) - 1.0) / 2.0
            errors.append(math.degrees(math.acos(min(1.0, max(-1.0, float(cosine))))))
    if not errors:
        return {}
    text = "largest error of a mounting's rotation against the reference mounting"
    return {"mounting_error_max_deg": _entry(max(errors), "degree", text)}


def _matching(
    found_deg: NDArray[np.float64], true_deg: NDArray[np.float64]
) -> NDArray[np.int64] | None:
    """Rows of the truth for the projections that were used (some may have been left out)."""
    rows = np.abs(found_deg[:, None] - true_deg[None, :]).argmin(axis=1)
    close = np.abs(true_deg[rows] - found_deg) < 1e-3
    return rows.astype(np.int64) if close.all() and len(found_deg) else None
