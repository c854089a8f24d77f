"""DataExchange: projections, angles and flat fields of a tomographic scan.

De Carlo et al., J. Synchrotron Rad. 21, 1224 (2014), doi 10.1107/S160057751401604X.

Layout::

    exchange/data                            (n, ny, nx), projections only
    exchange/theta                           (n,), degrees without `units`
    exchange/data_white, exchange/data_dark  flat and dark fields
    measurement/instrument/monochromator/energy
    measurement/instrument/detection_system/objective/resolution   pixel in the sample plane

Energy and pixel size count only with an attribute `units`; beamlines differ in what they leave out.
Real frames are divided by the mean flat field. `dataset` names another group than `exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5, units
from pipeline.io.flatfield import FlatField, mean_frame
from pipeline.io.protocol import FileInfo

_INSTRUMENT = "measurement/instrument"


class DataExchangeReader:
    """Reader of DataExchange stacks."""

    format = "dataexchange"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Number, shape and angles of the projections.

        Raises
        ------
        InputError : no stack, or angles that do not match it.
        """
        with hdf5.open_hdf5(path) as file:
            data = _stack(file, dataset, path)
            n, ny, nx = data.shape
            angles = hdf5.read_angles(data.parent, ("theta",), path, n)
            resolution = (
                f"{_INSTRUMENT}/detection_system/objective/resolution",
                f"{_INSTRUMENT}/detector/actual_pixel_size_x",
            )
            energy = (f"{_INSTRUMENT}/monochromator/energy",)
            return FileInfo(
                n_frames=n,
                shape=(ny, nx),
                complex=hdf5.is_complex(data.dtype),
                pixel_size_m=hdf5.read_quantity(file, resolution, path, units.LENGTH_M),
                energy_ev=hdf5.read_quantity(file, energy, path, units.ENERGY_EV),
                angles_deg=None if angles is None else tuple(angles.tolist()),
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Projections (ny, nx): complex64, or float32 divided by the flat field."""
        with hdf5.open_hdf5(path) as file:
            data = _stack(file, dataset, path)
            flat = None if hdf5.is_complex(data.dtype) else _flat_field(data, path)
            for values in hdf5.iterate(data, path, range(data.shape[0])):
                yield hdf5.as_frame(values) if flat is None else flat.correct(values, 0.0)


def _stack(file: h5py.File, dataset: str | None, path: Path) -> h5py.Dataset:
    group = (dataset or "exchange").strip("/").removesuffix("/data")
    data = hdf5.find_dataset(file, (f"{group}/data",), path)
    if data is None:
        message = f"expected a dataset '{group}/data', found {hdf5.listing(file)}"
        raise InputError(message, path=path)
    if data.ndim != 3 or (data.dtype.kind not in "fiu" and not hdf5.is_complex(data.dtype)):
        message = f"expected numbers of shape (n, ny, nx), found {data.dtype} {data.shape}"
        raise InputError(message, path=path, field=data.name)
    return data


def _flat_field(data: h5py.Dataset, path: Path) -> FlatField | None:
    """From `data_white` and `data_dark` beside the data, None where there is neither."""
    shape = (data.shape[1], data.shape[2])
    means = {}
    for name in ("data_white", "data_dark"):
        found = hdf5.find_dataset(data.parent, (name,), path)
        if found is not None and found.size:
            means[name] = mean_frame(found, path, range(found.shape[0]), shape)
    if not means:
        return None
    white = means.get("data_white")
    dark = means.get("data_dark")
    return FlatField(
        dark=0.0 * white if dark is None and white is not None else means["data_dark"],
        flats=() if white is None else (white,),
        positions=() if white is None else (0.0,),
    )
