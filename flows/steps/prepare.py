"""One series, from raw projections to phase or optical density: files in, files out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io.air import load_air
from pipeline.io.beamtime import kept_indices, series_angles
from pipeline.io.products import SeriesQuality
from pipeline.io.quality import save_quality
from pipeline.io.raw import (
    SeriesInfo,
    inspect_series,
    load_stack,
    read_series,
    sample_series,
)
from pipeline.io.stacks import (
    save_phase,
)
from pipeline.preprocess.crop import SAMPLES, Crop, common_crop, describe_crop
from pipeline.preprocess.optical_density import measure_image, prepare_optical_density
from pipeline.preprocess.phase import is_wrapped
from pipeline.preprocess.prepare import (
    air_note,
    integrate_images,
    prepare_series,
    residue_note,
    wrapped_note,
)
from pipeline.preprocess.quality import QUALITY, matter_note, score_measures
from pipeline.preprocess.resample import SAME_SCALE, fourier_resample
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import PhaseStack
from schemas.recipe import (
    PhaseSettings,
    ResampleSettings,
)
from schemas.series import Series

PREVIEWS = 3
"""Projections of each series that the report shows."""

_LOG = logging.getLogger(__name__)


def prepare(
    out: Path,
    series: Series,
    folder: Path,
    files: Sequence[Path],  # noqa: ARG001 - part of the step's key
    target_pixel_m: float,
    resample: ResampleSettings,
    phase: PhaseSettings,
    progress: ProgressCallback = silent,
) -> None:
    """Raw projections, or phase images, to a phase stack on the common pixel size.

    Writes `phase.h5`, `preview.npz` (a few projections as they were read) and `quality.npz`.
    Complex frames are cut to the part that all of them have measured.
    """
    info = inspect_series(series, folder)
    angles = series_angles(series, folder)
    if info.pixel_size_m is None:
        raise InputError(
            "pixel_size_m is required: the files do not say it", field=f"series '{series.name}'"
        )
    picked = preview_indices(len(angles))
    shown: dict[int, NDArray[np.float32]] = {}
    part = common_crop(sample_series(series, folder, SAMPLES)) if series.frames_complex else None
    if series.state == "raw" and series.absorbing:
        stack = prepare_optical_density(
            _watched(read_series(series, folder), picked, shown),
            angles,
            info.pixel_size_m,
            series.energy.known_ev,
            target_pixel_m,
            kind="amplitude" if series.quantity == "amplitude" else "intensity",
            crop=part,
            air=load_air(series, folder, info.shape),
            resample=resample,
            phase=phase,
            progress=progress,
            stage="optical density",
        )
    elif series.state == "raw":
        stack = prepare_series(
            _watched(read_series(series, folder), picked, shown),
            angles,
            info.pixel_size_m,
            series.energy.known_ev,
            target_pixel_m,
            crop=part,
            air=load_air(series, folder, info.shape),
            resample=resample,
            phase=phase,
            progress=progress,
            stage="phase",
        )
    else:
        data = load_stack(series, folder)
        shown = {index: data[index] for index in picked}
        stack = _given_phase(
            data, angles, info.pixel_size_m, target_pixel_m, series, resample, phase
        )
    save_phase(out / "phase.h5", stack)
    np.savez(
        out / "preview.npz",
        raw=np.stack([shown[index] for index in picked]),
        angles_deg=angles[picked],
        pixel_size_m=info.pixel_size_m,
    )
    quality = _quality(stack, series, info, part)
    for note in quality.notes:
        progress(Progress(f"prepare: {note}", len(angles), len(angles)))
    for word in (*quality.notes, quality.proposal and f"found outliers, {quality.proposal}?"):
        if word:
            _LOG.warning("series '%s': %s", series.name, word)
    save_quality(out / "quality.npz", quality)


def _quality(
    stack: PhaseStack, series: Series, info: SeriesInfo, part: Crop | None
) -> SeriesQuality:
    """What the measures that were taken on the way say about each projection and the series."""
    measures = np.stack([stack.diagnostics[name] for name in QUALITY], axis=1)
    unit = "" if series.absorbing else "rad"
    scored = score_measures(measures, stack.angles_deg, unit=unit)
    notes = []
    if part is not None:
        notes.append(describe_crop(part, info.shape))
    if not series.absorbing:
        notes.append(matter_note(stack.diagnostics["matter"], stack.diagnostics["noise"]))
        notes.append(residue_note(stack.diagnostics))
        notes.append(wrapped_note(stack.diagnostics))
        notes.append(air_note(stack.diagnostics))
    return SeriesQuality(
        angles_deg=stack.angles_deg,
        indices=kept_indices(series, info.n_frames).astype(np.int64),
        measures=measures,
        scores=scored.scores,
        outliers=scored.outliers,
        reasons=scored.reasons,
        excluded=tuple(sorted(set(series.exclude))),
        notes=tuple(note for note in notes if note),
    )


def preview_indices(n: int) -> list[int]:
    """Indices of the projections that the report shows."""
    return sorted({round(k * (n - 1) / PREVIEWS) for k in range(PREVIEWS)})


def _watched(
    frames: Iterable[NDArray[Any]], picked: Sequence[int], shown: dict[int, NDArray[np.float32]]
) -> Iterator[NDArray[Any]]:
    """Pass frames on, keeping what is to be shown: the phase of complex frames, or the values."""
    for index, frame in enumerate(frames):
        if index in picked:
            seen = np.angle(frame) if np.iscomplexobj(frame) else frame
            shown[index] = seen.astype(np.float32)
        yield frame


def _given_phase(
    data: NDArray[np.float32],
    angles_deg: NDArray[np.float64],
    pixel_m: float,
    target_m: float,
    series: Series,
    resample: ResampleSettings,
    phase: PhaseSettings,
) -> PhaseStack:
    integrated = phase.entry == "derivative" and not series.absorbing
    if integrated:
        data = integrate_images(data, phase)
    measured = np.array([measure_image(image) for image in data])
    found = dict(zip(QUALITY, measured.T.copy(), strict=True))
    found["matter"] = data.mean(axis=(1, 2), dtype=np.float64)
    found["noise"] = found["quality_noise"]
    if not series.absorbing:
        found["wrapped"] = np.array([is_wrapped(image) for image in data], np.float64)
    if abs(target_m / pixel_m - 1.0) >= SAME_SCALE:
        if not resample.enabled:
            raise InputError(
                f"series '{series.name}': pixel size {pixel_m:g} m differs from the common "
                f"{target_m:g} m, and resampling is off",
                field="resample.enabled",
            )
        data = fourier_resample(data, pixel_m, target_m)
    return PhaseStack(data, angles_deg, target_m, series.energy.known_ev, 0.0, found)
