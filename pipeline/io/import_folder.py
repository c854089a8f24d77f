"""A `beamtime.yaml` for a folder of files that other programs wrote, and what it could not know.

The data stay where they are. A file with several projections is a series of its own; files of one
projection are one series for each folder and, within a folder, for each name once its running
number is left out. Polarisation and mounting are taken from the files, else read off the names.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.io import importers, reader_for
from pipeline.io.beamtime import new_folder, save_beamtime
from pipeline.io.protocol import FileInfo
from schemas.base import explain
from schemas.beamtime import Beamtime, Sample
from schemas.energy import Energy
from schemas.polarisation import Polarisation
from schemas.series import Format, Quantity, Series, State
from schemas.tilt import Tilt

PATTERNS: dict[Format, tuple[str, ...]] = {
    "ptychoshelves": ("*.h5", "*.mat"),
    "ptypy": ("*.ptyr",),
    "cxi": ("*.cxi",),
    "nxtomo": ("*.nx", "*.nxs", "*.h5", "*.hdf5"),
    "dataexchange": ("*.h5", "*.hdf", "*.hdf5"),
    "tiff": ("*.tif", "*.tiff"),
}

PLACEHOLDER_EV = 1000.0
"""Stands where a series needs an energy and nothing says it; each use is told in a note."""

_SAME_ENERGY = 1e-4
"""Relative; as for what the files of one series may differ from the beamtime file."""

_POLARISATIONS: dict[str, Polarisation] = {
    "lh": Polarisation(kind="linear", angle_deg=0.0),
    "lv": Polarisation(kind="linear", angle_deg=90.0),
    "cp": Polarisation(kind="circular", helicity=1),
    "cm": Polarisation(kind="circular", helicity=-1),
}
_SPELLINGS = {"c+": "cp", "cplus": "cp", "c-": "cm", "cminus": "cm", "hor": "lh", "ver": "lv"}
_PARTNER = {"LH": "LV", "LV": "LH", "C+": "C-", "C-": "C+"}
_WORD = re.compile(r"(?<![a-z])(lh|lv|hor|ver|cplus|cminus|cp|cm|c\+|c-)(?![a-z+])", re.IGNORECASE)


@dataclass(frozen=True)
class _Group:
    """Files of one series."""

    name: str
    files: list[Path]
    infos: list[FileInfo]

    @property
    def first(self) -> FileInfo:
        return self.infos[0]

    @property
    def n_frames(self) -> int:
        return sum(info.n_frames for info in self.infos)


def import_folder(
    data_format: str,
    paths: Sequence[Path],
    out: Path,
    *,
    energy_ev: float | None = None,
    pixel_size_m: float | None = None,
    angles_file: Path | None = None,
    dataset: str | None = None,
) -> tuple[Path, list[str]]:
    """Write a beamtime for files of any format that can be read.

    Parameters
    ----------
    data_format : a format of the readers.
    paths : files, or folders that are searched with all their sub-folders.
    out : folder to make, in which `beamtime.yaml` is written.
    energy_ev : photon energy [eV] where the files do not say it.
    pixel_size_m : [m] where the files do not say it.
    angles_file : table of the angles where the files do not hold them; used for every series.
    dataset : which data of each file, where the format leaves a choice.

    Returns
    -------
    path : of `beamtime.yaml`, which loads as it is.
    notes : what the files do not say, one sentence each, beginning with the field to fill in. They
        are comments at the head of the file too.

    Raises
    ------
    InputError : no such format, no files, files that cannot be read, or options that this format
        has no use for.
    """
    if data_format in ("resire-v", "xldot-public"):
        options = {"energy_ev": energy_ev, "pixel_size_m": pixel_size_m}
        given = {name: value for name, value in options.items() if value is not None}
        for option, value in (("angles_file", angles_file), ("dataset", dataset)):
            if value is not None:
                raise InputError(f"does not apply to the format '{data_format}'", field=option)
        if data_format == "resire-v":
            return importers.import_resire_v(paths, out, **given)
        return importers.import_xldot_public(paths, out, **given)
    data_format = reader_for(data_format).format
    groups = _groups(data_format, paths, dataset)
    if angles_file is not None and not angles_file.is_file():
        raise InputError("file does not exist", path=angles_file)
    notes: list[str] = []
    polarisations = _polarisations(groups, notes)
    series = [
        _series(
            index,
            group,
            polarisations[index],
            notes,
            data_format=data_format,
            dataset=dataset,
            energy_ev=energy_ev,
            pixel_size_m=pixel_size_m,
            angles_file=angles_file,
        )
        for index, group in enumerate(groups)
    ]
    beamtime = _beamtime(paths[0], series, notes)
    with new_folder(out) as folder:
        save_beamtime(folder / "beamtime.yaml", beamtime, notes)
    return out.absolute() / "beamtime.yaml", notes


def _beamtime(path: Path, series: list[Series], notes: list[str]) -> Beamtime:
    """Beamtime of the series, with partners at exactly one energy."""
    energies: dict[str, list[float]] = {}
    for index, item in enumerate(series):
        known = energies.setdefault(item.tilt.name, [])
        ev = item.energy.known_ev
        # Rounding of a unit, or of the monochromator's readback, is no second energy.
        same = next((other for other in known if abs(ev / other - 1.0) < _SAME_ENERGY), None)
        if same is None:
            known.append(ev)
        else:
            energy = item.energy.model_copy(update={"energy_ev": same})
            series[index] = item.model_copy(update={"energy": energy})
    labels = [(s.tilt.name, s.energy.energy_ev, s.polarisation.label) for s in series]
    for index, (tilt, energy_ev, label) in enumerate(labels):
        partner = (tilt, energy_ev, _PARTNER.get(label, ""))
        if label == "none" or (labels.count(partner) == 1 and labels.count(labels[index]) == 1):
            continue
        series[index] = series[index].model_copy(update={"polarisation": Polarisation()})
        notes.append(
            f"series[{index}].polarisation: {label} at tilt '{tilt}' has no single partner "
            f"{_PARTNER.get(label, 'LH or LV')} and is left unpolarised; state both, with the same "
            "tilt.name and energy."
        )
    notes.append(
        "series[*].tilt: tilt_deg and pre_rotation_deg are in no file and left at 0; fill them in "
        "for every mounting that was tilted or turned."
    )
    notes.append(
        "series[*].rows: which way the rows run is in no file and left at 'up' (first row at the "
        "bottom); set 'down' where the first row is at the top, else the sample is mirrored."
    )
    name = path.resolve().stem or "sample"
    sample = Sample(name=name, description="Imported; see the notes above")
    try:
        return Beamtime(sample=sample, series=series)
    except ValidationError as error:
        raise InputError(explain(error, Beamtime)[0], path=path) from error


def _groups(data_format: str, paths: Sequence[Path], dataset: str | None) -> list[_Group]:
    """Files of each series in their natural order, every one inspected."""
    reader = reader_for(data_format)
    files = _files(data_format, paths)
    infos = {path: reader.inspect(path, dataset) for path in files}
    roots = [path.resolve() for path in paths if path.is_dir()]
    found: list[_Group] = []
    for folder in sorted({path.parent for path in files}):
        inside = [path for path in files if path.parent == folder]
        stacks = [path for path in inside if infos[path].n_frames > 1]
        singles = [path for path in inside if infos[path].n_frames <= 1]
        parts = [[path] for path in stacks] + _by_name(singles)
        for part in parts:
            alone = len(parts) == 1
            name = _series_name(part, folder, roots, alone=alone)
            taken = [group.name for group in found]
            if name in taken:
                name = f"{name}_{sum(other.startswith(name) for other in taken) + 1}"
            found.append(_Group(name, part, [infos[path] for path in part]))
    return found


def _files(data_format: str, paths: Sequence[Path]) -> list[Path]:
    patterns = next(found for name, found in PATTERNS.items() if name == data_format)
    files: set[Path] = set()
    for path in paths:
        if path.is_dir():
            for pattern in patterns:
                files.update(p for p in path.resolve().rglob(pattern) if p.is_file())
        elif path.is_file():
            files.add(path.resolve())
        else:
            raise InputError("file or folder does not exist", path=path)
    if not files:
        where = ", ".join(str(path) for path in paths) or "nothing given"
        raise InputError(f"expected {' or '.join(patterns)} files, found none", path=where)
    return sorted(files, key=_natural)


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Order by folder and then by name with numbers as numbers: 2 before 10."""
    pieces = re.split(r"(\d+)", path.name)
    return str(path.parent), [
        (int(piece) if piece.isdecimal() else -1, piece) for piece in pieces if piece
    ]


