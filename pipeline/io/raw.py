"""The projections of one series, read over all its files with every check that data can fail.

Every function leaves out the projections that the series excludes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.io import reader_for, resire_v
from pipeline.io.air import load_air
from pipeline.io.beamtime import all_angles, kept_indices, series_files
from pipeline.io.protocol import FileInfo
from pipeline.io.xldot_public import XldotPublicReader
from schemas.series import Series

_SAME_IN_SERIES = 1e-6
"""Relative; one reconstruction run gives every projection the same number."""

_SAME_AS_BEAMTIME = 1e-3
"""Relative for pixel sizes: a person rounds 30.91 nm."""

_SAME_ENERGY = 1e-4
"""Relative for energies: half an electronvolt near 5 keV, less than a resonance is wide."""

_SAME_ANGLE_DEG = 0.05
"""For angles: a table holds what was asked for, a file often what the encoder said."""

_NOMINAL_TILT_DEG = 5.0
"""A stage's nominal tilt is off by some degrees."""

_SANE = (1e-38, 1e20)
"""Bytes in the wrong order make many numbers outside; hardly any transmission, phase or count is.
The lower bound is that of normal float32, so that a faint tail is not taken for it."""


@dataclass(frozen=True)
class SeriesInfo:
    """What the files of a series say together, known without reading frames.

    Attributes
    ----------
    files : in the order of the projections.
    counts : frames in each file.
    n_frames : all frames, excluded ones counted.
    shape : (ny, nx) of every frame.
    pixel_size_m, energy_ev : from the beamtime file or else the files; None where neither says.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    n_frames: int
    shape: tuple[int, int]
    pixel_size_m: float | None
    energy_ev: float | None


def inspect_series(series: Series, folder: Path) -> SeriesInfo:
    """Check everything about a series that metadata can tell.

    Raises
    ------
    InputError : unreadable files, different or zero frame shapes, values of the wrong kind, pixel
        sizes or energies that contradict each other, angles or air that do not match the frames.
    """
    reader = reader_for(series.format)
    files = series_files(series, folder)
    first: FileInfo | None = None
    counts = []
    in_files: list[tuple[float, ...] | None] = []
    for path in files:
        info = reader.inspect(path, series.dataset)
        first = first or info
        _check_file(info, first, series, path, files[0])
        counts.append(info.n_frames)
        in_files.append(info.angles_deg)
    assert first is not None  # a series has at least one file
    load_air(series, folder, first.shape)
    _check_tilt(series, folder)
    _check_angles(series, folder, sum(counts))
    _check_angles_agree(series, folder, files, in_files)
    return SeriesInfo(
        files=tuple(files),
        counts=tuple(counts),
        n_frames=sum(counts),
        shape=first.shape,
        pixel_size_m=series.pixel_size_m or first.pixel_size_m,
        energy_ev=series.energy.energy_ev or first.energy_ev,
    )


def check_scan(path: Path, series: Series, first: Path | None = None) -> FileInfo:
    """Read one file of a series whole and see that it is one, before the others are there.

    Parameters
    ----------
    path : the file.
    series : that it belongs to.
    first : another file of the series, which it has to be like.

    Raises
    ------
    InputError : as for `read_series`, as far as one file can tell.
    """
    reader = reader_for(series.format)
    info = reader.inspect(path, series.dataset)
    like = info if first is None else reader.inspect(first, series.dataset)
    _check_file(info, like, series, path, first or path)
    for index, frame in enumerate(reader.frames(path, series.dataset)):
        _checked(frame, series, path, index)
    return info


def _check_file(
    info: FileInfo, first: FileInfo, series: Series, path: Path, first_path: Path
) -> None:
    field = f"series '{series.name}'"
    if info.n_frames == 0 or 0 in info.shape:
        message = f"holds no pixels: {info.n_frames} frames of shape {info.shape}"
        raise InputError(message, path=path, field=field)
    if series.frames_complex != info.complex:
        kinds = ("real projections", "complex numbers")
        if not info.complex:
            kinds = ("complex projections", "real numbers")
        state = f"state '{series.state}'"
        if series.absorbing:
            state += f" and quantity '{series.quantity}'"
        message = f"expected {kinds[0]} for {state}, found {kinds[1]}"
        raise InputError(message, path=path, field=field)
    if info.shape != first.shape:
        message = f"expected shape {first.shape} as in {first_path.name}, found {info.shape}"
        raise InputError(message, path=path, field=field)
    for name, unit, here, there, stated, tolerance in (
        (
            "pixel size",
            "m",
            info.pixel_size_m,
            first.pixel_size_m,
            series.pixel_size_m,
            _SAME_AS_BEAMTIME,
        ),
        ("energy", "eV", info.energy_ev, first.energy_ev, series.energy.energy_ev, _SAME_ENERGY),
    ):
        if _differ(here, there, _SAME_IN_SERIES):
            message = f"{name} {here:.6g} {unit}, but {there:.6g} {unit} in {first_path.name}"
            raise InputError(message, path=path, field=field)
        if _differ(here, stated, tolerance):
            message = f"{name} {here:.6g} {unit}, but the beamtime file says {stated:.6g} {unit}"
            raise InputError(message, path=path, field=field)

    _check_polarisation(info, series, path)


def _check_polarisation(info: FileInfo, series: Series, path: Path) -> None:
    """A beamtime file may leave polarisation out (a scalar series), but not contradict it."""
    found, stated = info.polarisation, series.polarisation
    if found is None or "unpolarised" in (found.kind, stated.kind) or found.label == stated.label:
        return
    message = f"polarisation {found.label}, but the beamtime file says {stated.label}"
    raise InputError(message, path=path, field=f"series '{series.name}'")


def _differ(a: float | None, b: float | None, tolerance: float) -> bool:
    return a is not None and b is not None and abs(a - b) > tolerance * abs(b)


def _check_angles(series: Series, folder: Path, n_frames: int) -> None:
    kept_indices(series, n_frames)
    if series.format == "resire-v" and series.angles_file is not None:
        source, found = series.angles_file, len(resire_v.load_euler(folder / series.angles_file))
    else:
        source = "angles_deg" if series.angles_deg is not None else series.angles_file or "angles"
        found = all_angles(series, folder).size
    if found != n_frames:
        message = f"expected {n_frames} angles, one for each projection, found {found}"
        raise InputError(message, field=f"series '{series.name}': {source}")


def _check_tilt(series: Series, folder: Path) -> None:
    """A tilt that is stated must be that of rotations which the data bring."""
    stated = series.tilt.tilt_deg
    if stated == 0.0:
        return
    field = f"series '{series.name}': tilt.tilt_deg"
    remedy = "leave it at 0, for the rotations come with the data"
    if series.format == "resire-v":
        message = f"{stated:g} degree, but the Euler angles say the whole rotation; {remedy}"
        raise InputError(message, path=series.angles_file, field=field)
    rotations = load_rotations(series, folder)
    if rotations is None:
        return
    # The axis about which the series turns, in the sample's frame: `R_z(tilt)` takes it from y.
    axis = rotations[:, 1].mean(axis=0)
    found = float(np.degrees(np.arccos(np.clip(axis[1] / np.linalg.norm(axis), -1.0, 1.0))))
    if abs(found - abs(stated)) > _NOMINAL_TILT_DEG:
        message = f"{stated:g} degree, but the matrices of the files say {found:.3g}; {remedy}"
        raise InputError(message, path=series_files(series, folder)[0], field=field)


def _check_angles_agree(
    series: Series,
    folder: Path,
    files: list[Path],
    in_files: list[tuple[float, ...] | None],
) -> None:
    """Angles that the beamtime file states must be those of the files, up to whole turns."""
    if series.angles_deg is None and series.angles_file is None:
        return
    stated = all_angles(series, folder)
    kept = np.isin(np.arange(stated.size), kept_indices(series, stated.size))
    start = 0
    for path, found in zip(files, in_files, strict=True):
        if found is None:
            return
        here = np.asarray(found)
        there = stated[start : start + here.size]
        apart = np.abs((here - there + 180.0) % 360.0 - 180.0) * kept[start : start + here.size]
        if np.any(apart > _SAME_ANGLE_DEG):
            bad = int(np.argmax(apart > _SAME_ANGLE_DEG))
            message = (
                f"angle {here[bad]:.6g} degree of projection {start + bad}, but the beamtime file "
                f"says {there[bad]:.6g} degree"
            )
            raise InputError(message, path=path, field=f"series '{series.name}'")
        start += here.size


def read_series(series: Series, folder: Path) -> Iterator[NDArray[Any]]:
    """Yield the projections of a series one after the other.

    All files are inspected before the first frame is read, so that what metadata can tell is told
    at once.

    Parameters
    ----------
    series : from a beamtime.
    folder : that its file patterns are relative to.

    Yields
    ------
    (ny, nx) complex64 for state `raw`, float32 [rad] for the others. A border of NaN about complex
    frames, as some programs leave it where nothing was scanned, is zero.

    Raises
    ------
    InputError : as for `inspect_series`, and values that cannot be read or are not finite inside.
    """
    info = inspect_series(series, folder)
    reader = reader_for(series.format)
    kept = {int(index) for index in kept_indices(series, info.n_frames)}
    index = 0
    for path in info.files:
        for frame in reader.frames(path, series.dataset):
            if index in kept:
                yield _as_declared(_checked(frame, series, path, index), series)
            index += 1


def sample_series(series: Series, folder: Path, most: int) -> Iterator[NDArray[Any]]:
    """Yield a few projections, spread evenly over a series; files without one stay closed.

    Parameters
    ----------
    series, folder : as for `read_series`.
    most : number of projections; all of them where there are fewer.
    """
    info = inspect_series(series, folder)
    reader = reader_for(series.format)
    kept = kept_indices(series, info.n_frames)
    places = np.linspace(0, kept.size - 1, min(most, kept.size)).round().astype(np.intp)
    picked = {int(index) for index in kept[places]}
    start = 0
    for path, count in zip(info.files, info.counts, strict=True):
        here = {index - start for index in picked if start <= index < start + count}
        if here:
            for index, frame in enumerate(reader.frames(path, series.dataset)):
                if index in here:
                    yield _as_declared(_checked(frame, series, path, start + index), series)
                if index >= max(here):
                    break
        start += count


def _as_declared(frame: NDArray[Any], series: Series) -> NDArray[Any]:
    """Frame with matter negative and rows upwards."""
    if series.conjugate:
        frame = _matter_negative(frame)
    return frame if series.rows == "up" else _rows_upwards(frame, series)


def _rows_upwards(frame: NDArray[Any], series: Series) -> NDArray[Any]:
    """Frame with its rows reversed.

    Stacks that come aligned have their origin at row `n // 2`. Of an even number of rows another
    one would lie there after the reversal: they move up by one, and the lowest row is repeated.
    """
    turned: NDArray[Any] = np.ascontiguousarray(frame[::-1])
    if series.state in ("aligned", "differenced") and len(turned) % 2 == 0:
        turned = np.concatenate([turned[:1], turned[:-1]])
    return turned


def _matter_negative(frame: NDArray[Any]) -> NDArray[Any]:
    return np.conj(frame) if np.iscomplexobj(frame) else -frame


def _checked(frame: NDArray[Any], series: Series, path: Path, index: int) -> NDArray[Any]:
    """Frame whose values can be used: a border that was not measured is zero, not NaN."""
    name = f"frame {index} of series '{series.name}'"
    remedy = f"exclude: [{index}] leaves it out"
    finite = np.isfinite(frame)
    if _swapped(frame, finite):
        message = (
            f"{name} holds numbers such as {_example(frame)}: its bytes are in the wrong order"
        )
        raise InputError(message, path=path)
    if not finite.all():
        bad = not_finite_inside(frame, series)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            message = (
                f"{name} holds {np.count_nonzero(bad)} non-finite values, the first at row {row}, "
                f"column {column}"
            )
            raise InputError(f"{message}; {remedy}", path=path)
        frame = np.where(finite, frame, frame.dtype.type(0))
    # Phase and differences may well be zero; a transmission that is, was never reconstructed.
    if series.state == "raw" and not frame.any():
        raise InputError(f"{name} is zero everywhere; {remedy}", path=path)
    return frame


def _swapped(frame: NDArray[Any], finite: NDArray[np.bool_]) -> bool:
    """Whether a tenth of the numbers are of no sane size; infinite ones count if others do too."""
    wild = _wild(frame) & finite
    used = np.count_nonzero(frame)
    few = 0.01 * used
    count = np.count_nonzero(wild)
    return bool(count > 0 and count >= few and count + finite.size - finite.sum() > 0.1 * used)


# Swapped bytes make numbers that overflow when squared, and signalling NaN.
@np.errstate(over="ignore", invalid="ignore")
def _wild(frame: NDArray[Any]) -> NDArray[np.bool_]:
    size = np.abs(frame)
    wild: NDArray[np.bool_] = ((size < _SANE[0]) & (frame != 0)) | (size > _SANE[1])
    return wild


def _example(frame: NDArray[Any]) -> str:
    return f"{np.abs(np.complex128(frame[_wild(frame)].flat[0])):.2g}"


def not_finite_inside(frame: NDArray[Any], series: Series) -> NDArray[np.bool_]:
    """Values (ny, nx) that are not finite and no border of a reconstruction.

    The border of complex frames may be NaN: what reaches the edge of the frame, by way of zeros if
    need be, was not scanned. Real frames have no value that would say so.
    """
    bad: NDArray[np.bool_] = ~np.isfinite(frame)
    if not series.frames_complex or bad.all() or not bad.any():
        return bad
    labels, _ = ndimage.label(bad | (frame == 0), np.ones((3, 3), np.bool_))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return bad & ~np.isin(labels, np.unique(edge[edge > 0]))


def load_stack(series: Series, folder: Path) -> NDArray[np.float32]:
    """Whole stack of a series whose state is `phase`, `aligned` or `differenced`.

    Returns
    -------
    (n, ny, nx) float32.

    Raises
    ------
    InputError : as for `read_series`.
    """
    info = inspect_series(series, folder)
    stack = np.empty((kept_indices(series, info.n_frames).size, *info.shape), np.float32)
    for index, frame in enumerate(read_series(series, folder)):
        stack[index] = frame
    return stack


def load_rotations(series: Series, folder: Path) -> NDArray[np.float64] | None:
    """Rotation of each projection as the data bring it, sample to lab.

    Returns
    -------
    (n, 3, 3) float64: measured matrices of public XLDOT files, or from the Euler angles of
    RESIRE-V; None for series that have only angles and a nominal mounting.

    Raises
    ------
    InputError : matrices or angles that are missing or wrong.
    """
    if series.format == "xldot-public":
        reader = XldotPublicReader()
        paths = series_files(series, folder)
        rotations = np.concatenate([reader.rotations(path, series.dataset) for path in paths])
    elif series.format == "resire-v" and series.angles_file is not None:
        from pipeline.tomography.geometry import euler_rotations

        rotations = euler_rotations(resire_v.load_euler(folder / series.angles_file))
    else:
        return None
    kept: NDArray[np.float64] = rotations[kept_indices(series, len(rotations))]
    return kept
