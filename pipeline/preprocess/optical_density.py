"""Optical density `-log(I / I0)` of a projection, with the air at zero.

`I0` is measured on the air of every frame by itself, so that a beam that drifts or decays between
projections drops out. Absorption of soft X-rays as in Yu et al., Nat. Commun. 9, 921 (2018),
doi 10.1038/s41467-018-03401-x.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.preprocess.air import BORDER, LEAST_AIR, AirFit, first_region, fit_air
from pipeline.preprocess.crop import Crop
from pipeline.preprocess.quality import QUALITY, measure_frame, missing_area
from pipeline.preprocess.resample import SAME_SCALE, fourier_resample
from pipeline.preprocess.series import prepare_frames, target_pixel
from pipeline.progress import ProgressCallback, silent
from pipeline.stacks import PhaseStack
from schemas.recipe import PhaseSettings, ResampleSettings

Kind = Literal["intensity", "amplitude"]

DIAGNOSTICS = ("incident", "air_fraction", "noise", "nonpositive", "bright")

_DARKEST = 1e-4
"""Transmission below which a pixel says nothing but that it is dark (optical density 9.2)."""

_BRIGHT = 5.0
"""Air brighter than I0 by this many times its noise is an artefact, not a sample."""

_ROUNDS = 20
"""Trimmed means of the air; they settle within a few."""


@dataclass(frozen=True)
class DensityFrame:
    """Optical density of one projection.

    Attributes
    ----------
    density : (ny, nx) float32, air at zero, matter positive.
    incident : float I0, intensity (or squared amplitude) in air.
    air : (ny, nx) bool, True in air.
    noise : float rms of the density in air.
    nonpositive : int pixels with zero or negative transmission, filled from their neighbours.
    bright : int pixels brighter than air by more than its noise allows; left as they are.
    """

    density: NDArray[np.float32]
    incident: float
    air: NDArray[np.bool_]
    noise: float
    nonpositive: int
    bright: int


def optical_density(
    frame: NDArray[Any],
    kind: Kind = "intensity",
    settings: PhaseSettings | None = None,
    region: NDArray[np.bool_] | None = None,
) -> DensityFrame:
    """Optical density `-log(I / I0)` of one frame.

    Parameters
    ----------
    frame : (ny, nx) complex transmission, of which `I` is the squared modulus, or real values.
    kind : what real values are.
    settings : `air` names a side, or leaves the search to the fit.
    region : (ny, nx) bool, where the air is said to be, instead.

    Raises
    ------
    InputError
        If the frame is not an image, transmits nothing where air is expected, or has no air.

    Notes
    -----
    The air of a complex frame is found by the flatness of its phase, as for the phase itself; that
    of a real frame by its brightness. Transmission that is zero or negative (noise behind a thick
    sample, blind pixels) has no logarithm: it becomes the median of its neighbours, is held at a
    transmission of 1e-4 at the least, and is counted.
    """
    settings = settings or PhaseSettings()
    if frame.ndim != 2:
        raise InputError(f"expected an image, found shape {frame.shape}")
    if region is None and settings.air == "none":
        raise InputError(
            "'none' leaves nothing to measure I0 on, which an optical density needs",
            field="phase.air",
        )
    intensity, air = _intensity_and_air(frame, kind, settings, region)
    incident = float(np.mean(intensity[air])) if air.any() else 0.0
    if not incident > 0.0:
        raise InputError("the frame carries no transmission where air is expected")
    transmission = intensity / incident
    bad = ~(transmission > 0.0)
    filled = _fill(transmission, bad)
    density = -np.log(np.maximum(filled, _DARKEST))
    # The mean of a logarithm is not the logarithm of a mean: noisy air would not be at zero.
    density -= float(np.mean(density[air]))
    noise = float(np.std(density[air]))
    bright = density < -_BRIGHT * max(noise, 1e-6)
    return DensityFrame(
        density=density.astype(np.float32),
        incident=incident,
        air=air,
        noise=noise,
        nonpositive=int(np.count_nonzero(bad)),
        bright=int(np.count_nonzero(bright & ~air)),
    )


def _intensity_and_air(
    frame: NDArray[Any], kind: Kind, settings: PhaseSettings, region: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if np.iscomplexobj(frame):
        intensity = np.square(np.abs(frame).astype(np.float64))
        air = fit_air(frame, settings, region).air
        # Where the phase is flat the sample may still absorb: only the bright part is air.
        bright = _bright(intensity, air)
        return intensity, bright if bright.mean() >= LEAST_AIR else air
    values = frame.astype(np.float64)
    intensity = values * np.abs(values) if kind == "amplitude" else values
    if region is None:
        anywhere = settings.air == "auto"
        region = np.ones(frame.shape, bool) if anywhere else first_region(frame.shape, settings)
    return intensity, _bright(intensity, region)


def _bright(intensity: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Part of a region as bright as its brightest extended level.

    The start is the 90th percentile of the smoothed border (the sample may cover most of it); the
    level and its spread then come from a trimmed mean, which a Gaussian air passes through
    unbiased.
    """
    smooth = ndimage.uniform_filter(intensity, 5, mode="nearest")
    start = _border(region)
    start = start if start.any() else region
    level = float(np.percentile(smooth[start], 90.0))
    inside = region & (np.abs(smooth - level) < 0.1 * abs(level))
    for _ in range(_ROUNDS):
        if inside.mean() < LEAST_AIR / 4:
            break
        values = smooth[inside]
        level = float(np.median(values))
        spread = max(1.4826 * float(np.median(np.abs(values - level))), 1e-6 * abs(level))
        grown = region & (np.abs(smooth - level) < 3.0 * spread)
        if np.array_equal(grown, inside):
            break
        inside = grown
    # One connected surrounding, not equally bright holes in the sample.
    labels, _ = ndimage.label(inside)
    kept = np.unique(labels[inside & start])
    connected: NDArray[np.bool_] = np.isin(labels, kept[kept > 0])
    eroded = ndimage.binary_erosion(connected, iterations=2, border_value=1)
    return eroded if eroded.mean() >= LEAST_AIR / 4 else connected


