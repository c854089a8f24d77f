"""Files in and out: one reader a format behind one protocol, one writer of results."""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.io.cxi import CxiReader
from pipeline.io.dataexchange import DataExchangeReader
from pipeline.io.nxtomo import NxTomoReader
from pipeline.io.protocol import FileInfo, Reader
from pipeline.io.ptychoshelves import PtychoShelvesReader
from pipeline.io.ptypy import PtypyReader
from pipeline.io.resire_v import ResireVReader
from pipeline.io.tiff import TiffReader
from pipeline.io.xldot_public import XldotPublicReader

__all__ = ["FileInfo", "Reader", "reader_for"]


def reader_for(name: str) -> Reader:
    """Reader of a format by its name in the beamtime file.

    Raises
    ------
    InputError : no reader has that name.
    """
    readers: list[Reader] = [
        PtychoShelvesReader(),
        PtypyReader(),
        CxiReader(),
        NxTomoReader(),
        DataExchangeReader(),
        TiffReader(),
        XldotPublicReader(),
        ResireVReader(),
    ]
    for reader in readers:
        if reader.format == name:
            return reader
    known = ", ".join(reader.format for reader in readers)
    raise InputError(f"expected one of {known}, found '{name}'", field="format")
