"""Data laid out by others: a `beamtime.yaml` that points to them where they are.

Nothing is copied but what is small and derived (support, known truth). What the files do not say is
told in the notes that each importer returns.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.constants import density_per_radian
from pipeline.errors import InputError
from pipeline.io import hdf5, resire_v, xldot_public
from pipeline.io.beamtime import new_folder, save_beamtime
from schemas.beamtime import Beamtime, Material, Sample, SupportFile
from schemas.energy import Energy
from schemas.polarisation import Polarisation
from schemas.series import Series
from schemas.tilt import Tilt

RESIRE_V_SUPPORT_ABOVE = 3.0
"""The published support of the RESIRE-V simulation is where its model density exceeds this."""

XLDOT_ENERGY_EV = 5468.0
XLDOT_OFF_RESONANCE_EV = 5400.0
XLDOT_PIXEL_SIZE_M = 30.91e-9
XLDOT_DEGREE = 0.64
"""Published settings of XLDOT (doi 10.1038/s41586-024-08233-y), which its files do not hold."""

_MODEL = ("m_xn", "m_yn", "m_zn", "model")


@dataclass(frozen=True)
class _ResireVFiles:
    projections: Path
    angles: Path
    model: Path | None


def import_resire_v(
    paths: Sequence[Path],
    out: Path,
    *,
    energy_ev: float | None = None,
    pixel_size_m: float | None = None,
) -> tuple[Path, list[str]]:
    """Write a beamtime for the published RESIRE-V simulation, or data laid out like it.

    Parameters
    ----------
    paths : the `.mat` files (projections, angles and, if there is one, the model), or the folder
        that holds them.
    out : folder to make.
    energy_ev : photon energy [eV], if it is known; the files do not say it.
    pixel_size_m : pixel size [m], if it is known; the files do not say it.

    Returns
    -------
    path : of `beamtime.yaml`: one `differenced` circular series.
    notes : what the files do not say, one sentence each.

    Raises
    ------
    InputError : projections or angles are missing, given twice, or do not match.

    Notes
    -----
    With a model, `support.h5` (`support`, `(z, y, x)` uint8, where the model's density exceeds 3)
    and `truth.h5` are written. The latter has the attribute `kind` = "magnetisation" and the
    datasets `magnetisation/vector` (3, z, y, x) float32 and `magnetisation/support` (z, y, x)
    uint8.
    """
    found = _sort_resire_v(_expand(paths, "*.mat"))
    notes = []
    if energy_ev is None:
        notes.append("The photon energy is not in the files; magnetisation does not need it.")
    if pixel_size_m is None:
        notes.append("The pixel size is not in the files; lengths are in voxels.")
    notes.append(
        "Rows are taken to run upwards (rows: up), as in the published set; no file says it."
    )
    if found.model is None:
        notes.append("No model file: no support and no truth to score against.")
    series = Series(
        name="circular",
        state="differenced",
        format="resire-v",
        files=[glob.escape(str(found.projections))],
        angles_file=str(found.angles),
        tilt=Tilt(name="euler"),
        polarisation=Polarisation(kind="circular", helicity=1),
        energy=Energy(energy_ev=energy_ev),
        pixel_size_m=pixel_size_m,
        contrast="circular",
    )
    beamtime = Beamtime(
        sample=Sample(name=found.projections.stem, description="Imported RESIRE-V data"),
        series=[series],
        products=["magnetisation"],
        support=SupportFile(file="support.h5") if found.model is not None else None,
    )
    with new_folder(out) as folder:
        if found.model is not None:
            _write_model(found.model, folder)
        save_beamtime(folder / "beamtime.yaml", beamtime)
    return out.absolute() / "beamtime.yaml", notes


def _expand(paths: Sequence[Path], pattern: str) -> list[Path]:
    """Files as given, folders replaced by what they hold; all absolute."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files.extend(sorted(path.resolve().glob(pattern)))
        elif path.is_file():
            files.append(path.resolve())
        else:
            raise InputError("file or folder does not exist", path=path)
    if not files:
        where = ", ".join(str(path) for path in paths) or "nothing given"
        raise InputError(f"expected {pattern} files, found none", path=where)
    return files


def _sort_resire_v(files: list[Path]) -> _ResireVFiles:
    """Tell projections, angles and model by the shapes of their arrays."""
    projections, angles, models = [], [], []
    for path in files:
        shapes = resire_v.list_arrays(path)
        if all(name in shapes for name in _MODEL):
            models.append(path)
        elif [len(shape) for shape in shapes.values()] == [3]:
            projections.append(path)
        elif any(len(shape) == 2 and shape[1] == 3 for shape in shapes.values()):
            angles.append(path)
    for name, matches, wanted in (
        ("projections (one array x, y, n)", projections, 1),
        ("Euler angles (one array n, 3)", angles, 1),
        ("a model (m_xn, m_yn, m_zn, model)", models, len(models[:1])),
    ):
        if len(matches) != wanted:
            listing = ", ".join(path.name for path in matches) or "none"
            message = f"expected one file with {name}, found {listing}"
            raise InputError(message, path=files[0].parent)
    n_angles = len(resire_v.load_euler(angles[0]))
    n_frames = resire_v.ResireVReader().inspect(projections[0]).n_frames
    if n_angles != n_frames:
        message = f"expected {n_frames} angles, one for each projection, found {n_angles}"
        raise InputError(message, path=angles[0])
    return _ResireVFiles(projections[0], angles[0], models[0] if models else None)


def _write_model(path: Path, folder: Path) -> None:
    """Known support and known magnetisation, MATLAB's (x, y, z) turned into (z, y, x)."""
    x, y, z, density = (resire_v.load_array(path, name).T for name in _MODEL)
    support = (density > RESIRE_V_SUPPORT_ABOVE).astype(np.uint8)
    with hdf5.write_hdf5(folder / "support.h5") as file:
        file.create_dataset("support", data=support, compression="gzip")
    vector: NDArray[np.float32] = np.stack([x, y, z]).astype(np.float32)
    with hdf5.write_hdf5(folder / "truth.h5") as file:
        file.attrs["kind"] = "magnetisation"
        file.create_dataset("magnetisation/vector", data=vector, compression="gzip")
        file.create_dataset("magnetisation/support", data=support, compression="gzip")


def import_xldot_public(
    paths: Sequence[Path],
    out: Path,
    *,
    energy_ev: float = XLDOT_ENERGY_EV,
    off_resonance_ev: float = XLDOT_OFF_RESONANCE_EV,
    pixel_size_m: float = XLDOT_PIXEL_SIZE_M,
) -> tuple[Path, list[str]]:
    """Write a beamtime for the public XLDOT files.

    Parameters
    ----------
    paths : `aligned_proj_tilt1.mat` ... and `off_resonance_projections.mat`, or their folder.
    out : folder to make.
    energy_ev, off_resonance_ev : photon energies [eV]; the published ones by default.
    pixel_size_m : of all series [m]; the published one by default.

    Returns
    -------
    path : of `beamtime.yaml`: an LH and an LV series for each tilt, one scalar off resonance.
    notes : what the files do not say, one sentence each.

    Raises
    ------
    InputError : no file holds a stack of that layout, or LH and LV do not come together.
    """
    series: list[Series] = []
    notes = [
        f"Energies {energy_ev:g} and {off_resonance_ev:g} eV, pixel size {pixel_size_m * 1e9:g} nm "
        f"and degree of polarisation {XLDOT_DEGREE:g} are the published ones; the files hold none.",
        "Rotations come from the matrices in the files; nominal tilts are left at zero.",
        "Rows are taken to run upwards (rows: up), as the matrices in the files expect.",
    ]
    for path in _expand(paths, "*.mat"):
        stacks = xldot_public.list_stacks(path)
        if not stacks:
            notes.append(f"{path.name} holds no stack data_xx_shift and is left out.")
        tilt = _tilt_name(path, len(series))
        for dataset, kind in stacks:
            ev = off_resonance_ev if kind == "ch" else energy_ev
            series.append(_xldot_series(path, dataset, kind, tilt, ev, pixel_size_m))
        if any(kind == "ch" for _, kind in stacks):
            notes.extend(_density_note(path, off_resonance_ev, pixel_size_m))
    if not series:
        raise InputError("no file holds a stack data_xx_shift", path=paths[0])
    series.sort(key=lambda item: not item.energy.resonant)
    beamtime = _validated(series, paths[0])
    with new_folder(out) as folder:
        save_beamtime(folder / "beamtime.yaml", beamtime)
    return out.absolute() / "beamtime.yaml", notes


def _validated(series: list[Series], path: Path) -> Beamtime:
    for item in series:
        partner = {"LH": "LV", "LV": "LH"}.get(item.polarisation.label)
        labels = [s.polarisation.label for s in series if s.tilt.name == item.tilt.name]
        if partner is not None and labels.count(partner) != 1:
            message = f"expected one {partner} stack beside it, found {labels.count(partner)}"
            raise InputError(message, path=item.files[0], field=item.dataset)
    sample = Sample(
        name=path.stem,
        description="Imported public XLDOT projections (doi 10.1038/s41586-024-08233-y)",
        materials=[Material(name="V2O5", electron_density_min=0.74, electron_density_max=0.90)],
    )
    resonant = any(item.energy.resonant for item in series)
    return Beamtime(
        sample=sample,
        series=series,
        reference_tilt=series[0].tilt.name if resonant else None,
    )


def _tilt_name(path: Path, number: int) -> str:
    match = re.search(r"tilt[_-]?(\d+)", path.stem)
    return f"tilt{match[1]}" if match else f"mounting{number + 1}"


def _xldot_series(
    path: Path, dataset: str, kind: str, tilt: str, energy_ev: float, pixel_size_m: float
) -> Series:
    angle = {"lh": 0.0, "lv": 90.0}.get(kind)
    if angle is None and kind != "ch":
        raise InputError(f"expected lh, lv or ch, found '{kind}'", path=path, field=dataset)
    polarisation = (
        Polarisation()
        if angle is None
        else Polarisation(kind="linear", angle_deg=angle, degree=XLDOT_DEGREE)
    )
    return Series(
        name="offres" if angle is None else f"{tilt}_{kind}",
        state="aligned",
        format="xldot-public",
        files=[glob.escape(str(path))],
        dataset=dataset,
        tilt=Tilt(name=tilt),
        polarisation=polarisation,
        energy=Energy(energy_ev=energy_ev, resonant=angle is not None),
        pixel_size_m=pixel_size_m,
    )


def _density_note(path: Path, energy_ev: float, pixel_size_m: float) -> list[str]:
    """Compare the file's own conversion to electron density with ours, where it has one."""
    with hdf5.open_hdf5(path) as file:
        stored = hdf5.read_scalars(file, ("factor_edensity",), path)
    if stored is None or stored.size != 1:
        return []
    ours = density_per_radian(energy_ev, pixel_size_m)
    return [
        f"The file converts phase to electron density with factor {stored[0]:.5g}; energy and "
        f"pixel size give {ours:.5g} e/A^3 per radian."
    ]
