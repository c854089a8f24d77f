"""PtyPy reconstructions (`.ptyr`): one projection a file, found under `content/obj`.

Layout::

    content/obj/<id>/data      (layers, ny, nx) complex
    content/obj/<id>/_psize    pixel size [m], two numbers
    content/obj/<id>/_energy   [keV]

With several storages, or several layers of one, `dataset` chooses: `<id>` or `<id>:<layer>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.io.layers import layer_shape, read_layer, split_choice
from pipeline.io.protocol import FileInfo

_OBJECTS = "content/obj"


class PtypyReader:
    """Reader of PtyPy's `.ptyr` files."""

    format = "ptypy"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Metadata of one reconstruction; the files hold no angle.

        Raises
        ------
        InputError : no object, several and none chosen, or metadata that are not positive numbers.
        """
        with hdf5.open_hdf5(path) as file:
            data, layer = _object(file, dataset, path)
            storage = data.parent
            energy_kev = hdf5.read_number(storage, ("_energy",), path, positive=True)
            return FileInfo(
                n_frames=1 if data.size else 0,
                shape=layer_shape(data, layer, path),
                complex=True,
                pixel_size_m=hdf5.read_number(storage, ("_psize",), path, positive=True),
                energy_ev=None if energy_kev is None else 1000.0 * energy_kev,
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """The object as one frame (ny, nx) complex64."""
        with hdf5.open_hdf5(path) as file:
            data, layer = _object(file, dataset, path)
            yield read_layer(data, layer, path)


def _object(file: h5py.File, dataset: str | None, path: Path) -> tuple[h5py.Dataset, int | None]:
    """Dataset of the chosen storage, and the chosen layer."""
    objects = hdf5.find(file, _OBJECTS, path)
    if not isinstance(objects, h5py.Group):
        message = f"holds no reconstruction: expected '{_OBJECTS}', found {hdf5.listing(file)}"
        raise InputError(message, path=path)
    name, layer = split_choice(dataset, path)
    stored = [key for key in hdf5.subgroups(objects, path) if "data" in objects[key]]
    if name is None and len(stored) != 1:
        message = (
            f"expected one object, found {', '.join(stored) or 'none'}"
            f"{'; choose it with `dataset`' if stored else ''}"
        )
        raise InputError(message, path=path, field=_OBJECTS)
    key = (name or stored[0]).strip("/").removeprefix(f"{_OBJECTS}/").removesuffix("/data")
    data = hdf5.find_dataset(objects, (f"{key}/data",), path)
    if data is None:
        message = f"expected an object '{key}', found {', '.join(stored) or 'none'}"
        raise InputError(message, path=path, field=_OBJECTS)
    return data, layer
