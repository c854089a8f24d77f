"""How good each projection is: residues, residual ramp, blur, noise and missing area.

Nothing is dropped here: a projection unlike its neighbours is proposed for exclusion, with the
reason, and a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.preprocess.air import AirFit, fit_air
from pipeline.preprocess.residues import phase_residues
from schemas.recipe import PhaseSettings

MEASURES = ("ramp", "residues", "blur", "missing", "noise")

QUALITY = tuple(f"quality_{name}" for name in MEASURES)
"""Names of the measures among the diagnostics of a stack."""

THRESHOLD = 6.0
"""Robust standard deviations above which a projection is proposed for exclusion; lets through what
a hundred good projections do by chance in five measures."""

_FLOORS = {"ramp": 5e-3, "residues": 0.6, "blur": 0.05, "missing": 0.005, "noise": 0.1}
"""Least spread that scores are counted in, so that perfect neighbours make no outlier of a good
projection: [rad], count, natural logarithm, fraction of the frame, natural logarithm."""

_WORDS = {
    "ramp": "residual ramp {value:.3g}{unit}, neighbours {usual:.3g}",
    "residues": "{value:.0f} phase residues, neighbours {usual:.0f}",
    "blur": "blur {value:.3g}, neighbours {usual:.3g}",
    "missing": "{value:.1%} of the frame missing, neighbours {usual:.1%}",
    "noise": "noise {value:.3g}{unit}, neighbours {usual:.3g}",
}

_LOGARITHMIC = ("blur", "noise")

_NEIGHBOURS = 7
"""Projections in the running median: their contents change slowly with the angle."""

_MOSTLY = 0.75
"""Part of the projections that speaks for the whole series."""

_TILES = 6
"""The air is averaged over this many tiles across, in which a ramp is seen and noise is not."""

_THIN = 2
"""Every other pixel is enough for contrast at the coarse scale."""


@dataclass(frozen=True)
class FrameQuality:
    """Measures of every projection, and which stand out.

    Attributes
    ----------
    ramp : (n,) float64 [rad] largest difference of averaged phase between places in the air.
    residues : (n,) float64 points about which the phase winds.
    blur : (n,) float64 contrast at 4 pixels over contrast at 1 pixel; more is blurred.
    missing : (n,) float64 fraction of the frame that holds no measurement.
    noise : (n,) float64 [rad] rms in air.
    scores : (n, 5) float64 robust z-score of each measure against the neighbours, in the order of
        `MEASURES`; positive is worse.
    outliers : (n,) bool, some score above the threshold.
    reasons : why, for each projection; empty where nothing stands out.
    """

    ramp: NDArray[np.float64]
    residues: NDArray[np.float64]
    blur: NDArray[np.float64]
    missing: NDArray[np.float64]
    noise: NDArray[np.float64]
    scores: NDArray[np.float64]
    outliers: NDArray[np.bool_]
    reasons: tuple[str, ...]


def frame_quality(
    frames: Iterable[NDArray[Any]],
    angles_deg: NDArray[np.float64] | None = None,
    *,
    threshold: float = THRESHOLD,
    settings: PhaseSettings | None = None,
) -> FrameQuality:
    """Score every projection of a series against its neighbours in angle.

    Parameters
    ----------
    frames : (ny, nx) each, complex transmission (its ramp is removed first) or real phase [rad]
        (scored as it is). Read one at a time.
    angles_deg : (n,) by which neighbours are found; the order of the frames when absent.
    threshold : robust standard deviations above which a projection is proposed for exclusion.
    settings : where the air is.

    Raises
    ------
    InputError
        If there are no frames, or another number of angles.
    """
    settings = settings or PhaseSettings()
    measured = np.array([measure_frame(frame, settings) for frame in frames], np.float64)
    return score_measures(measured, angles_deg, threshold=threshold)


def score_measures(
    measured: NDArray[np.float64],
    angles_deg: NDArray[np.float64] | None = None,
    *,
    threshold: float = THRESHOLD,
    unit: str = "rad",
) -> FrameQuality:
    """Scores of measures that were taken while the frames passed by.

    Parameters
    ----------
    measured : (n, 5) from `measure_frame`.
    angles_deg, threshold : as for `frame_quality`, which raises the same.
    unit : of ramp and noise, for the reasons; optical densities have none.
    """
    n = len(measured)
    if n == 0:
        raise InputError("expected frames to score, found none")
    if angles_deg is not None and len(angles_deg) != n:
        raise InputError(f"expected {n} angles, one for each frame, found {len(angles_deg)}")
    order = np.arange(n) if angles_deg is None else np.argsort(angles_deg, kind="stable")
    scores, usual = np.zeros((n, len(MEASURES))), np.zeros((n, len(MEASURES)))
    for column, name in enumerate(MEASURES):
        values = measured[:, column]
        logarithmic = name in _LOGARITHMIC
        # A frame without air or contrast has no measure; 1e-12 keeps its logarithm finite.
        scale = np.log(np.maximum(values, 1e-12)) if logarithmic else values
        score, middle = _robust_scores(scale[order], _FLOORS[name])
        scores[order, column] = score
        usual[order, column] = np.exp(middle) if logarithmic else middle
    outliers: NDArray[np.bool_] = np.any(scores > threshold, axis=1)
    ramp, residues, blur, missing, noise = measured.T.copy()
    return FrameQuality(
        ramp=ramp,
        residues=residues,
        blur=blur,
        missing=missing,
        noise=noise,
        scores=scores,
        outliers=outliers,
        reasons=tuple(
            _reason(*rows, threshold, unit) for rows in zip(measured, usual, scores, strict=True)
        ),
    )


def matter_note(matter: NDArray[np.float64], noise: NDArray[np.float64]) -> str:
    """Hint that a series is conjugated, as a sentence; empty where matter has negative phase.

    Parameters
    ----------
    matter : (n,) mean phase outside the air of each projection [rad].
    noise : (n,) rms in air [rad].
    """
    positive = matter > noise
    if positive.mean() < _MOSTLY:
        return ""
    return (
        f"Matter has positive phase in {np.count_nonzero(positive)} of {matter.size} projections "
        f"(median {np.median(matter):.3g} rad): conjugate: true?"
    )


def _reason(
    values: NDArray[np.float64],
    usual: NDArray[np.float64],
    scores: NDArray[np.float64],
    threshold: float,
    unit: str,
) -> str:
    said = [
        _WORDS[name].format(
            value=values[column], usual=usual[column], unit=f" {unit}" if unit else ""
        )
        for column, name in enumerate(MEASURES)
        if scores[column] > threshold
    ]
    return "; ".join(said)


def _robust_scores(
    values: NDArray[np.float64], floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance to the running median in units of the spread of all such distances."""
    width = min(_NEIGHBOURS, values.size)
    middle = ndimage.median_filter(values, width, mode="nearest")
    apart = values - middle
    spread = max(1.4826 * float(np.median(np.abs(apart))), floor)
    return apart / spread, middle


