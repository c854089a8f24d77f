"""CXI 1.x (Maia, Nat. Methods 9, 854 (2012), doi 10.1038/nmeth.2110): reconstructed images.

Layout, everything in SI units unless an attribute `units` says otherwise::

    entry_1/image_1/data                        (ny, nx) or (layers, ny, nx) complex
    entry_1/object/data                         the same, as PyNX names it
    entry_1/image_1/{x,y}_pixel_size            [m], where the program stores it
    entry_1/image_1/image_size                  [m], extent of the image
    entry_1/instrument_1/source_1/energy        [J]
    entry_1/instrument_1/detector_1/corner_position   (x, y, z) of the detector's corner [m]

Without a pixel size of its own the image has that of the detector's geometry, `λ z / (2 x)` with
the corner at (x, y, z): the wavelength over the full width of the detector seen from the sample,
which holds while the image is the one that was reconstructed and not resampled.

`dataset` chooses between several images and layers: `entry_1/image_2/data` or `...:<layer>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.constants import wavelength_m
from pipeline.errors import InputError
from pipeline.io import hdf5, units
from pipeline.io.layers import layer_shape, read_layer, split_choice
from pipeline.io.polarisation import read_polarisation
from pipeline.io.protocol import FileInfo

_ENERGY_RANGE_EV = (10.0, 200_000.0)


class CxiReader:
    """Reader of the reconstruction in a CXI file, one projection a file."""

    format = "cxi"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Metadata of one reconstruction.

        Raises
        ------
        InputError : no reconstruction inside, several and none chosen, or metadata that make no
            sense.
        """
        with hdf5.open_hdf5(path) as file:
            data, layer = _image(file, dataset, path)
            shape = layer_shape(data, layer, path)
            entry = file[data.name.strip("/").split("/", 1)[0]]
            energy = _energy_ev(entry, path)
            angle = hdf5.read_number(entry, ("sample_1/rotation_angle", "rotation_angle"), path)
            return FileInfo(
                n_frames=1 if data.size else 0,
                shape=shape,
                complex=True,
                pixel_size_m=_pixel_m(entry, data.parent, shape, energy, path),
                energy_ev=energy,
                angles_deg=None if angle is None else (angle,),
                polarisation=read_polarisation(entry, ("instrument_1/beam_1", "beam_1"), path),
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """The image as one frame (ny, nx) complex64."""
        with hdf5.open_hdf5(path) as file:
            data, layer = _image(file, dataset, path)
            yield read_layer(data, layer, path)


def _image(file: h5py.File, dataset: str | None, path: Path) -> tuple[h5py.Dataset, int | None]:
    """The chosen or only complex image of the file, and the chosen layer."""
    name, layer = split_choice(dataset, path)
    if name is not None:
        data = hdf5.find_dataset(file, (name, f"{name.rstrip('/')}/data"), path)
        if data is None:
            message = f"no such dataset; the file holds {hdf5.listing(file)}"
            raise InputError(message, path=path, field=name)
        return data, layer
    found: dict[str, h5py.Dataset] = {}
    measured = []
    for entry in hdf5.subgroups(file, path):
        for group in hdf5.subgroups(file[entry], path):
            data = hdf5.find_dataset(file, (f"{entry}/{group}/data",), path)
            if data is None:
                continue
            image = group.startswith(("image", "object"))
            if image and hdf5.is_complex(data.dtype):
                # The same image under two names (a soft link) is one image.
                found.setdefault(_address(data), data)
            else:
                measured.append(f"{entry}/{group}/data {data.dtype}")
    if len(found) == 1:
        return next(iter(found.values())), layer
    if found:
        names = ", ".join(data.name.strip("/") for data in found.values())
        message = f"holds several reconstructions: {names}; choose one with `dataset`"
        raise InputError(message, path=path)
    what = ", ".join(measured[:4]) or hdf5.listing(file)
    message = f"holds no reconstruction: expected complex 'entry_1/image_1/data', found {what}"
    raise InputError(message, path=path)


def _address(data: h5py.Dataset) -> str:
    """What is the same for two names of one dataset."""
    return str(h5py.h5o.get_info(data.id).addr)


def _energy_ev(entry: h5py.Group, path: Path) -> float | None:
    energy = hdf5.read_quantity(
        entry, ("instrument_1/source_1/energy", "source_1/energy"), path, units.ENERGY_EV, "J"
    )
    low, high = _ENERGY_RANGE_EV
    if energy is not None and not low <= energy <= high:
        message = (
            f"expected a photon energy in joules of {low:g} to {high:g} eV, found {energy:.6g} eV"
        )
        raise InputError(message, path=path, field="instrument_1/source_1/energy")
    return energy


def _pixel_m(
    entry: h5py.Group,
    image: h5py.Group,
    shape: tuple[int, int],
    energy_ev: float | None,
    path: Path,
) -> float | None:
    """Pixel size of the image [m]: its own, else from its extent, else from the geometry."""
    own = hdf5.read_pixel_m(image, ("{}_pixel_size",), path)
    if own is not None:
        return own
    extent = hdf5.read_scalars(image, ("image_size",), path)
    if extent is not None and extent.size >= 2 and 0 not in shape and np.all(extent[:2] > 0.0):
        return float(extent[0] / shape[1])
    corner = hdf5.read_scalars(entry, ("instrument_1/detector_1/corner_position",), path)
    if corner is None or energy_ev is None:
        return None
    if corner.size != 3 or not np.all(np.isfinite(corner)) or 0.0 in corner:
        message = f"expected (x, y, z) [m] off the axis, found {corner[:4].tolist()}"
        raise InputError(message, path=path, field="corner_position")
    x, _, z = np.abs(corner)
    return float(wavelength_m(energy_ev) * z / (2.0 * x))
