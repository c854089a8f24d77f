"""From the raw complex frames of one series to its phase stack, one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.preprocess.crop import Crop
from pipeline.preprocess.phase import PhaseFrame, extract_phase, fit_air
from pipeline.preprocess.quality import QUALITY, measure_frame
from pipeline.preprocess.resample import SAME_SCALE, fourier_resample
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import PhaseStack
from schemas.recipe import PhaseSettings, ResampleSettings

DIAGNOSTICS = (
    "ramp_y",
    "ramp_x",
    "offset",
    "air_fraction",
    "noise",
    "wrapped",
    "residues",
    "filled",
    "matter",
    "integrated",
)


def prepare_series(
    frames: Iterable[NDArray[Any]],
    angles_deg: NDArray[np.float64],
    pixel_size_m: float,
    energy_ev: float,
    target_pixel_m: float | None = None,
    *,
    resample: ResampleSettings | None = None,
    phase: PhaseSettings | None = None,
    crop: Crop | None = None,
    progress: ProgressCallback = silent,
    stage: str = "preprocess",
) -> PhaseStack:
    """Resample every frame to the common pixel size and take its phase, air at zero.

    The ramp is removed before the resampling, which it would otherwise push towards Nyquist.

    Parameters
    ----------
    frames : complex (ny, nx) transmissions in the order of the angles, all of one shape.
    angles_deg : (n_proj,) rotation about lab y [degree].
    pixel_size_m : pixel size of the frames [m].
    energy_ev : photon energy [eV].
    target_pixel_m : common pixel size [m]; that of the recipe, else the frames' own, when absent.
    resample, phase : settings of the two steps.
    crop : part of every frame to use, as from `common_crop`; all of it when absent.
    progress : told after every frame.
    stage : name under which progress is told.

    Returns
    -------
    Stack of the frames' own shape, or that of the crop. Diagnostics, each (n_proj,): `ramp_y`,
    `ramp_x` [rad/pixel of the raw frame], `offset` [rad], `air_fraction`, `noise` [rad], `wrapped`
    (0 or 1), `residues` and `filled` (pixels) of the unwrapping, `matter` [rad], mean phase outside
    the air, `integrated` (0 or 1) where the phase comes from its derivative; and
    `quality_<measure>` for each of `quality.MEASURES`, of the frame as it came.

    Raises
    ------
    InputError
        If frames and angles differ in number, frames differ in shape, a frame is not a usable
        complex image, or resampling is needed but switched off.
    """
    resample, phase = resample or ResampleSettings(), phase or PhaseSettings()
    target = target_pixel_m or resample.pixel_size_m or pixel_size_m
    if not resample.enabled and abs(target / pixel_size_m - 1.0) >= SAME_SCALE:
        raise InputError(
            f"pixel size {pixel_size_m:g} m differs from the common {target:g} m, and resampling "
            "is off",
            field="resample.enabled",
        )
    n = len(angles_deg)
    data: NDArray[np.float32] | None = None
    found = {name: np.zeros(n) for name in (*DIAGNOSTICS, *QUALITY)}
    count = 0
    for count, raw in enumerate(frames, start=1):
        if count > n:
            raise InputError(f"expected {n} frames, one for each angle, found more")
        frame = raw if crop is None else raw[crop]
        if data is None:
            data = np.empty((n, *frame.shape), np.float32)
        if frame.shape != data.shape[1:]:
            raise InputError(
                f"frame {count - 1}: expected shape {data.shape[1:]} as in frame 0, "
                f"found {frame.shape}"
            )
        try:
            result, measured = _prepare_frame(frame, pixel_size_m, target, phase)
        except InputError as error:
            raise InputError(f"frame {count - 1}: {error.message}") from error
        data[count - 1] = result.phase
        _record(found, count - 1, result)
        for name, value in zip(QUALITY, measured, strict=True):
            found[name][count - 1] = value
        progress(Progress(stage, count, n))
    if data is None or count < n:
        raise InputError(f"expected {n} frames, one for each angle, found {count}")
    noise = float(np.sqrt(np.mean(found["noise"] ** 2)))
    angles = np.asarray(angles_deg, np.float64)
    return PhaseStack(data, angles, target, energy_ev, noise, found)


def residue_note(diagnostics: Mapping[str, NDArray[np.float64]]) -> str:
    """What was done about residues, as a sentence; empty where nothing was.

    Parameters
    ----------
    diagnostics : of a stack from `prepare_series`; of another stack the note is empty.
    """
    if "integrated" not in diagnostics:
        return ""
    residues = diagnostics["residues"]
    integrated = diagnostics["integrated"] > 0
    unwrapped = (residues > 0) & ~integrated
    said = []
    if integrated.any():
        said.append(
            f"the phase of {np.count_nonzero(integrated)} of {residues.size} projections is the "
            f"integral of its derivative (residues: {residues[integrated].sum():.0f}, at most "
            f"{residues[integrated].max():.0f} in one)"
        )
    if unwrapped.any():
        said.append(
            f"{np.count_nonzero(unwrapped)} projections with residues were unwrapped around them"
        )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _prepare_frame(
    frame: NDArray[Any], pixel_size_m: float, target_m: float, settings: PhaseSettings
) -> tuple[PhaseFrame, tuple[float, ...]]:
    """Phase of one frame on the common pixel size, with the ramp in its raw pixels; its measures.

    One fit and one flat frame serve the phase and the measures alike.
    """
    fit = fit_air(frame, settings)
    flat = fit.flatten(frame)
    measured = measure_frame(frame, settings, fit, flat)
    if abs(target_m / pixel_size_m - 1.0) < SAME_SCALE:
        return extract_phase(frame, settings, fit, flat), measured
    rest = extract_phase(fourier_resample(flat, pixel_size_m, target_m), settings)
    ramp = fit.ramp + rest.ramp * (pixel_size_m / target_m)
    return replace(rest, ramp=ramp, offset=fit.offset + rest.offset), measured


def _record(found: dict[str, NDArray[np.float64]], index: int, result: PhaseFrame) -> None:
    found["ramp_y"][index], found["ramp_x"][index] = result.ramp
    found["offset"][index] = result.offset
    found["air_fraction"][index] = result.air.mean()
    found["noise"][index] = result.noise
    found["wrapped"][index] = result.wrapped
    found["residues"][index] = result.residues
    found["filled"][index] = result.filled
    found["matter"][index] = result.matter
    found["integrated"][index] = result.integrated