def measure_frame(
    frame: NDArray[Any],
    settings: PhaseSettings | None = None,
    fit: AirFit | None = None,
    flat: NDArray[np.complex64] | None = None,
) -> tuple[float, float, float, float, float]:
    """The measures of one frame, in the order of `MEASURES`.

    Parameters
    ----------
    frame : (ny, nx) complex transmission or real phase [rad].
    settings : where the air is.
    fit : air and plane of this frame where they are known, which is most of the work.
    flat : `fit.flatten(frame)` where it is known.

    Returns
    -------
    ramp [rad], residues, blur, missing fraction and noise [rad], as in `FrameQuality`. A frame
    without any transmission is missing as a whole.
    """
    missing = missing_area(frame)
    if missing.all():
        return (0.0, 0.0, 0.0, 1.0, 0.0)
    if flat is None or missing.any():
        finite = np.where(np.isfinite(frame), frame, 0.0)
        wave = finite if np.iscomplexobj(frame) else np.exp(1j * finite)
        wave = np.where(missing, 0.0, wave)
        try:
            fit = fit or fit_air(wave, settings)
        except InputError:
            # No transmission where the air should be: as good as empty, and to be shown as such.
            return (0.0, 0.0, 0.0, 1.0, 0.0)
        flat = fit.flatten(wave) if np.iscomplexobj(frame) else wave.astype(np.complex64)
    assert fit is not None  # comes with `flat`
    phase = np.angle(flat)
    count, _ = phase_residues(phase, ~missing)
    ramp = _tile_range(phase, fit.air & ~missing)
    return (ramp, float(count), _blur(flat, fit.air, missing), float(missing.mean()), fit.noise)


