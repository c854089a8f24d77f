"""The result of a run as files: `result.nxs` (NeXus) and `summary.json`.

Every product is one `NXdata` group under `/entry` with `signal`, `axes` and units, so that silx and
h5web show it without settings. Volumes are `(z, y, x)` with the origin at voxel `n // 2`; frames
and units are those of the table in `pipeline/__init__.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.io.products import (
    GRAIN_UNITS,
    UNKNOWN_PIXEL_SIZE_M,
    DensityMap,
    Figure,
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
from pipeline.preprocess.quality import MEASURES
from schemas.provenance import Provenance

__all__ = [
    "DensityMap",
    "Figure",
    "GrainMap",
    "MagnetisationMap",
    "Mounting",
    "OrientationMap",
    "ResolutionCurve",
    "ResultData",
    "ScalarMap",
    "SeriesAlignment",
    "SeriesPreview",
    "SeriesQuality",
    "read_result",
    "whole_or_nothing",
    "write_result",
    "write_summary",
]

FORMAT_VERSION = 1

Maps = dict[str, tuple[NDArray[Any] | None, str, str]]
"""Name -> values, units, title."""


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Temporary name beside `path`, put in its place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_summary(path: Path, figures: Mapping[str, Figure]) -> None:
    """Write `summary.json`: name -> value, unit, uncertainty, description.

    A value that is not finite becomes `null`, since JSON has no word for it.
    """

    def finite(value: float | None) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None

    content = {
        name: {
            "value": finite(figure.value),
            "unit": figure.unit,
            "uncertainty": finite(figure.uncertainty),
            "description": figure.description,
        }
        for name, figure in figures.items()
    }
    with whole_or_nothing(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def write_result(path: Path, data: ResultData) -> None:
    """Write `result.nxs`; under its name there is only ever a whole file.

    Parameters
    ----------
    path : file to write; an older one is replaced.
    data : what to write; absent products leave no group.
    """
    with whole_or_nothing(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["default"] = "entry"
        file.attrs["creator"] = "dichrotomo"
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.attrs["format_version"] = FORMAT_VERSION
        entry["title"] = f"Dichroic tomography of {data.sample}"
        _group(entry, "sample", "NXsample")["name"] = data.sample
        _value(entry, "pixel_size", data.pixel_size_m, "m")
        for name in ("orientation", "magnetisation", "density", "scalar", "grains"):
            if getattr(data, name) is not None:
                _WRITERS[name](entry, data)
                entry.attrs.setdefault("default", name)
        _write_curves(entry, data)
        _write_alignment(entry, data)
        _write_quality(entry, data)
        _write_previews(entry, data)
        _write_figures(entry, data.figures)
        if data.provenance is not None:
            _write_provenance(entry, data.provenance)


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name, track_order=True)
    group.attrs["NX_class"] = nx_class
    return group


def _value(group: h5py.Group, name: str, value: Any, units: str, **attributes: Any) -> h5py.Dataset:
    dataset = group.create_dataset(name, data=value)
    dataset.attrs["units"] = units
    dataset.attrs.update(attributes)
    return dataset


def _map(group: h5py.Group, name: str, values: NDArray[Any], units: str, title: str) -> None:
    """One volume, chunked in bricks so that a slice along any axis reads little."""
    stored = values.astype(np.uint8) if values.dtype == np.bool_ else values
    edge = [1] * (stored.ndim - 3) + [32, 64, 64]
    chunks = tuple(max(1, min(n, e)) for n, e in zip(stored.shape, edge, strict=True))
    dataset = group.create_dataset(
        name,
        data=stored,
        chunks=chunks if stored.size else None,
        compression="gzip" if stored.size else None,
        compression_opts=1 if stored.size else None,
        shuffle=stored.size > 0,
    )
    dataset.attrs["units"] = units
    dataset.attrs["long_name"] = f"{title} [{units}]" if units else title


def _axes(
    group: h5py.Group,
    shape: tuple[int, ...],
    pixel_size_m: float,
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Centres of the voxels along z, y, x, zero at the origin of the sample frame."""
    unit = "voxel" if pixel_size_m == UNKNOWN_PIXEL_SIZE_M else "m"
    for axis, n, offset in zip("zyx", shape[-3:], offset_m, strict=True):
        centres = (np.arange(n) - n // 2) * pixel_size_m + offset
        _value(group, axis, centres, unit, long_name=f"{axis} [{unit}]")
    group.attrs["axes"] = ["z", "y", "x"]


def _map_group(
    entry: h5py.Group,
    name: str,
    signal: str,
    maps: Maps,
    pixel_size_m: float,
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> h5py.Group:
    """`NXdata` of scalar maps; those with components get an `NXdata` of their own inside it."""
    group = _group(entry, name, "NXdata")
    auxiliary = []
    for key, (values, units, title) in maps.items():
        if values is None:
            continue
        _map(group, key, values, units, title)
        if values.ndim == 4:
            _component_view(group, key, values.shape, pixel_size_m)
        elif key != signal:
            auxiliary.append(key)
    group.attrs["signal"] = signal
    if auxiliary:
        group.attrs["auxiliary_signals"] = auxiliary
    _axes(group, group[signal].shape, pixel_size_m, offset_m)
    return group


def _component_view(
    group: h5py.Group, key: str, shape: tuple[int, ...], pixel_size_m: float
) -> None:
    """Let viewers page through the components: an `NXdata` that links to the same numbers."""
    view = _group(group, f"{key}_components", "NXdata")
    view[key] = h5py.SoftLink(f"{group.name}/{key}")
    names = "x y z" if shape[0] == 3 else "xx yy zz yz xz xy"
    _value(view, "component", np.arange(shape[0]), "", long_name=f"component ({names})")
    _axes(view, shape, pixel_size_m)
    view.attrs["signal"] = key
    view.attrs["axes"] = ["component", "z", "y", "x"]


def _write_orientation(entry: h5py.Group, data: ResultData) -> None:
    maps = data.orientation
    assert maps is not None
    content: Maps = {
        "tensor": (maps.tensor, "rad/voxel", "dichroic tensor"),
        "axis": (maps.axis, "", "crystal axis (sign-free)"),
        "magnitude": (maps.magnitude, "rad/voxel", "dichroic contrast"),
        "uncertainty_deg": (maps.uncertainty_deg, "degree", "uncertainty of the axis"),
        "uniaxiality": (maps.uniaxiality, "", "uniaxiality"),
        "support": (maps.support, "", "support"),
    }
    _map_group(entry, "orientation", "magnitude", content, data.pixel_size_m)


def _write_magnetisation(entry: h5py.Group, data: ResultData) -> None:
    maps = data.magnetisation
    assert maps is not None
    magnitude = np.sqrt(np.sum(maps.vector**2, axis=0, dtype=np.float32))
    content: Maps = {
        "vector": (maps.vector, maps.unit, "magnetisation"),
        "magnitude": (magnitude, maps.unit, "magnitude of the magnetisation"),
        "support": (maps.support, "", "support"),
    }
    _map_group(entry, "magnetisation", "magnitude", content, data.pixel_size_m)


def _write_scalar(entry: h5py.Group, data: ResultData) -> None:
    maps = data.scalar
    assert maps is not None
    content: Maps = {
        "volume": (maps.volume, maps.unit, "scalar tomogram"),
        "support": (maps.support, "", "support"),
    }
    _map_group(entry, "scalar", "volume", content, data.pixel_size_m)


def _write_density(entry: h5py.Group, data: ResultData) -> None:
    maps = data.density
    assert maps is not None
    content: Maps = {
        "electron_density": (maps.electron_density, "e/angstrom^3", "electron density"),
        "materials": (maps.materials, "", "material"),
        "keep": (maps.keep, "", "not in the masked shell"),
    }
    group = _map_group(entry, "density", "electron_density", content, data.pixel_size_m)
    group["materials"].attrs["names"] = ["none", *maps.names]
    _value(group, "windows", maps.windows, "e/angstrom^3", long_name="lower and upper threshold")
    _value(group, "noise", maps.noise, "e/angstrom^3", long_name="rms in air")


def _write_grains(entry: h5py.Group, data: ResultData) -> None:
    maps = data.grains
    assert maps is not None
    content: Maps = {
        "label": (maps.label, "", "grain"),
        "boundaries": (maps.boundaries, "", "grain boundary"),
    }
    group = _map_group(entry, "grains", "label", content, maps.pixel_size_m, maps.offset_m)
    _value(group, "pixel_size", maps.pixel_size_m, "m")
    _value(group, "offset", maps.offset_m, "m", long_name="z, y, x of the middle voxel")
    table = _group(group, "table", "NXcollection")
    table.attrs["columns"] = list(maps.table)
    for column, values in maps.table.items():
        _value(table, column, values, GRAIN_UNITS.get(column, ""))


_WRITERS = {
    "orientation": _write_orientation,
    "magnetisation": _write_magnetisation,
    "scalar": _write_scalar,
    "density": _write_density,
    "grains": _write_grains,
}


def _line(
    parent: h5py.Group, name: str, x: tuple[str, Any, str], y: Mapping[str, tuple[Any, str]]
) -> h5py.Group:
    """`NXdata` of one or several curves over a common abscissa; the first one is the signal."""
    group = _group(parent, name, "NXdata")
    axis, values, units = x
    _value(group, axis, values, units)
    for key, (ordinate, unit) in y.items():
        _value(group, key, ordinate, unit)
    keys = list(y)
    group.attrs["signal"] = keys[0]
    group.attrs["axes"] = [axis]
    if keys[1:]:
        group.attrs["auxiliary_signals"] = keys[1:]
    return group


def _write_curves(entry: h5py.Group, data: ResultData) -> None:
    if data.resolution:
        parent = _group(entry, "resolution", "NXcollection")
        for name, curve in data.resolution.items():
            ordinates = {
                "correlation": (curve.correlation, ""),
                "half_bit": (curve.half_bit, ""),
                "one_bit": (curve.one_bit, ""),
            }
            group = _line(parent, name, ("frequency", curve.frequency, "1/m"), ordinates)
            _value(group, "half_bit_resolution", curve.half_bit_resolution_m, "m")
            _value(group, "one_bit_resolution", curve.one_bit_resolution_m, "m")
    if data.residuals:
        parent = _group(entry, "residuals", "NXcollection")
        for name, values in data.residuals.items():
            curve_y = {"residual": (np.asarray(values, np.float64), "")}
            _line(parent, name, ("iteration", np.arange(1, len(values) + 1), ""), curve_y)


def _write_alignment(entry: h5py.Group, data: ResultData) -> None:
    if data.alignment:
        parent = _group(entry, "alignment", "NXcollection")
        for name, series in data.alignment.items():
            group = _group(parent, name, "NXdata")
            _value(group, "shifts_px", series.shifts_px, "pixel", long_name="shift dy, dx added")
            _value(group, "angles_deg", series.angles_deg, "degree")
            _value(group, "updates_px", series.updates_px, "pixel")
            group.attrs["signal"] = "shifts_px"
            group.attrs["axes"] = ["angles_deg", "."]
    if data.mountings:
        parent = _group(entry, "mountings", "NXcollection")
        for name, mounting in data.mountings.items():
            group = _group(parent, name, "NXcollection")
            _value(group, "rotation", mounting.rotation, "")
            _value(group, "shift_px", mounting.shift_px, "voxel")
            _value(group, "correlation", mounting.correlation, "")


def _write_quality(entry: h5py.Group, data: ResultData) -> None:
    if not data.quality:
        return
    parent = _group(entry, "quality", "NXcollection")
    for name, series in data.quality.items():
        group = _group(parent, name, "NXdata")
        _value(group, "worst_score", series.scores.max(axis=1, initial=0.0), "", long_name="score")
        _value(group, "scores", series.scores, "", measures=list(MEASURES))
        _value(group, "measures", series.measures, "", measures=list(MEASURES))
        _value(group, "angles_deg", series.angles_deg, "degree")
        _value(group, "indices", series.indices, "")
        _value(group, "outliers", series.outliers.astype(np.uint8), "")
        group.create_dataset("reasons", data=list(series.reasons), dtype=h5py.string_dtype())
        group["proposal"] = series.proposal
        group.attrs["excluded"] = np.asarray(series.excluded, np.int64)
        group.attrs.create("notes", list(series.notes), dtype=h5py.string_dtype())
        group.attrs["signal"] = "worst_score"
        group.attrs["axes"] = ["angles_deg"]


def _write_previews(entry: h5py.Group, data: ResultData) -> None:
    if not data.previews:
        return
    parent = _group(entry, "previews", "NXcollection")
    for name, preview in data.previews.items():
        group = _group(parent, name, "NXdata")
        for key in ("raw", "aligned"):
            # Half precision is a thousandth of the value: plenty for a picture.
            stored = getattr(preview, key).astype(np.float16)
            dataset = group.create_dataset(key, data=stored, compression="gzip", shuffle=True)
            dataset.attrs["units"] = "rad"
        _value(group, "angles_deg", preview.angles_deg, "degree")
        _value(group, "pixel_size", preview.pixel_size_m, "m")
        group.attrs["signal"] = "aligned"
        group.attrs["axes"] = ["angles_deg", ".", "."]


def _write_figures(entry: h5py.Group, figures: Mapping[str, Figure]) -> None:
    if not figures:
        return
    parent = _group(entry, "figures", "NXcollection")
    for name, figure in figures.items():
        dataset = _value(parent, name, float(figure.value), figure.unit)
        dataset.attrs["description"] = figure.description
        if figure.uncertainty is not None:
            dataset.attrs["uncertainty"] = float(figure.uncertainty)
    parent.attrs["order"] = list(figures)


def _write_provenance(entry: h5py.Group, provenance: Provenance) -> None:
    group = _group(entry, "provenance", "NXprocess")
    group["program"] = "dichrotomo"
    group["version"] = provenance.software_version
    group["date"] = provenance.finished.isoformat()
    for name in ("python_version", "device", "beamtime", "recipe"):
        group[name] = getattr(provenance, name)
    group["packages"] = json.dumps(provenance.packages)
    group["json"] = provenance.model_dump_json()


def read_result(path: Path) -> ResultData:
    """Read back what `write_result` wrote.

    Raises
    ------
    InputError
        If the file is missing, is not HDF5, or is not a result of this software.
    """
    with open_hdf5(path) as file:
        if "entry/sample/name" not in file or "entry/pixel_size" not in file:
            raise InputError("expected a result of dichrotomo", path=path, field="/entry")
        try:
            return _read_entry(file["entry"])
        except (OSError, KeyError) as error:
            raise InputError(f"cannot be read as a result: {error}", path=path) from error


def _read_entry(entry: h5py.Group) -> ResultData:
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
        "alignment": lambda group: SeriesAlignment(
            *(group[key][()] for key in ("shifts_px", "angles_deg", "updates_px"))
        ),
        "mountings": lambda group: Mounting(
            group["rotation"][()], group["shift_px"][()], float(group["correlation"][()])
        ),
        "quality": _read_quality,
        "previews": _read_preview,
    }
    for name, read in mappings.items():
        if name in entry:
            found[name] = {key: read(group) for key, group in entry[name].items()}
    if "figures" in entry:
        found["figures"] = _read_figures(entry["figures"])
    sample = entry["sample/name"].asstr()[()]
    return ResultData(sample=sample, pixel_size_m=float(entry["pixel_size"][()]), **found)


def _optional(group: h5py.Group, name: str) -> NDArray[Any] | None:
    return group[name][()] if name in group else None


def _read_orientation(group: h5py.Group) -> OrientationMap:
    return OrientationMap(
        tensor=group["tensor"][()],
        axis=group["axis"][()],
        magnitude=group["magnitude"][()],
        uniaxiality=group["uniaxiality"][()],
        support=group["support"][()].astype(bool),
        uncertainty_deg=_optional(group, "uncertainty_deg"),
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


def _read_figures(group: h5py.Group) -> dict[str, Figure]:
    found = {}
    for name in group.attrs["order"]:
        stored = group[name]
        uncertainty = stored.attrs.get("uncertainty")
        found[str(name)] = Figure(
            value=float(stored[()]),
            unit=stored.attrs["units"],
            uncertainty=None if uncertainty is None else float(uncertainty),
            description=stored.attrs["description"],
        )
    return found


def _read_provenance(group: h5py.Group) -> Provenance:
    return Provenance.model_validate_json(group["json"].asstr()[()])