def _by_name(files: list[Path]) -> list[list[Path]]:
    """Split the files of a folder by what their names say beside the running number."""
    templates: dict[str, list[Path]] = {}
    for path in files:
        templates.setdefault(re.sub(r"\d+", "#", path.name), []).append(path)
    parts: list[list[Path]] = []
    for members in templates.values():
        numbers = [tuple(re.findall(r"\d+", path.name)) for path in members]
        columns = list(zip(*numbers, strict=True))
        # A number that hardly repeats runs with the projections; one that repeats names a series.
        keys = [c for c in columns if len(set(c)) <= max(1, len(members) // 3)]
        split: dict[tuple[str, ...], list[Path]] = {}
        for index, path in enumerate(members):
            split.setdefault(tuple(column[index] for column in keys), []).append(path)
        parts.extend(split.values())
    return parts


def _series_name(part: list[Path], folder: Path, roots: list[Path], *, alone: bool) -> str:
    """From the folder below the one given, and from the files where a folder has several."""
    root = next((root for root in roots if folder.is_relative_to(root)), folder.parent)
    words = list(folder.relative_to(root).parts) or ([folder.name] if alone else [])
    if not alone:
        stems = [path.name.split(".")[0] for path in part]
        common = stems[0]
        while not all(stem.startswith(common) for stem in stems):
            common = common[:-1]
        if len(part) > 1:
            # What the running numbers have in common (leading zeros) is no name.
            common = re.sub(r"[\W_]*\d*$", "", common) or common
        words.append(common)
    text = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "_".join(words)).strip("_.+-")
    return text or "series"


def _polarisations(groups: list[_Group], notes: list[str]) -> list[tuple[Polarisation, str]]:
    """Polarisation and mounting of each series: from the files, else from the names."""
    found = []
    for index, group in enumerate(groups):
        word = _WORD.search(group.name)
        rest = group.name
        if word is not None:
            start, end = word.span()
            rest = (group.name[:start].rstrip("_.-+") + group.name[end:]).strip("_.-+")
        tilt = rest or "mounting1"
        stated = group.first.polarisation
        if stated is not None:
            found.append((stated, tilt))
            continue
        if word is None:
            notes.append(
                f"series[{index}].polarisation: nothing says it for '{group.name}'; it is taken "
                "as unpolarised."
            )
            found.append((Polarisation(), group.name))
            continue
        key = word[0].lower()
        polarisation = _POLARISATIONS[_SPELLINGS.get(key, key)]
        notes.append(
            f"series[{index}].polarisation: {polarisation.label} at tilt '{tilt}' is read off the "
            f"name '{group.name}'; confirm it and fill in the degree, taken as 1."
        )
        found.append((polarisation, tilt))
    return found


def _series(
    index: int,
    group: _Group,
    polarisation: tuple[Polarisation, str],
    notes: list[str],
    *,
    data_format: str,
    dataset: str | None,
    energy_ev: float | None,
    pixel_size_m: float | None,
    angles_file: Path | None,
) -> Series:
    first, place = group.first, f"series[{index}]"
    state, quantity = _state(data_format, group, dataset, place, notes)
    energy = first.energy_ev or energy_ev
    if energy is None:
        notes.append(
            f"{place}.energy.energy_ev: the files of '{group.name}' do not say it; "
            f"{PLACEHOLDER_EV:g} eV is a placeholder that must be replaced."
        )
    if first.pixel_size_m is None and pixel_size_m is None:
        notes.append(
            f"{place}.pixel_size_m: the files of '{group.name}' do not say it; a run needs it."
        )
    held = all(info.angles_deg is not None for info in group.infos)
    if not held and angles_file is None:
        notes.append(
            f"{place}.angles_deg: the files of '{group.name}' hold no angles; give "
            f"{group.n_frames} of them, or angles_file."
        )
    elif held and len({a for info in group.infos for a in info.angles_deg or ()}) == 1 < (
        group.n_frames
    ):
        notes.append(f"{place}.angles_deg: all files of '{group.name}' say the same angle.")
    return Series(
        name=group.name,
        state=state,
        format=data_format,
        quantity=quantity,
        files=_patterns(group.files),
        dataset=dataset,
        tilt=Tilt(name=polarisation[1]),
        polarisation=polarisation[0],
        energy=Energy(energy_ev=round(energy or PLACEHOLDER_EV, 6)),
        pixel_size_m=None if first.pixel_size_m is not None else pixel_size_m,
        angles_file=None if held or angles_file is None else str(angles_file.resolve()),
    )


def _state(
    data_format: str, group: _Group, dataset: str | None, place: str, notes: list[str]
) -> tuple[State, Quantity]:
    """What real frames are, told by their signs; complex ones say it themselves."""
    if group.first.complex:
        return "raw", "phase"
    frame = next(reader_for(data_format).frames(group.files[0], dataset), None)
    if frame is not None and np.nanmin(frame, initial=0.0) < 0.0:
        notes.append(
            f"{place}.state: the frames of '{group.name}' are real with negative values and are "
            "taken as phase images; set quantity: optical-density if that is what they are."
        )
        return "phase", "phase"
    notes.append(
        f"{place}.quantity: the frames of '{group.name}' are real and taken as intensities; set "
        "amplitude, or state: phase if they are phase images or optical densities."
    )
    return "raw", "intensity"


def _patterns(files: list[Path]) -> list[str]:
    """One pattern where it finds just these files in this order, else every file by name."""
    folder = glob.escape(str(files[0].parent))
    names = [path.name for path in files]
    if names == sorted(names) and len(names) > 1:
        stem = names[0]
        while not all(name.startswith(stem) for name in names):
            stem = stem[:-1]
        pattern = f"{folder}/{glob.escape(stem)}*{glob.escape(files[0].suffix)}"
        if sorted(glob.glob(pattern)) == [str(path) for path in files]:  # noqa: PTH207
            return [pattern]
    return [glob.escape(str(path)) for path in files]