def _border(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    border = np.ones_like(region)
    wy, wx = (max(2, round(BORDER * n)) for n in region.shape)
    border[wy:-wy, wx:-wx] = False
    return border & region


def _fill(transmission: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Transmission with bad pixels from the median of their good neighbours, 5 pixels wide."""
    if not bad.any():
        return transmission
    rows, columns = np.nonzero(bad)
    padded = np.pad(np.where(bad, np.nan, transmission), 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[rows, columns]
    windows = windows.reshape(rows.size, -1)
    known = ~np.all(np.isnan(windows), axis=1)
    values = np.full(rows.size, _DARKEST)
    values[known] = np.nanmedian(windows[known], axis=1)
    out = transmission.copy()
    out[rows, columns] = values
    return out


def prepare_optical_density(
    frames: Iterable[NDArray[Any]],
    angles_deg: NDArray[np.float64],
    pixel_size_m: float,
    energy_ev: float,
    target_pixel_m: float | None = None,
    *,
    kind: Kind = "intensity",
    resample: ResampleSettings | None = None,
    phase: PhaseSettings | None = None,
    crop: Crop | None = None,
    air: NDArray[np.bool_] | None = None,
    progress: ProgressCallback = silent,
    stage: str = "preprocess",
) -> PhaseStack:
    """Optical density of every frame on the common pixel size, as a stack with matter negative.

    The counterpart of `prepare_series`. The stack holds `log(I / I0)`, so that matter is negative
    as in every other stack and alignment, differences and reconstruction are the same; the
    reconstructed volume is then the optical density per voxel.

    Parameters
    ----------
    frames : (ny, nx) complex or real, in the order of the angles, all of one shape.
    angles_deg : (n_proj,) rotation about lab y [degree].
    pixel_size_m : pixel size of the frames [m].
    energy_ev : photon energy [eV].
    target_pixel_m : common pixel size [m]; that of the recipe, else the frames' own, when absent.
    kind : what real frames are.
    crop : part of every frame to use, as from `common_crop`; all of it when absent.
    air : (ny, nx) bool, where air is in every frame before it is cropped, in place of what `phase`
        says.
    resample, phase : settings; of the second only where the air is.
    progress : told after every frame.
    stage : name under which progress is told.

    Returns
    -------
    Stack of the frames, or of the crop, on the target's pixels. Diagnostics, each (n_proj,):
    `incident`
    (I0), `air_fraction`, `noise`, `nonpositive` and `bright` (pixels); and `quality_<measure>` for
    each of `quality.MEASURES`, of the density (which has no residues).

    Raises
    ------
    InputError
        If frames and angles differ in number, frames differ in shape, a frame transmits nothing,
        or resampling is needed but switched off.
    """
    target = target_pixel(pixel_size_m, target_pixel_m, resample or ResampleSettings())
    same = abs(target / pixel_size_m - 1.0) < SAME_SCALE
    region = air if air is None or crop is None else air[crop]

    def one(frame: NDArray[Any]) -> tuple[NDArray[Any], dict[str, float]]:
        result = optical_density(frame, kind, phase, region)
        density = result.density if same else fourier_resample(result.density, pixel_size_m, target)
        measured = dict(zip(QUALITY, _measures(frame, result), strict=True))
        return -density, _diagnostics(result) | measured

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
    return PhaseStack(data, np.asarray(angles_deg, np.float64), target, energy_ev, noise, found)


def measure_image(image: NDArray[np.float32]) -> tuple[float, ...]:
    """Measures of an image that is a phase [rad] or optical density already, air at zero.

    Parameters
    ----------
    image : (ny, nx) float32. The air is found by its flatness at zero, as that of an intensity.

    Returns
    -------
    As from `quality.measure_frame`.
    """
    seen = np.where(np.isfinite(image), np.abs(image), np.inf)
    air = _bright(np.exp(-seen.astype(np.float64)), np.ones(image.shape, bool))
    noise = float(np.std(image[air])) if air.any() else 0.0
    return measure_frame(image, fit=AirFit(np.zeros(2), 0.0, air, noise))


def _measures(frame: NDArray[Any], result: DensityFrame) -> tuple[float, ...]:
    """Measures of the density in place of a phase; what is missing shows in the raw frame."""
    fit = AirFit(np.zeros(2), 0.0, result.air, result.noise)
    ramp, _, blur, _, noise = measure_frame(result.density, fit=fit)
    return ramp, 0.0, blur, float(missing_area(frame).mean()), noise


def _diagnostics(result: DensityFrame) -> dict[str, float]:
    return {
        "incident": result.incident,
        "air_fraction": float(result.air.mean()),
        "noise": result.noise,
        "nonpositive": float(result.nonpositive),
        "bright": float(result.bright),
    }
