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
from pipeline.preprocess.phase import AirFit, fit_air
from pipeline.preprocess.rectangle import largest_rectangle
from schemas.recipe import PhaseSettings

MEASURES = ("ramp", "residues", "blur", "missing", "noise")

_FLOORS = {"ramp": 5e-3, "residues": 2.0, "blur": 0.05, "missing": 0.005, "noise": 0.1}
"""Least spread that scores are counted in, so that perfect neighbours make no outlier of a good
projection: [rad], count, natural logarithm, fraction of the frame, natural logarithm."""

_WORDS = {
    "ramp": "residual ramp {value:.3g} rad, neighbours {usual:.3g}",
    "residues": "{value:.0f} phase residues, neighbours {usual:.0f}",
    "blur": "blur {value:.3g}, neighbours {usual:.3g}",
    "missing": "{value:.1%} of the frame missing, neighbours {usual:.1%}",
    "noise": "noise {value:.3g} rad, neighbours {usual:.3g}",
}

_LOGARITHMIC = ("blur", "noise")

_NEIGHBOURS = 7
"""Projections in the running median: their contents change slowly with the angle."""

_TILES = 6
"""The air is averaged over this many tiles across, in which a ramp is seen and noise is not."""

_FINE, _COARSE = 1.0, 4.0
"""Scales [pixel] whose contrast is compared for blur."""

_MOST_RESIDUES = 0.01
"""Local density above which a border area is noise; of pure noise it is one third."""

_TOO_BRIGHT = 3.0
"""No sample transmits more than air: a border area brighter than the middle by this is noise."""


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
    threshold: float = 6.0,
    settings: PhaseSettings | None = None,
) -> FrameQuality:
    """Score every projection of a series against its neighbours in angle.

    Parameters
    ----------
    frames : (ny, nx) each, complex transmission (its ramp is removed first) or real phase [rad]
        (scored as it is). Read one at a time.
    angles_deg : (n,) by which neighbours are found; the order of the frames when absent.
    threshold : robust standard deviations above which a projection is proposed for exclusion; 6
        lets through what a hundred good projections do by chance in five measures.
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
    threshold: float = 6.0,
) -> FrameQuality:
    """Scores of measures that were taken while the frames passed by.

    Parameters
    ----------
    measured : (n, 5) from `measure_frame`.
    angles_deg, threshold : as for `frame_quality`, which raises the same.
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
            _reason(*rows, threshold) for rows in zip(measured, usual, scores, strict=True)
        ),
    )


def _reason(
    values: NDArray[np.float64],
    usual: NDArray[np.float64],
    scores: NDArray[np.float64],
    threshold: float,
) -> str:
    said = [
        _WORDS[name].format(value=values[column], usual=usual[column])
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
    frame: NDArray[Any], settings: PhaseSettings | None = None, fit: AirFit | None = None
) -> tuple[float, float, float, float, float]:
    """The measures of one frame, in the order of `MEASURES`.

    Parameters
    ----------
    frame : (ny, nx) complex transmission or real phase [rad].
    settings : where the air is.
    fit : air and plane of this frame where they are known, which is most of the work.

    Returns
    -------
    ramp [rad], residues, blur, missing fraction and noise [rad], as in `FrameQuality`. A frame
    without any transmission is missing as a whole.
    """
    missing = missing_area(frame)
    if missing.all():
        return (0.0, 0.0, 0.0, 1.0, 0.0)
    finite = np.where(np.isfinite(frame), frame, 0.0)
    wave = finite if np.iscomplexobj(frame) else np.exp(1j * finite)
    wave = np.where(missing, 0.0, wave)
    try:
        fit = fit or fit_air(wave, settings)
    except InputError:
        # No transmission where the air should be: as good as empty, and to be shown as such.
        return (0.0, 0.0, 0.0, 1.0, 0.0)
    flat = fit.flatten(wave) if np.iscomplexobj(frame) else wave
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


def phase_residues(
    phase: NDArray[Any], valid: NDArray[np.bool_] | None = None
) -> tuple[int, NDArray[np.int8]]:
    """Points about which the phase winds by a turn (vortices), whatever it is wrapped to.

    Parameters
    ----------
    phase : (ny, nx) [rad], wrapped or unwrapped.
    valid : (ny, nx) bool; loops that touch other pixels do not count.

    Returns
    -------
    count : residues of either sign.
    charge : (ny - 1, nx - 1) int8, +1 or -1 where the sum of wrapped differences along the loop
        (y, x) -> (y, x+1) -> (y+1, x+1) -> (y+1, x) is a positive or negative turn.

    Notes
    -----
    Goldstein, Zebker and Werner, Radio Science 23, 713 (1988), doi 10.1029/RS023i004p00713.
    """
    phase = np.asarray(phase, np.float64)
    across, down = _wrap(np.diff(phase, axis=1)), _wrap(np.diff(phase, axis=0))
    turn = across[:-1] + down[:, 1:] - across[1:] - down[:, :-1]
    charge: NDArray[np.int8] = np.rint(turn / (2.0 * np.pi)).astype(np.int8)
    if valid is not None:
        charge[~(valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, :-1] & valid[1:, 1:])] = 0
    return int(np.count_nonzero(charge)), charge


