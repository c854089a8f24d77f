"""The products of a run as NeXus groups; `pipeline/io/results.py` calls these writers."""

from __future__ import annotations

import json

import h5py
import numpy as np

from pipeline.io.nexus import (
    Maps,
    write_figures,
    write_group,
    write_line,
    write_map_group,
    write_value,
)
from pipeline.io.product_nexus import write_products
from pipeline.io.products import GRAIN_UNITS, ResultData, stated
from pipeline.preprocess.quality import MEASURES
from pipeline.tomography.geometry import euler_angles_deg
from schemas.provenance import Provenance


def write_entry(entry: h5py.Group, data: ResultData) -> None:
    """Everything that a run leaves behind, into the group `/entry`."""
    for name in ("orientation", "magnetisation", "density", "scalar", "grains"):
        if getattr(data, name) is not None:
            _WRITERS[name](entry, data)
            entry.attrs.setdefault("default", name)
    _write_curves(entry, data)
    _write_alignment(entry, data)
    _write_quality(entry, data)
    _write_previews(entry, data)
    write_products(entry, data.products)
    write_figures(entry, data.figures)
    if data.doubts:
        entry.create_dataset("doubts", data=list(data.doubts), dtype=h5py.string_dtype())
    if data.provenance is not None:
        _write_provenance(entry, data.provenance)


def _write_orientation(entry: h5py.Group, data: ResultData) -> None:
    maps = data.orientation
    assert maps is not None
    content: Maps = {
        "tensor": (maps.tensor, "rad/voxel", "dichroic tensor"),
        "axis": (maps.axis, "", "crystal axis (sign-free)"),
        "magnitude": (maps.magnitude, "rad/voxel", "dichroic contrast"),
        "magnitude_error": (
            stated(maps.magnitude_error),
            "rad/voxel",
            "error of the dichroic contrast",
        ),
        "uncertainty_deg": (stated(maps.uncertainty_deg), "degree", "uncertainty of the axis"),
        "uniaxiality": (maps.uniaxiality, "", "uniaxiality"),
        "support": (maps.support, "", "support"),
    }
    write_map_group(entry, "orientation", "magnitude", content, data.pixel_size_m)


def _write_magnetisation(entry: h5py.Group, data: ResultData) -> None:
    maps = data.magnetisation
    assert maps is not None
    magnitude = np.sqrt(np.sum(maps.vector**2, axis=0, dtype=np.float32))
    content: Maps = {
        "vector": (maps.vector, maps.unit, "magnetisation"),
        "magnitude": (magnitude, maps.unit, "magnitude of the magnetisation"),
        "support": (maps.support, "", "support"),
    }
    write_map_group(entry, "magnetisation", "magnitude", content, data.pixel_size_m)


def _write_scalar(entry: h5py.Group, data: ResultData) -> None:
    maps = data.scalar
    assert maps is not None
    content: Maps = {
        "volume": (maps.volume, maps.unit, "scalar tomogram"),
        "support": (maps.support, "", "support"),
    }
    write_map_group(entry, "scalar", "volume", content, data.pixel_size_m)


def _write_density(entry: h5py.Group, data: ResultData) -> None:
    maps = data.density
    assert maps is not None
    content: Maps = {
        "electron_density": (maps.electron_density, "e/angstrom^3", "electron density"),
        "materials": (maps.materials, "", "material"),
        "keep": (maps.keep, "", "not in the masked shell"),
    }
    group = write_map_group(entry, "density", "electron_density", content, data.pixel_size_m)
    group["materials"].attrs["names"] = ["none", *maps.names]
    write_value(
        group, "windows", maps.windows, "e/angstrom^3", long_name="lower and upper threshold"
    )
    write_value(group, "noise", maps.noise, "e/angstrom^3", long_name="rms in air")
    if maps.systematic is not None:
        write_value(group, "systematic", maps.systematic, "e/angstrom^3")


def _write_grains(entry: h5py.Group, data: ResultData) -> None:
    maps = data.grains
    assert maps is not None
    content: Maps = {
        "label": (maps.label, "", "grain"),
        "boundaries": (maps.boundaries, "", "grain boundary"),
    }
    group = write_map_group(entry, "grains", "label", content, maps.pixel_size_m, maps.offset_m)
    write_value(group, "pixel_size", maps.pixel_size_m, "m")
    write_value(group, "offset", maps.offset_m, "m", long_name="z, y, x of the middle voxel")
    table = write_group(group, "table", "NXcollection")
    table.attrs["columns"] = list(maps.table)
    for column, values in maps.table.items():
        write_value(table, column, values, GRAIN_UNITS.get(column, ""))


_WRITERS = {
    "orientation": _write_orientation,
    "magnetisation": _write_magnetisation,
    "scalar": _write_scalar,
    "density": _write_density,
    "grains": _write_grains,
}


