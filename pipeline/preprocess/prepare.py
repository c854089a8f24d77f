"""From the raw complex frames of one series to its phase stack, one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.preprocess.air import AirFit, fit_air
from pipeline.preprocess.crop import Crop
from pipeline.preprocess.phase import PhaseFrame, extract_phase
from pipeline.preprocess.quality import QUALITY, measure_frame
from pipeline.preprocess.resample import SAME_SCALE, fourier_resample
from pipeline.preprocess.series import prepare_frames, target_pixel
from pipeline.progress import ProgressCallback, silent
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
    "above",
    "below",
    "contrast",
    "integrated",
)

STRAY = 0.05
"""Part of a frame that may lie on the wrong side of the air: streaks and fringes of a good one."""

UNEVEN = 0.25
"""Part of the frame's contrast by which the air may differ from place to place."""

MANY = 0.25
"""Part of the projections that speaks for the series."""


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
    air: NDArray[np.bool_] | None = None,
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
    air : (ny, nx) bool, where air is in every frame before it is cropped, in place of what `phase`
        says.
    progress : told after every frame.
    stage : name under which progress is told.

    Returns
    -------
    Stack of the frames, or of the crop, on the target's pixels. Diagnostics, each (n_proj,):
    `ramp_y`,
    `ramp_x` [rad/pixel of the raw frame], `offset` [rad], `air_fraction`, `noise` [rad], `wrapped`
    (0 or 1), `residues` and `filled` (pixels) of the unwrapping, `matter` [rad], mean phase outside
    the air, `above` and `below` (parts of the frame that lie clearly off what was taken for air),
    `contrast` [rad], nearly the whole range of the phase,
    `integrated` (0 or 1) where the phase comes from its derivative; and `quality_<measure>` for
    each of `quality.MEASURES`, of the frame as it came.

    Raises
    ------
    InputError
        If frames and angles differ in number, frames differ in shape, a frame is not a usable
        complex image, or resampling is needed but switched off.
    """
    resample, phase = resample or ResampleSettings(), phase or PhaseSettings()
    target = target_pixel(pixel_size_m, target_pixel_m, resample)
    region = air if air is None or crop is None else air[crop]

    def one(frame: NDArray[Any]) -> tuple[NDArray[Any], dict[str, float]]:
        result, measured = _prepare_frame(frame, pixel_size_m, target, phase, region)
        return result.phase, _diagnostics(result) | dict(zip(QUALITY, measured, strict=True))

    data, found = prepare_frames(
        frames,
        len(angles_deg),
        one,
        (*DIAGNOSTICS, *QUALITY),
        crop=crop,
        progress=progress,
        stage=stage,
    )
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


def integrate_images(data: NDArray[np.float32], settings: PhaseSettings) -> NDArray[np.float32]:
    """Phase of phase images that came wrapped, from their derivative, air at zero.

    Parameters
    ----------
    data : (n, ny, nx) phase [rad], wrapped to any range.
    settings : where the air is; `entry` is taken to be `derivative`.
    """
    settings = settings.model_copy(update={"entry": "derivative"})
    return np.stack([extract_phase(np.exp(1j * image), settings).phase for image in data])


def wrapped_note(diagnostics: Mapping[str, NDArray[np.float64]]) -> str:
    """Warning that phase images came wrapped, as a sentence; empty where they did not.

    Parameters
    ----------
    diagnostics : of a stack of phase images; of one from `prepare_series` the note is empty.
    """
    if "integrated" in diagnostics or "wrapped" not in diagnostics:
        return ""
    wrapped = diagnostics["wrapped"] > 0
    if wrapped.mean() < MANY:
        return ""
    return (
        f"The phase jumps by more than half a turn between neighbouring pixels in "
        f"{np.count_nonzero(wrapped)} of {wrapped.size} images: they seem to be wrapped; "
        "phase.entry: derivative takes their phase from its derivative."
    )


def air_note(diagnostics: Mapping[str, NDArray[np.float64]]) -> str:
    """Warning that what was taken for air is none, as a sentence; empty where all is well.

    Air is even. Matter lowers the phase (or raises it, where the frames are conjugated), so that
    air lies at an end of it, and nothing on the other side.

    Parameters
    ----------
    diagnostics : of a stack from `prepare_series`; of another stack the note is empty.
    """
    if "above" not in diagnostics:
        return ""
    fraction = diagnostics["air_fraction"]
    if not fraction.any():
        return (
            "No air was to be used: level and slope of every projection are relative, and with "
            "them the densities."
        )
    amid = (diagnostics["above"] > STRAY) & (diagnostics["below"] > STRAY)
    uneven = diagnostics["quality_ramp"] > UNEVEN * diagnostics["contrast"]
    odd = amid | uneven
    if odd.mean() < MANY:
        return ""
    return (
        f"What was taken for air may be none in {np.count_nonzero(odd)} of {odd.size} projections: "
        f"it is uneven in {np.count_nonzero(uneven)}, and there is phase above and below it in "
        f"{np.count_nonzero(amid)}. Say where it is with `air` of the series, or phase.air: none "
        "if there is none."
    )


def _prepare_frame(
    frame: NDArray[Any],
    pixel_size_m: float,
    target_m: float,
    settings: PhaseSettings,
    region: NDArray[np.bool_] | None,
) -> tuple[PhaseFrame, tuple[float, ...]]:
    """Phase of one frame on the common pixel size, with the ramp in its raw pixels; its measures.

    One fit and one flat frame serve the phase and the measures alike.
    """
    fit = fit_air(frame, settings, region)
    flat = fit.flatten(frame)
    measured = measure_frame(frame, settings, fit, flat)
    if abs(target_m / pixel_size_m - 1.0) < SAME_SCALE:
        return extract_phase(frame, settings, fit, flat), measured
    # The air that was found once is flat and at zero on any grid.
    flat = fourier_resample(flat, pixel_size_m, target_m)
    lines = zip(fit.air.shape, flat.shape, strict=True)
    air = fit.air[np.ix_(*(_nearest(n, m, target_m / pixel_size_m) for n, m in lines))]
    noise = float(np.sqrt(np.mean(np.angle(flat[air]) ** 2))) if air.any() else fit.noise
    rest = extract_phase(flat, settings, AirFit(np.zeros(2), 0.0, air, noise), flat)
    return replace(rest, ramp=fit.ramp, offset=fit.offset), measured


def _nearest(n: int, m: int, ratio: float) -> NDArray[np.intp]:
    """Of n pixels the one nearest to each of m pixels of the resampled line, about the centre."""
    at = np.rint((np.arange(m) - m // 2) * ratio).astype(np.intp) + n // 2
    return np.clip(at, 0, n - 1)


def _diagnostics(result: PhaseFrame) -> dict[str, float]:
    bound = 5.0 * result.noise
    # Every third pixel is enough for parts of the frame.
    phase = result.phase[::3, ::3]
    return {
        "ramp_y": float(result.ramp[0]),
        "ramp_x": float(result.ramp[1]),
        "offset": result.offset,
        "air_fraction": float(result.air.mean()),
        "noise": result.noise,
        "wrapped": float(result.wrapped),
        "residues": float(result.residues),
        "filled": float(result.filled),
        "matter": result.matter,
        "above": float((phase > bound).mean()),
        "below": float((phase < -bound).mean()),
        "contrast": float(np.ptp(np.percentile(phase, (1.0, 99.0)))),
        "integrated": float(result.integrated),
    }