def missing_area(frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a frame holds no measurement: not finite, zero, or one value over an area.

    Parameters
    ----------
    frame : (ny, nx) complex or real.

    Returns
    -------
    (ny, nx) bool, True where pixels of at least 3 x 3 have exactly one value, as programs fill
    what they have not seen.
    """
    same = np.zeros(frame.shape, bool)
    if min(frame.shape) >= 3:
        core = np.ones((frame.shape[0] - 2, frame.shape[1] - 2), bool)
        middle = frame[1:-1, 1:-1]
        for dy in range(3):
            for dx in range(3):
                core &= frame[dy : dy + core.shape[0], dx : dx + core.shape[1]] == middle
        same[1:-1, 1:-1] = core
        same = ndimage.binary_dilation(same, np.ones((3, 3), bool))
    if np.iscomplexobj(frame):
        # A real phase of zero is a measurement of air, a complex zero is none.
        same |= frame == 0
    return same | ~np.isfinite(frame)


def _tile_range(phase: NDArray[Any], air: NDArray[np.bool_]) -> float:
    """Largest difference between the mean phases of tiles that lie in air."""
    rows, columns = (np.arange(n) * _TILES // n for n in phase.shape)
    tile = rows[:, None] * _TILES + columns[None, :]
    counts = np.bincount(tile[air], minlength=_TILES**2)
    sums = np.bincount(tile[air], weights=phase[air], minlength=_TILES**2)
    # A tile with a few pixels of air is noise, not a place.
    enough = counts >= max(8, phase.size // _TILES**2 // 4)
    return float(np.ptp(sums[enough] / counts[enough])) if enough.sum() > 1 else 0.0


def _blur(flat: NDArray[np.complex64], air: NDArray[np.bool_], missing: NDArray[np.bool_]) -> float:
    """Contrast at 4 pixels over that at 1 pixel, that of the air's noise removed from both."""
    amplitude = np.abs(flat)
    usable = ~missing & (amplitude > 0.0)
    unit = np.where(usable, flat / np.where(usable, amplitude, np.float32(1.0)), np.complex64(1.0))
    inside = ndimage.binary_erosion(~air & ~missing, iterations=2)
    outside = air & ~missing
    if inside.sum() < 32:
        return 1.0
    fine = np.zeros(unit.shape, np.float32)
    thin = np.s_[::_THIN, ::_THIN]
    coarse = np.zeros(unit[thin].shape, np.float32)
    for part in (unit.real, unit.imag):
        # Gaussians of 1, 2, 4 and 8 pixels, each from the one before: their variances add up.
        one = _gaussian(part, 1.0)
        two = _gaussian(one, 3.0**0.5)
        four = _gaussian(two[thin], 12.0**0.5 / _THIN)
        eight = _gaussian(four, 48.0**0.5 / _THIN)
        fine += (one - two) ** 2
        coarse += (four - eight) ** 2
    power = [
        _contrast(fine, inside, outside),
        _contrast(coarse, inside[thin], outside[thin]),
    ]
    return float(np.sqrt(power[1] / power[0]))


def _gaussian(image: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    found: NDArray[np.float32] = ndimage.gaussian_filter(
        image, width, mode="nearest", truncate=3.0, output=np.float32
    )
    return found


def _contrast(
    band: NDArray[np.float32], inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> float:
    noise = float(np.mean(band[outside])) if outside.any() else 0.0
    return max(float(np.mean(band[inside])) - noise, 1e-12) if inside.any() else 1e-12
