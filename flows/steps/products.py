"""The last stages of a run: density, grains, uncertainty, resolution, and the files of the result.

Plain functions, files in and files out, like `stages` and `directions`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.steps.analyses import read_density, read_grains, read_products
from flows.steps.files import crop, load_all, read_json, write_json
from flows.steps.prepare import PREVIEWS
from pipeline.analyse.density import (
    air_noise,
    electron_density,
    segment_materials,
    shell_mask,
)
from pipeline.analyse.density_budget import density_budget
from pipeline.analyse.density_components import fit_components
from pipeline.analyse.grains import segment_grains
from pipeline.analyse.resolution import (
    fourier_shell_correlation,
    interior_mask,
    soft_mask,
    tensor_curves,
)
from pipeline.analyse.summary import summarise
from pipeline.analyse.uncertainty import (
    half_set_noise,
    magnitude_error,
    orientation_uncertainty,
    understatement,
)
from pipeline.constants import density_per_radian
from pipeline.io.product_files import FILES as PRODUCT_FILES
from pipeline.io.products import (
    AngleRefinement,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResolutionCurve,
    ResultData,
    ScalarMap,
    SeriesAlignment,
    SeriesPreview,
    SeriesQuality,
)
from pipeline.io.quality import read_quality
from pipeline.io.results import write_result, write_summary
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.scalar import reconstruct_scalar
from schemas.beamtime import Material
from schemas.provenance import Provenance
from schemas.recipe import DensitySettings, GrainSettings, ScalarSettings

Shape3 = tuple[int, int, int]


def density(
    out: Path,
    stacks: Sequence[Path],
    volume: Path,
    full_support: Path,
    support: Path,
    energy_ev: float,
    materials: Sequence[Material],
    settings: DensitySettings,
    scalar: ScalarSettings,
    progress: ProgressCallback = silent,
) -> None:
    """Electron density and materials from the off-resonance series.

    Writes `density.npz` (`electron_density`, `materials`, `names`, `windows`, `keep`, `noise`, and
    `budget`: scatter, halves, air and edge of each material's uncertainty), cut to the sample, and
    `halves.npz` (`first`, `second`) for the resolution.

    Parameters
    ----------
    out : folder to write into.
    stacks : scalar stacks off resonance, matter positive.
    volume : scalar volume of `solve_scalar`, which `density.method: resire` uses.
    full_support, support : of `make_support`.
    energy_ev : of the stacks.
    materials : to tell apart.
    settings, scalar : method, shell, window of the filter.
    progress : told by the reconstruction.
    """
    inside, small = np.load(full_support), np.load(support)
    back_project = scalar.model_copy(update={"method": "fbp"})

    def tomogram(half: int | None) -> NDArray[np.float32]:
        stack = load_all(stacks, half)
        if settings.method == "resire" and half is None:
            return np.asarray(np.load(volume))
        found = reconstruct_scalar(
            stack, None, back_project, volume_shape=inside.shape, progress=progress
        )
        return found.volume

    pixel = load_all(stacks).pixel_size_m
    whole = electron_density(-tomogram(None), energy_ev, pixel)
    noise = air_noise(whole, inside)
    keep = shell_mask(inside, settings.shell_m, pixel)
    windows = None
    if settings.segmentation == "components" and not materials:
        windows = fit_components(whole, keep, noise).windows
    found = segment_materials(whole, materials, support=inside, noise=noise, windows=windows)
    shape = small.shape
    scale = np.float32(density_per_radian(energy_ev, pixel))
    halves = [tomogram(half) * scale for half in (0, 1)]
    budget = density_budget(whole, found, inside, keep=keep, halves=halves)
    np.savez(
        out / "density.npz",
        electron_density=crop(whole, shape),
        materials=crop(found.labels, shape),
        names=np.array(found.names, dtype=np.str_),
        windows=found.windows,
        keep=crop(keep, shape),
        noise=noise,
        budget=np.array([item.terms for item in budget]).reshape(-1, 4),
    )
    np.savez(out / "halves.npz", first=crop(halves[0], shape), second=crop(halves[1], shape))


def dichroic_mask(
    support: NDArray[np.bool_],
    density_file: Path | None,
    magnitude: NDArray[np.float32],
    materials: Sequence[Material],
) -> NDArray[np.bool_]:
    """Voxels that carry an orientation: of a dichroic material, outside the damaged shell.

    Without a density they are those of the support with at least a third of its typical contrast.
    """
    if density_file is None:
        strong = magnitude > np.median(magnitude[support]) / 3.0
        return np.asarray(support & strong)
    with np.load(density_file) as found:
        labels, keep = found["materials"], found["keep"]
    dichroic = [index + 1 for index, item in enumerate(materials) if item.dichroic]
    carries = np.isin(labels, dichroic) if materials else labels > 0
    return np.asarray(carries & keep & support)


def assess_orientation(
    out: Path,
    fields: Path,
    halves: Sequence[Path],
    twin: Path,
    support: Path,
    density_file: Path | None,
    materials: Sequence[Material],
    *,
    free_magnitude: bool = True,
) -> None:
    """Uncertainty of axis and magnitude from a twin of the data, and noise from two halves.

    A magnitude that is not free, but tied to the density, says nothing of what the twin lacks.

    Writes `assessment.npz`: `uncertainty_deg`, `magnitude_error`, `understatement` of the twin that
    both make up for, `mask` (voxels that carry an orientation), `noise` of the tensor, and `first`,
    `second`: the tensors of the halves.
    """
    inside = np.load(support)
    with np.load(fields) as whole:
        magnitude = whole["magnitude"]
    mask = dichroic_mask(inside, density_file, magnitude, materials)
    tensors = []
    for path in halves:
        with np.load(path) as half:
            tensors.append(half["tensor"])
    with np.load(twin) as known:
        made_of, twinned = known["made_of_magnitude"], known["magnitude"]
        factor = understatement(magnitude, made_of, twinned, mask) if free_magnitude else 1.0
        uncertainty = orientation_uncertainty(known["made_of"], known["axis"], mask, factor=factor)
        error = magnitude_error(made_of, twinned, mask, factor=factor)
    np.savez(
        out / "assessment.npz",
        uncertainty_deg=uncertainty,
        magnitude_error=error,
        understatement=factor,
        mask=mask,
        noise=half_set_noise(tensors[0][:, mask], tensors[1][:, mask]),
        first=tensors[0],
        second=tensors[1],
    )


def grains(
    out: Path,
    fields: Path,
    assessment: Path,
    density_file: Path | None,
    pixel_size_m: float,
    settings: GrainSettings,
) -> None:
    """Grains of the orientation map. Writes `grains.npz` and its columns as `table_<name>`."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis, mask = whole["axis"], assessed["mask"]
    electrons = None
    if density_file is not None:
        with np.load(density_file) as found:
            electrons = found["electron_density"]
    made = segment_grains(
        axis, mask, settings, pixel_size_m=pixel_size_m, electron_density=electrons
    )
    arrays = {f"table_{name}": values for name, values in made.table.items()}
    np.savez(
        out / "grains.npz",
        label=made.label,
        boundaries=made.boundaries,
        pixel_size_m=made.pixel_size_m,
        offset_m=np.array(made.offset_m),
        columns=np.array(list(made.table), dtype=np.str_),
        **arrays,  # type: ignore[arg-type]
    )


# Result ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Where the parts of a result lie; those that were not made are None or empty.

    Attributes
    ----------
    sample : name of the sample.
    stacks : any stack of the run, for the pixel size.
    support : `support.npy`.
    orientation, assessment, grains, vector, density, scalar : folders of those steps.
    halves : folders of the two half reconstructions of the vector field.
    prepared : series -> folder of `prepare`.
    alignments : group -> (folder of `align`, names of its series).
    assembled : group -> folder of `assemble`.
    motions : mounting -> folder of `register`, None for the reference.
    refined : group or differenced series -> folder of its refined rotations.
    analyses : product -> folder of its analysis.
    """

    sample: str
    stacks: Sequence[Path]
    support: Path
    materials: Sequence[Material] = ()
    orientation: Path | None = None
    assessment: Path | None = None
    grains: Path | None = None
    vector: Path | None = None
    density: Path | None = None
    scalar: Path | None = None
    scalar_unit: str = "rad/voxel"
    prepared: Mapping[str, Path] = field(default_factory=dict)
    alignments: Mapping[str, Path] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    assembled: Mapping[str, Path] = field(default_factory=dict)
    motions: Mapping[str, Path | None] = field(default_factory=dict)
    refined: Mapping[str, Path] = field(default_factory=dict)
    analyses: Mapping[str, Path] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """Every file that the result is made of, in order."""
        folders = [self.orientation, self.assessment, self.grains, self.vector]
        folders += [self.density, self.scalar]
        folders += [*self.prepared.values(), *self.alignments.values(), *self.assembled.values()]
        folders += [*self.motions.values(), *self.refined.values(), *self.analyses.values()]
        found = [self.support]
        for folder in folders:
            if folder is not None:
                found += [path for path in sorted(folder.iterdir()) if path.name in RESULT_FILES]
        return found


STACKS = "stacks.json"
"""Stacks that the reconstructions were made of, relative to the work folder."""

RESULT_FILES = (
    "fields.npz",
    "assessment.npz",
    "grains.npz",
    "vector.npy",
    "density.npz",
    "halves.npz",
    "volume.npy",
    "residuals.json",
    "preview.npz",
    "alignment.npz",
    "motion.npz",
    "angles.npz",
    "quality.npz",
    *PRODUCT_FILES,
)


def make_result(
    out: Path,
    parts: Parts,
    files: Sequence[Path],  # noqa: ARG001 - part of the step's key
    settings: Mapping[str, str],  # noqa: ARG001 - part of the step's key
    provenance: Provenance,
    doubts: Sequence[str] = (),
) -> None:
    """Gather the products. Writes `result.nxs` and `summary.json`, and `stacks.json`: where the
    projections lie that were fitted, for studies of the finished run."""
    work = out.parent
    write_json(out / STACKS, [os.path.relpath(path, work) for path in dict.fromkeys(parts.stacks)])
    data = replace(gather(parts, provenance), doubts=tuple(doubts))
    write_result(out / "result.nxs", data)
    write_summary(out / "summary.json", data.figures)


def gather(parts: Parts, provenance: Provenance) -> ResultData:
    """Read the parts of a result into one object, with its figures to quote."""
    support = np.load(parts.support)
    pixel = load_all(parts.stacks[:1]).pixel_size_m
    dense = None if parts.density is None else read_density(parts.density / "density.npz")
    orientation, halves = _orientation_map(parts, support)
    resolution = _resolution(parts, support, halves, pixel)
    grain_map = None if parts.grains is None else read_grains(parts.grains / "grains.npz")
    data = ResultData(
        sample=parts.sample,
        pixel_size_m=pixel,
        orientation=orientation,
        magnetisation=_magnetisation_map(parts, support),
        scalar=_scalar_map(parts, support),
        density=dense,
        grains=grain_map,
        resolution=resolution,
        alignment=_alignments(parts),
        quality=_quality(parts),
        mountings=_mountings(parts),
        angles=_angles(parts),
        residuals=_residuals(parts),
        previews=_previews(parts),
        products=read_products(parts.analyses),
        provenance=provenance,
    )
    return replace(data, figures=summarise(data))


def _orientation_map(
    parts: Parts, support: NDArray[np.bool_]
) -> tuple[OrientationMap | None, tuple[NDArray[np.float32], NDArray[np.float32]] | None]:
    if parts.orientation is None or parts.assessment is None:
        return None, None
    with (
        np.load(parts.orientation / "fields.npz") as fields,
        np.load(parts.assessment / "assessment.npz") as assessed,
    ):
        made = OrientationMap(
            tensor=fields["tensor"],
            axis=fields["axis"],
            magnitude=fields["magnitude"],
            uniaxiality=fields["uniaxiality"],
            support=support,
            uncertainty_deg=assessed["uncertainty_deg"],
            magnitude_error=assessed["magnitude_error"],
        )
        return made, (assessed["first"], assessed["second"])


def _magnetisation_map(parts: Parts, support: NDArray[np.bool_]) -> MagnetisationMap | None:
    if parts.vector is None:
        return None
    return MagnetisationMap(np.load(parts.vector / "vector.npy"), support)


def _scalar_map(parts: Parts, support: NDArray[np.bool_]) -> ScalarMap | None:
    if parts.scalar is None:
        return None
    volume = crop(np.load(parts.scalar / "volume.npy"), support.shape)
    return ScalarMap(volume, support, parts.scalar_unit)


def _resolution(
    parts: Parts,
    support: NDArray[np.bool_],
    tensors: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    pixel: float,
) -> dict[str, ResolutionCurve]:
    """Curves of the density, of the components of the tensor that are axes, and of all six."""
    curves = {}
    if parts.density is not None:
        with np.load(parts.density / "halves.npz") as halves:
            curves["density"] = fourier_shell_correlation(
                halves["first"], halves["second"], pixel, soft_mask(support)
            )
    if tensors is not None:
        found = tensor_curves(*tensors, pixel, interior_mask(support))
        curves |= {f"orientation_{name}": curve for name, curve in found.items()}
    return curves


def _alignments(parts: Parts) -> dict[str, SeriesAlignment]:
    found = {}
    for group, folder in parts.alignments.items():
        with np.load(folder / "alignment.npz") as arrays:
            for index, name in enumerate(parts.members[group]):
                joint, view = f"joint_{index}", f"view_{index}"
                # Not every view has a frame of every polarisation.
                seen = arrays[view] if view in arrays else slice(None)
                found[name] = SeriesAlignment(
                    arrays[f"shifts_{index}"],
                    arrays["angles_deg"][seen],
                    arrays["updates"][:, seen],
                    arrays[joint].sum(axis=0) if joint in arrays else np.zeros((0, 2)),
                    arrays["left_out"][seen] if arrays["left_out"].size else arrays["left_out"],
                    float(arrays["axis_tilt_deg"]),
                    float(arrays["axis_pitch_deg"]),
                    float(arrays["axis_pitch_error_deg"]),
                    bool(arrays["converged"]),
                )
    return found


def _quality(parts: Parts) -> dict[str, SeriesQuality]:
    return {name: read_quality(folder / "quality.npz") for name, folder in parts.prepared.items()}


def _mountings(parts: Parts) -> dict[str, Mounting]:
    found = {}
    for name, folder in parts.motions.items():
        if folder is None:
            found[name] = Mounting(np.eye(3), np.zeros(3), 1.0)
            continue
        with np.load(folder / "motion.npz") as motion:
            found[name] = Mounting(
                motion["rotation"],
                motion["shift"],
                float(motion["correlation"]),
                float(motion["turned_deg"]),
            )
    return found


def _angles(parts: Parts) -> dict[str, AngleRefinement]:
    found = {}
    for name, folder in parts.refined.items():
        with np.load(folder / "angles.npz") as arrays:
            found[name] = AngleRefinement(
                arrays["given"], arrays["refined"], arrays["turns_deg"], arrays["errors_deg"]
            )
    return found


def _residuals(parts: Parts) -> dict[str, NDArray[np.float64]]:
    curves = {
        "orientation": parts.orientation,
        "magnetisation": parts.vector,
        "scalar": parts.scalar,
    }
    return {
        name: np.asarray(read_json(folder / "residuals.json"), dtype=np.float64)
        for name, folder in curves.items()
        if folder is not None
    }


def _previews(parts: Parts) -> dict[str, SeriesPreview]:
    found = {}
    for group, folder in parts.assembled.items():
        with np.load(folder / "preview.npz") as aligned:
            for index, name in enumerate(parts.members[group]):
                if name not in parts.prepared:
                    continue
                with np.load(parts.prepared[name] / "preview.npz") as raw:
                    found[name] = SeriesPreview(
                        raw=raw["raw"][:PREVIEWS],
                        aligned=aligned[f"aligned_{index}"],
                        angles_deg=raw["angles_deg"],
                        pixel_size_m=float(raw["pixel_size_m"]),
                    )
    return found


def make_report(out: Path, result: Path) -> None:
    """Report of a result. Writes `report.html`."""
    from pipeline.report.html import write_report

    write_report(out / "report.html", result)


def publish(file: Path, folder: Path) -> Path:
    """Put a finished file into the output folder, whole or not at all; linked where possible."""
    target = folder / file.name
    temporary = folder / f".{file.name}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copy2(file, temporary)
    temporary.replace(target)
    return target