def _write_curves(entry: h5py.Group, data: ResultData) -> None:
    if data.resolution:
        parent = write_group(entry, "resolution", "NXcollection")
        for name, curve in data.resolution.items():
            ordinates = {
                "correlation": (curve.correlation, ""),
                "half_bit": (curve.half_bit, ""),
                "one_bit": (curve.one_bit, ""),
            }
            group = write_line(parent, name, ("frequency", curve.frequency, "1/m"), ordinates)
            write_value(group, "half_bit_resolution", curve.half_bit_resolution_m, "m")
            write_value(group, "one_bit_resolution", curve.one_bit_resolution_m, "m")
    if data.residuals:
        parent = write_group(entry, "residuals", "NXcollection")
        for name, values in data.residuals.items():
            curve_y = {"residual": (np.asarray(values, np.float64), "")}
            write_line(parent, name, ("iteration", np.arange(1, len(values) + 1), ""), curve_y)


def _write_alignment(entry: h5py.Group, data: ResultData) -> None:
    if data.alignment:
        parent = write_group(entry, "alignment", "NXcollection")
        for name, series in data.alignment.items():
            group = write_group(parent, name, "NXdata")
            write_value(
                group, "shifts_px", series.shifts_px, "pixel", long_name="shift dy, dx added"
            )
            write_value(group, "angles_deg", series.angles_deg, "degree")
            write_value(group, "updates_px", series.updates_px, "pixel")
            if series.joint_px.size:
                text = "part of the shift that was found with the dichroism in the model"
                write_value(group, "joint_px", series.joint_px, "pixel", long_name=text)
            write_value(group, "left_out", series.left_out, "")
            write_value(group, "axis_tilt_deg", series.axis_tilt_deg, "degree")
            write_value(group, "axis_pitch_deg", series.axis_pitch_deg, "degree")
            write_value(group, "axis_pitch_error_deg", series.axis_pitch_error_deg, "degree")
            write_value(group, "converged", series.converged, "")
            group.attrs["signal"] = "shifts_px"
            group.attrs["axes"] = ["angles_deg", "."]
    if data.mountings:
        parent = write_group(entry, "mountings", "NXcollection")
        for name, mounting in data.mountings.items():
            group = write_group(parent, name, "NXcollection")
            write_value(group, "rotation", mounting.rotation, "")
            write_value(group, "shift_px", mounting.shift_px, "voxel")
            write_value(group, "correlation", mounting.correlation, "")
            write_value(group, "turned_deg", mounting.turned_deg, "degree")
    if data.angles:
        parent = write_group(entry, "angles", "NXcollection")
        for name, found in data.angles.items():
            group = write_group(parent, name, "NXdata")
            text = "rotation about lab x, y, z"
            write_value(group, "turns_deg", found.turns_deg, "degree", long_name=text)
            write_value(group, "errors_deg", found.errors_deg, "degree")
            for key in ("given", "refined"):
                rows = getattr(found, key).reshape(-1, 9)
                write_value(group, key, rows, "", long_name="sample to lab, row by row")
            euler = "phi, theta, psi of the refined rotations after RESIRE-V"
            angles = euler_angles_deg(found.refined)
            write_value(group, "euler_deg", angles, "degree", long_name=euler)
            group.attrs["signal"] = "turns_deg"
            group.attrs["axes"] = [".", "."]


def _write_quality(entry: h5py.Group, data: ResultData) -> None:
    if not data.quality:
        return
    parent = write_group(entry, "quality", "NXcollection")
    for name, series in data.quality.items():
        group = write_group(parent, name, "NXdata")
        write_value(
            group, "worst_score", series.scores.max(axis=1, initial=0.0), "", long_name="score"
        )
        write_value(group, "scores", series.scores, "", measures=list(MEASURES))
        write_value(group, "measures", series.measures, "", measures=list(MEASURES))
        write_value(group, "angles_deg", series.angles_deg, "degree")
        write_value(group, "indices", series.indices, "")
        write_value(group, "outliers", series.outliers.astype(np.uint8), "")
        group.create_dataset("reasons", data=list(series.reasons), dtype=h5py.string_dtype())
        group["proposal"] = series.proposal
        group.attrs["excluded"] = np.asarray(series.excluded, np.int64)
        group.attrs.create("notes", list(series.notes), dtype=h5py.string_dtype())
        group.attrs["signal"] = "worst_score"
        group.attrs["axes"] = ["angles_deg"]


def _write_previews(entry: h5py.Group, data: ResultData) -> None:
    if not data.previews:
        return
    parent = write_group(entry, "previews", "NXcollection")
    for name, preview in data.previews.items():
        group = write_group(parent, name, "NXdata")
        for key in ("raw", "aligned"):
            # Half precision is a thousandth of the value: plenty for a picture.
            stored = getattr(preview, key).astype(np.float16)
            dataset = group.create_dataset(key, data=stored, compression="gzip", shuffle=True)
            dataset.attrs["units"] = "rad"
        write_value(group, "angles_deg", preview.angles_deg, "degree")
        write_value(group, "pixel_size", preview.pixel_size_m, "m")
        group.attrs["signal"] = "aligned"
        group.attrs["axes"] = ["angles_deg", ".", "."]


def _write_provenance(entry: h5py.Group, provenance: Provenance) -> None:
    group = write_group(entry, "provenance", "NXprocess")
    group["program"] = "dichrotomo"
    group["version"] = provenance.software_version
    group["date"] = provenance.finished.isoformat()
    for name in ("python_version", "device", "beamtime", "recipe"):
        group[name] = getattr(provenance, name)
    group["packages"] = json.dumps(provenance.packages)
    group["json"] = provenance.model_dump_json()
