"""NXtomo (NeXus application definition) and the like: a stack, its keys and its angles.

Layout, with `entry` any NXentry and perhaps a `tomo_entry` inside it::

    entry/instrument/detector/data           (n, ny, nx)
    entry/instrument/detector/image_key      0 projection, 1 flat, 2 dark, others are left out
    entry/sample/rotation_angle              (n,), degrees without `units`
    entry/sample/{x,y}_pixel_size            in the sample plane
    entry/instrument/detector/{x,y}_pixel_size   divided by `magnification` where there is one
    entry/instrument/beam/incident_energy    or monochromator/energy, source/energy

Energies count only with an attribute `units`: files without it mean eV or keV. The `energy` of a
source is that of the stored electrons in most files: above 200 keV it is left alone. Real frames
are divided by the flat field that lies between them. `dataset` names the entry where a file has
several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.constants import wavelength_m
from pipeline.errors import InputError
from pipeline.io import hdf5, units
from pipeline.io.flatfield import FlatField, mean_frame, runs
from pipeline.io.polarisation import read_polarisation
from pipeline.io.protocol import FileInfo

_PROJECTION, _FLAT, _DARK = 0, 1, 2
_BEAMS = ("instrument/beam", "beam", "sample/beam")
_MOST_PHOTON_EV = 200_000.0


@dataclass(frozen=True)
class _Tomo:
    base: h5py.Group
    data: h5py.Dataset
    keys: NDArray[np.int64]

    @property
    def projections(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.keys == _PROJECTION)


class NxTomoReader:
    """Reader of NXtomo stacks."""

    format = "nxtomo"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Number, shape and angles of the projections; flats and darks do not count.

        Raises
        ------
        InputError : no stack, several and none chosen, or keys and angles that do not match it.
        """
        with hdf5.open_hdf5(path) as file:
            tomo = _tomo(file, dataset, path)
            n, ny, nx = tomo.data.shape
            names = ("sample/rotation_angle", "data/rotation_angle")
            angles = hdf5.read_angles(tomo.base, names, path, n)
            kept = tomo.projections
            return FileInfo(
                n_frames=kept.size,
                shape=(ny, nx),
                complex=hdf5.is_complex(tomo.data.dtype),
                pixel_size_m=_pixel_m(tomo, path),
                energy_ev=_energy_ev(tomo.base, path),
                angles_deg=None if angles is None else tuple(angles[kept].tolist()),
                polarisation=read_polarisation(tomo.base, _BEAMS, path),
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Projections (ny, nx): complex64, or float32 divided by the flat field."""
        with hdf5.open_hdf5(path) as file:
            tomo = _tomo(file, dataset, path)
            flat = None if hdf5.is_complex(tomo.data.dtype) else _flat_field(tomo, path)
            kept = [int(index) for index in tomo.projections]
            for index, values in zip(kept, hdf5.iterate(tomo.data, path, kept), strict=True):
                yield hdf5.as_frame(values) if flat is None else flat.correct(values, index)


def _tomo(file: h5py.File, dataset: str | None, path: Path) -> _Tomo:
    """The chosen or only stack of the file with its keys."""
    found = []
    for entry in hdf5.subgroups(file, path):
        for place in (entry, f"{entry}/tomo_entry"):
            base = hdf5.find(file, place, path)
            if isinstance(base, h5py.Group) and (data := _data(base, path)) is not None:
                found.append((place, base, data))
    if dataset is not None:
        wanted = dataset.strip("/")
        found = [
            item for item in found if wanted == item[0] or wanted == item[2].name.strip("/")
        ] or [item for item in found if item[0].startswith(f"{wanted}/")]
    if len(found) != 1:
        names = ", ".join(place for place, _, _ in found) or f"none in {hdf5.listing(file)}"
        which = "an entry" if dataset is None else f"the entry '{dataset}'"
        hint = "; choose one with `dataset`" if found else ""
        message = f"expected {which} with instrument/detector/data, found {names}{hint}"
        raise InputError(message, path=path)
    _, base, data = found[0]
    if data.ndim != 3 or (data.dtype.kind not in "fiu" and not hdf5.is_complex(data.dtype)):
        message = f"expected numbers of shape (n, ny, nx), found {data.dtype} {data.shape}"
        raise InputError(message, path=path, field=data.name)
    return _Tomo(base, data, _keys(base, data, path))


def _data(base: h5py.Group, path: Path) -> h5py.Dataset | None:
    names = ["instrument/detector/data", "data/data"]
    instrument = hdf5.find(base, "instrument", path)
    if isinstance(instrument, h5py.Group):
        for name in hdf5.subgroups(instrument, path):
            if instrument[name].attrs.get("NX_class") in ("NXdetector", b"NXdetector"):
                names.append(f"instrument/{name}/data")
    return hdf5.find_dataset(base, tuple(names), path)


def _keys(base: h5py.Group, data: h5py.Dataset, path: Path) -> NDArray[np.int64]:
    """Kind of each frame; all are projections where the file does not say."""
    beside = data.parent.name.removeprefix(base.name).strip("/")
    names = tuple(
        f"{place}/{name}"
        for name in ("image_key_control", "image_key")
        for place in (beside, "instrument/detector", "data")
    )
    keys = hdf5.read_scalars(base, names, path)
    if keys is None:
        return np.zeros(data.shape[0], np.int64)
    if keys.size != data.shape[0]:
        message = f"expected {data.shape[0]} keys, one for each frame, found {keys.size}"
        raise InputError(message, path=path, field="image_key")
    return keys.astype(np.int64)


def _flat_field(tomo: _Tomo, path: Path) -> FlatField | None:
    flats, darks = (np.flatnonzero(tomo.keys == key) for key in (_FLAT, _DARK))
    if flats.size == 0 and darks.size == 0:
        return None
    shape = (tomo.data.shape[1], tomo.data.shape[2])
    groups = runs(flats)
    return FlatField(
        dark=mean_frame(tomo.data, path, darks.tolist(), shape),
        flats=tuple(mean_frame(tomo.data, path, group.tolist(), shape) for group in groups),
        positions=tuple(float(group.mean()) for group in groups),
    )


def _pixel_m(tomo: _Tomo, path: Path) -> float | None:
    sample = hdf5.read_pixel_m(tomo.base, ("sample/{}_pixel_size",), path)
    if sample is not None:
        return sample
    detector = tomo.data.parent
    size = hdf5.read_pixel_m(detector, ("{}_pixel_size",), path)
    if size is None:
        size = hdf5.read_pixel_m(tomo.base, ("instrument/detector/{}_pixel_size",), path)
    magnification = hdf5.read_number(detector, ("magnification",), path, positive=True)
    return None if size is None else size / (magnification or 1.0)


def _energy_ev(base: h5py.Group, path: Path) -> float | None:
    names = (*(f"{beam}/incident_energy" for beam in _BEAMS), "instrument/monochromator/energy")
    energy = hdf5.read_quantity(base, names, path, units.ENERGY_EV)
    if energy is not None:
        return energy
    names = (*(f"{b}/incident_wavelength" for b in _BEAMS), "instrument/monochromator/wavelength")
    wavelength = hdf5.read_quantity(base, names, path, units.LENGTH_M)
    if wavelength is not None:
        # The product of energy and wavelength is its own inverse conversion.
        return wavelength_m(wavelength)
    source = hdf5.read_quantity(base, ("instrument/source/energy",), path, units.ENERGY_EV)
    return source if source is not None and source <= _MOST_PHOTON_EV else None
