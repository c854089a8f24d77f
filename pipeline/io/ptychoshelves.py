"""PtychoShelves reconstructions: one HDF5 file a projection, complex `object`.

Layout, with every spelling met in the field::

    reconstruction/object         (ny, nx) complex, or compound r/i or real/imag
    reconstruction/p/dx_spec      pixel size [m], one number or two
    reconstruction/p/energy       [keV]
    reconstruction/p/angle        [degree], where the beamline stores it

or the same without `reconstruction/`. MATLAB v7.3 files (`.mat`, or datasets that carry the
attribute `MATLAB_class`) hold the object with its axes reversed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.io.protocol import FileInfo

_OBJECT = ("reconstruction/object", "object")
_PIXEL = ("reconstruction/p/dx_spec", "p/dx_spec", "reconstruction/dx_spec", "dx_spec")
_ENERGY = ("reconstruction/p/energy", "p/energy", "reconstruction/energy", "energy")
_ANGLE = ("reconstruction/p/angle", "p/angle", "reconstruction/angle", "angle")


class PtychoShelvesReader:
    """Reader of `*_recons.h5` and v7.3 `.mat` reconstructions."""

    format = "ptychoshelves"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Metadata of one reconstruction.

        Raises
        ------
        InputError : no object, not two-dimensional, or metadata that are not positive numbers.
        """
        with hdf5.open_hdf5(path) as file:
            found = _object(file, dataset, path)
            angle = hdf5.read_number(file, _ANGLE, path)
            energy_kev = hdf5.read_number(file, _ENERGY, path, positive=True)
            return FileInfo(
                n_frames=1,
                shape=_frame_shape(found, path),
                complex=hdf5.is_complex(found.dtype),
                pixel_size_m=hdf5.read_number(file, _PIXEL, path, positive=True),
                energy_ev=None if energy_kev is None else 1000.0 * energy_kev,
                angles_deg=None if angle is None else (angle,),
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """The object as one frame (ny, nx): complex64, or float32 where it is real."""
        with hdf5.open_hdf5(path) as file:
            found = _object(file, dataset, path)
            shape = _frame_shape(found, path)
            values = hdf5.read(found, path)
            frame = hdf5.as_frame(values)
            frame = frame.T if hdf5.is_matlab(found, path) else frame
            yield np.ascontiguousarray(frame.reshape(shape))


def _object(file: h5py.File, dataset: str | None, path: Path) -> h5py.Dataset:
    names = _OBJECT if dataset is None else (dataset,)
    found = hdf5.find_dataset(file, names, path)
    if found is None:
        expected = " or ".join(f"'{name}'" for name in names)
        message = f"expected a dataset {expected}, found {', '.join(sorted(file)) or 'nothing'}"
        raise InputError(message, path=path)
    if not hdf5.is_complex(found.dtype) and found.dtype.kind not in "fiu":
        message = f"expected complex values, found {found.dtype}"
        raise InputError(message, path=path, field=found.name)
    return found


def _frame_shape(found: h5py.Dataset, path: Path) -> tuple[int, int]:
    """(ny, nx) of the object; axes of length one (a single layer) do not count."""
    shape = found.shape[::-1] if hdf5.is_matlab(found, path) else found.shape
    if len(shape) > 2:
        shape = tuple(n for n in shape if n != 1)
    if len(shape) != 2:
        message = f"expected one frame (ny, nx), found shape {found.shape}"
        raise InputError(message, path=path, field=found.name)
    return int(shape[0]), int(shape[1])


def write_projection(
    path: Path,
    transmission: NDArray[np.complex64],
    *,
    pixel_size_m: float,
    energy_ev: float,
    angle_deg: float,
) -> None:
    """Write one projection in the layout of this module.

    Parameters
    ----------
    path : file to write, `*_recons.h5` by custom.
    transmission : (ny, nx) complex64.
    pixel_size_m : in the sample plane [m].
    energy_ev : photon energy [eV]; stored in keV.
    angle_deg : rotation about the vertical axis [degree].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("reconstruction")
        group.create_dataset("object", data=transmission.astype(np.complex64))
        parameters = group.create_group("p")
        parameters.create_dataset("dx_spec", data=np.full(2, pixel_size_m))
        parameters.create_dataset("energy", data=energy_ev / 1000.0)
        parameters.create_dataset("angle", data=angle_deg)