def _wrap(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    wrapped: NDArray[np.float64] = difference - 2.0 * np.pi * np.rint(difference / (2.0 * np.pi))
    return wrapped


def _tile_range(phase: NDArray[Any], air: NDArray[np.bool_]) -> float:
    """Largest difference between the mean phases of tiles that lie in air."""
    rows, columns = (np.arange(n) * _TILES // n for n in phase.shape)
    tile = rows[:, None] * _TILES + columns[None, :]
    counts = np.bincount(tile[air], minlength=_TILES**2)
    sums = np.bincount(tile[air], weights=phase[air], minlength=_TILES**2)
    # A tile with a few pixels of air is noise, not a place.
    enough = counts >= max(8, phase.size // _TILES**2 // 4)
    return float(np.ptp(sums[enough] / counts[enough])) if enough.sum() > 1 else 0.0


def _blur(flat: NDArray[Any], air: NDArray[np.bool_], missing: NDArray[np.bool_]) -> float:
    """Contrast at the coarse scale over that at the fine scale, that of the air's noise removed."""
    amplitude = np.abs(flat)
    usable = ~missing & (amplitude > 0.0)
    unit = np.where(usable, flat / np.where(usable, amplitude, 1.0), 1.0).astype(np.complex64)
    inside = ndimage.binary_erosion(~air & ~missing, iterations=2)
    outside = air & ~missing
    if inside.sum() < 32:
        return 1.0
    power = []
    for scale in (_FINE, _COARSE):
        band = _band(unit, scale)
        noise = float(np.mean(band[outside])) if outside.any() else 0.0
        power.append(max(float(np.mean(band[inside])) - noise, 1e-12))
    return float(np.sqrt(power[1] / power[0]))


def _band(unit: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """Squared difference of two Gaussian means of a complex image, free of wraps."""
    band = np.zeros(unit.shape, np.float32)
    for part in (unit.real, unit.imag):
        narrow = ndimage.gaussian_filter(part, scale, mode="nearest")
        band += (narrow - ndimage.gaussian_filter(part, 2.0 * scale, mode="nearest")) ** 2
    return band


def crop_valid_border(frame: NDArray[Any]) -> tuple[slice, slice]:
    """Largest upright rectangle of a frame without the empty or noisy border of a reconstruction.

    Outside the scanned area ptychography leaves its start value, and along the rim of the scan
    amplitudes and phases that mean nothing. Bad areas inside, which no crop would remove, are
    left alone.

    Parameters
    ----------
    frame : (ny, nx) complex transmission, or real phase [rad].

    Returns
    -------
    Slices along y and x; of the whole frame where its border is good.

    Raises
    ------
    InputError
        If less than a sixteenth of the frame is left.
    """
    bad = missing_area(frame) | _noisy(frame)
    labels, _ = ndimage.label(bad, np.ones((3, 3), bool))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outer = np.isin(labels, np.unique(edge[edge > 0]))
    rows, columns = largest_rectangle(~outer)
    left = (rows.stop - rows.start) * (columns.stop - columns.start)
    if left * 16 < frame.size:
        raise InputError(
            f"no usable area: the largest rectangle without an empty or noisy border is "
            f"{rows.stop - rows.start} x {columns.stop - columns.start} of "
            f"{frame.shape[0]} x {frame.shape[1]} pixels"
        )
    return rows, columns


def _noisy(frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Areas whose phase is full of residues, or that are brighter than any sample."""
    finite = np.where(np.isfinite(frame), frame, 0.0)
    phase = np.angle(finite) if np.iscomplexobj(frame) else finite
    _, charge = phase_residues(phase)
    spots = np.pad(np.abs(charge).astype(np.float64), ((0, 1), (0, 1)))
    width = max(5, min(frame.shape) // 24)
    noisy: NDArray[np.bool_] = ndimage.uniform_filter(spots, width) > _MOST_RESIDUES
    if np.iscomplexobj(frame):
        amplitude = np.abs(finite)
        ny, nx = frame.shape
        middle = np.median(amplitude[ny // 4 : ny - ny // 4, nx // 4 : nx - nx // 4])
        noisy |= ndimage.uniform_filter(amplitude, 3) > _TOO_BRIGHT * middle
    return noisy
