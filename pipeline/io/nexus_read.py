"""The products of a run from NeXus groups; the counterpart of `pipeline/io/nexus_write.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.io.nexus import read_figures
from pipeline.io.product_nexus import read_products
from pipeline.io.products import (
    AngleRefinement,
    DensityMap,
    GrainMap,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResolutionCurve,
    ResultData,
    ScalarMap,
    SeriesAlignment,
    SeriesPreview,
    SeriesQuality,
)
from schemas.provenance import Provenance


def read_entry(entry: h5py.Group) -> ResultData:
    """Everything that `write_entry` wrote."""
    readers: dict[str, Callable[[h5py.Group], Any]] = {
        "orientation": _read_orientation,
        "magnetisation": _read_magnetisation,
        "scalar": _read_scalar,
        "density": _read_density,
        "grains": _read_grains,
        "provenance": _read_provenance,
    }
    found: dict[str, Any] = {
        name: read(entry[name]) for name, read in readers.items() if name in entry
    }
    mappings: dict[str, Callable[[h5py.Group], Any]] = {
        "resolution": _read_resolution,
        "residuals": lambda group: group["residual"][()],
        "alignment": _read_alignment,
        "mountings": lambda group: Mounting(
            group["rotation"][()],
            group["shift_px"][()],
            *(float(group[name][()]) for name in ("correlation", "turned_deg") if name in group),
        ),
        "angles": lambda group: AngleRefinement(
            *(group[name][()].reshape(-1, 3, 3) for name in ("given", "refined")),
            *(group[name][()] for name in ("turns_deg", "errors_deg")),
        ),
        "quality": _read_quality,
        "previews": _read_preview,
    }
    for name, read in mappings.items():
        if name in entry:
            found[name] = {key: read(group) for key, group in entry[name].items()}
    if "figures" in entry:
        found["figures"] = read_figures(entry["figures"])
    if "doubts" in entry:
        found["doubts"] = tuple(str(line) for line in entry["doubts"].asstr()[()])
    found["products"] = read_products(entry)
    sample = entry["sample/name"].asstr()[()]
    return ResultData(sample=sample, pixel_size_m=float(entry["pixel_size"][()]), **found)


def _optional(group: h5py.Group, name: str) -> NDArray[Any] | None:
    return group[name][()] if name in group else None


def _stated(group: h5py.Group, name: str) -> NDArray[np.float32] | None:
    """An uncertainty, zero where the file states none."""
    values = _optional(group, name)
    return None if values is None else np.nan_to_num(values, nan=0.0)


def _read_orientation(group: h5py.Group) -> OrientationMap:
    return OrientationMap(
        tensor=group["tensor"][()],
        axis=group["axis"][()],
        magnitude=group["magnitude"][()],
        uniaxiality=group["uniaxiality"][()],
        support=group["support"][()].astype(bool),
        uncertainty_deg=_stated(group, "uncertainty_deg"),
        magnitude_error=_stated(group, "magnitude_error"),
    )


def _read_magnetisation(group: h5py.Group) -> MagnetisationMap:
    vector = group["vector"]
    return MagnetisationMap(vector[()], group["support"][()].astype(bool), vector.attrs["units"])


def _read_scalar(group: h5py.Group) -> ScalarMap:
    volume = group["volume"]
    return ScalarMap(volume[()], group["support"][()].astype(bool), volume.attrs["units"])


def _read_density(group: h5py.Group) -> DensityMap:
    keep = _optional(group, "keep")
    return DensityMap(
        electron_density=group["electron_density"][()],
        materials=group["materials"][()],
        names=tuple(str(name) for name in group["materials"].attrs["names"][1:]),
        windows=group["windows"][()],
        keep=None if keep is None else keep.astype(bool),
        noise=float(group["noise"][()]),
        systematic=_optional(group, "systematic"),
    )


def _read_grains(group: h5py.Group) -> GrainMap:
    columns = [str(column) for column in group["table"].attrs["columns"]]
    return GrainMap(
        label=group["label"][()],
        boundaries=group["boundaries"][()],
        table={column: group["table"][column][()] for column in columns},
        pixel_size_m=float(group["pixel_size"][()]),
        offset_m=tuple(group["offset"][()].tolist()),
    )


def _read_resolution(group: h5py.Group) -> ResolutionCurve:
    curves = [group[key][()] for key in ("frequency", "correlation", "half_bit", "one_bit")]
    limits = [float(group[f"{key}_resolution"][()]) for key in ("half_bit", "one_bit")]
    return ResolutionCurve(*curves, *limits)


def _read_alignment(group: h5py.Group) -> SeriesAlignment:
    arrays = ("shifts_px", "angles_deg", "updates_px", "joint_px", "left_out")
    numbers = ("axis_tilt_deg", "axis_pitch_deg", "axis_pitch_error_deg")
    found: dict[str, Any] = {name: group[name][()] for name in arrays if name in group}
    found |= {name: float(group[name][()]) for name in numbers if name in group}
    if "converged" in group:
        found["converged"] = bool(group["converged"][()])
    return SeriesAlignment(**found)


def _read_quality(group: h5py.Group) -> SeriesQuality:
    return SeriesQuality(
        angles_deg=group["angles_deg"][()],
        indices=group["indices"][()],
        measures=group["measures"][()],
        scores=group["scores"][()],
        outliers=group["outliers"][()].astype(bool),
        reasons=tuple(group["reasons"].asstr()[()]),
        excluded=tuple(group.attrs["excluded"].tolist()),
        notes=tuple(str(note) for note in group.attrs["notes"]),
    )


def _read_preview(group: h5py.Group) -> SeriesPreview:
    return SeriesPreview(
        raw=group["raw"][()].astype(np.float32),
        aligned=group["aligned"][()].astype(np.float32),
        angles_deg=group["angles_deg"][()],
        pixel_size_m=float(group["pixel_size"][()]),
    )


def _read_provenance(group: h5py.Group) -> Provenance:
    return Provenance.model_validate_json(group["json"].asstr()[()])
