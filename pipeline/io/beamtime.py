"""The beamtime file and the recipe: YAML in, validated models out, problems in one line."""

from __future__ import annotations

import glob
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.elements import parse_formula
from pipeline.errors import InputError
from pipeline.io import reader_for, resire_v
from pipeline.io.yaml_file import load_model
from schemas.beamtime import Beamtime
from schemas.recipe import Recipe
from schemas.series import Series


@dataclass(frozen=True)
class LoadedBeamtime:
    """A beamtime and the folder that its file patterns are relative to."""

    beamtime: Beamtime
    folder: Path


def load_beamtime(path: str | Path, *, planned: bool = False) -> LoadedBeamtime:
    """Read and validate a beamtime file, and see that every file it names exists.

    Parameters
    ----------
    path : the YAML file; file patterns in it are relative to its folder.
    planned : nothing has been measured yet; no file but the angles' has to exist.

    Raises
    ------
    InputError : unreadable, no YAML, wrong keys or values (the first problem, and how many more
        there are), or files that do not exist.
    """
    path = Path(path)
    beamtime, folder = read_beamtime(path)
    for index, series in enumerate(beamtime.series):
        place = f"series[{index}]"
        if not planned:
            _match_files(series, folder, path=path, field=f"{place}.files")
        if series.angles_file is not None and not (folder / series.angles_file).is_file():
            message = f"file '{series.angles_file}' does not exist"
            raise InputError(message, path=path, field=f"{place}.angles_file")
    if planned:
        return LoadedBeamtime(beamtime, folder)
    if beamtime.support is not None and not (folder / beamtime.support.file).is_file():
        message = f"file '{beamtime.support.file}' does not exist"
        raise InputError(message, path=path, field="support.file")
    _check_other_files(beamtime, folder, path)
    return LoadedBeamtime(beamtime, folder)


def read_beamtime(path: Path) -> tuple[Beamtime, Path]:
    """A beamtime file and its folder, whether or not the files that it names are there yet.

    Raises
    ------
    InputError : as for `load_beamtime`, but for files that do not exist.
    """
    return load_model(path, Beamtime), path.resolve().parent


def _check_other_files(beamtime: Beamtime, folder: Path, path: Path) -> None:
    """Files beside the series, and formulas."""
    wanted = {}
    if beamtime.sample.scattering_factors is not None:
        wanted["sample.scattering_factors"] = beamtime.sample.scattering_factors
    if beamtime.chemistry is not None:
        wanted["chemistry.references"] = beamtime.chemistry.references
        if beamtime.chemistry.validation is not None:
            wanted["chemistry.validation.file"] = beamtime.chemistry.validation.file
    for field, name in wanted.items():
        if not (folder / name).is_file():
            raise InputError(f"file '{name}' does not exist", path=path, field=field)
    for index, material in enumerate(beamtime.sample.materials):
        if material.formula is not None:
            parse_formula(material.formula, field=f"{path}: sample.materials[{index}].formula")


def load_recipe(path: str | Path | None) -> Recipe:
    """Read and validate a recipe; without a path, the default one.

    Raises
    ------
    InputError : as for `load_beamtime`.
    """
    return Recipe() if path is None else load_model(Path(path), Recipe)


def save_beamtime(path: Path, beamtime: Beamtime, notes: Sequence[str] = ()) -> None:
    """Write a beamtime file that says only what differs from the defaults.

    Parameters
    ----------
    path : file to write.
    beamtime : its content.
    notes : comments at its head, one line each.
    """
    content = beamtime.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(
        {"version": beamtime.version, **content},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )
    head = "".join(f"# {' '.join(note.split())}\n" for note in notes)
    path.write_text(head + text, encoding="utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Fill a new folder under a temporary name; it gets its own name when it is whole.

    Parameters
    ----------
    out : folder to make; may exist if it is empty.

    Raises
    ------
    InputError : `out` exists and is no empty folder, or cannot be made there.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("exists and is not an empty folder; expected a new one", path=out)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", path=out) from error
    try:
        yield temporary
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def series_files(series: Series, folder: Path) -> list[Path]:
    """Files of a series: patterns in their order, the matches of each sorted by name.

    Raises
    ------
    InputError : a file does not exist, a pattern matches nothing, or a file is named twice.
    """
    return _match_files(series, folder, path=None, field=f"series '{series.name}': files")


def _match_files(series: Series, folder: Path, *, path: Path | None, field: str) -> list[Path]:
    found: list[Path] = []
    for pattern in series.files:
        if glob.has_magic(pattern):
            # The folder itself may hold brackets; only the pattern is one.
            whole = str(Path(glob.escape(str(folder))) / pattern)
            matches = sorted(Path(name) for name in glob.glob(whole, recursive=True))  # noqa: PTH207
            if not matches:
                message = f"no file matches '{pattern}' of series '{series.name}'"
                raise InputError(message, path=path, field=field)
            found.extend(matches)
        elif not (folder / pattern).is_file():
            message = f"file '{pattern}' of series '{series.name}' does not exist"
            raise InputError(message, path=path, field=field)
        else:
            found.append(folder / pattern)
    if len(set(found)) != len(found):
        twice = next(file for file in found if found.count(file) > 1)
        message = f"file '{twice.name}' of series '{series.name}' is named twice"
        raise InputError(message, path=path, field=field)
    return found


def kept_indices(series: Series, n_frames: int) -> NDArray[np.intp]:
    """Indices of the projections that are used: all but `exclude`.

    Raises
    ------
    InputError : `exclude` names a projection that there is not, or all of them.
    """
    field = f"series '{series.name}': exclude"
    bad = [index for index in series.exclude if not 0 <= index < n_frames]
    if bad:
        message = f"names projection {bad[0]}, expected 0 to {n_frames - 1}"
        raise InputError(message, field=field)
    kept = np.setdiff1d(np.arange(n_frames), np.asarray(series.exclude, dtype=np.intp))
    if kept.size == 0:
        raise InputError(f"leaves none of the {n_frames} projections", field=field)
    return kept


def series_angles(series: Series, folder: Path) -> NDArray[np.float64]:
    """Rotation angle of each used projection about the vertical axis.

    Taken from `angles_deg`, else `angles_file`, else the files themselves. Projections in
    `exclude` are left out. Of the Euler angles of RESIRE-V this is the second, theta.

    Returns
    -------
    (n,) float64 [degree].

    Raises
    ------
    InputError : no angles anywhere, or angles that are no finite numbers.
    """
    angles = all_angles(series, folder)
    return angles[kept_indices(series, angles.size)]


def all_angles(series: Series, folder: Path) -> NDArray[np.float64]:
    """As `series_angles`, for excluded projections too."""
    if series.angles_deg is not None:
        return np.asarray(series.angles_deg, dtype=np.float64)
    if series.angles_file is not None:
        path = folder / series.angles_file
        if series.format == "resire-v":
            return resire_v.load_euler(path)[:, 1]
        return _text_angles(path, series_files(series, folder))
    reader = reader_for(series.format)
    angles: list[float] = []
    for path in series_files(series, folder):
        info = reader.inspect(path, series.dataset)
        if info.angles_deg is None:
            message = "angles_deg or angles_file is required: the files do not hold the angles"
            raise InputError(message, path=path, field=f"series '{series.name}'")
        angles.extend(info.angles_deg)
    return np.asarray(angles, dtype=np.float64)


def planned_angles(
    series: Series, folder: Path
) -> tuple[NDArray[np.float64] | None, dict[str, float]]:
    """Angles that the beamtime's own table gives, whether or not the files are there yet.

    Returns
    -------
    Angles in the order of the projections, None where there are none or they go by name; and the
    angles by the name of their file, where a text table names it.

    Raises
    ------
    InputError : a table that does not exist or holds anything but angles.
    """
    if series.angles_deg is not None:
        return np.asarray(series.angles_deg, dtype=np.float64), {}
    if series.angles_file is None:
        return None, {}
    path = folder / series.angles_file
    if series.format == "resire-v":
        return resire_v.load_euler(path)[:, 1], {}
    angles, named = _angle_table(path)
    return (np.asarray(angles, dtype=np.float64) if angles else None), named


def _text_angles(path: Path, files: list[Path]) -> NDArray[np.float64]:
    """Angles of a text file: one a line, or the name of a file and the angle of its projection."""
    angles, named = _angle_table(path)
    if named:
        angles = [_named_angle(named, file, path) for file in files]
    return np.asarray(angles, dtype=np.float64)


def _angle_table(path: Path) -> tuple[list[float], dict[str, float]]:
    """Angles one a line, or by name of a file; one of the two is empty."""
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    angles: list[float] = []
    named: dict[str, float] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("expected text, one angle a line", path=path) from error
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        angle = _number(words[-1])
        with_name = len(words) == 2 and not np.isfinite(_number(words[0]))
        if len(words) > (2 if with_name else 1) or not np.isfinite(angle):
            message = f"expected one angle in degrees, found '{line.strip()[:40]}'"
            raise InputError(message, path=path, field=f"line {number}")
        if with_name and words[0] in named:
            raise InputError(f"'{words[0]}' occurs twice", path=path, field=f"line {number}")
        if with_name:
            named[words[0]] = angle
        else:
            angles.append(angle)
    if named and angles:
        raise InputError("some lines name a file and some do not", path=path)
    if not angles and not named:
        raise InputError("expected one angle a line, found none", path=path)
    return angles, named


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def _named_angle(named: dict[str, float], file: Path, path: Path) -> float:
    for name in (file.name, file.stem):
        if name in named:
            return named[name]
    raise InputError(f"expected a line for '{file.name}', found none", path=path)
