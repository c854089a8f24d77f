"""First guess of the shifts of a series: where the matter is, and how its mass lies along y."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.align.pairs import register_frame
from pipeline.errors import InputError

AIR_LEVEL = 0.05
"""Phase below this fraction of the sample's is air to the centre of mass."""

ANCHOR = 0.3
"""Weight of a centre of mass against the registration of two neighbours, which see the outline turn
and are off by less."""


def shows_matter(stack: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames that show anything, (n,) bool.

    Parameters
    ----------
    stack : (n, ny, nx) float32 phase, matter negative, air at zero.

    Raises
    ------
    InputError
        If most show nothing.
    """
    strong = -AIR_LEVEL * np.percentile(stack, 0.5)
    shown = np.array([bool((frame < -strong).any()) for frame in stack]) & (strong > 0.0)
    if shown.sum() < max(3, 0.5 * len(stack)):
        raise InputError(
            f"alignment: frame {int(np.argmin(shown))} shows no matter; its phase is expected to "
            "be negative"
        )
    return shown


def coarse_shifts(matter: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shifts that put each frame's centre of mass on the centre pixel, and profiles on each other.

    Along x the centre of mass of a sample inside the field runs on a sinusoid, which is a rigid
    motion: putting it on the axis aligns the frames. Along y the mass in each row is the same in
    all frames; where the sample leaves the field at top or bottom, only this is used.

    Parameters
    ----------
    matter : (n, ny, nx) float32, matter positive, air at zero.

    Returns
    -------
    (n, 2) float64 `(dy, dx)` [pixel] to add, good to a pixel or so.

    Raises
    ------
    InputError
        If a frame has no matter.
    """
    n, ny, nx = matter.shape
    strong = AIR_LEVEL * np.percentile(matter, 99.5)
    shifts = np.zeros((n, 2))
    profiles = np.zeros((n, ny))
    for index, frame in enumerate(matter):
        mass = np.where(frame > strong, frame, 0.0)
        rows, columns = mass.sum(axis=1, dtype=np.float64), mass.sum(axis=0, dtype=np.float64)
        total = rows.sum()
        if not total > 0:
            raise InputError(
                f"alignment: frame {index} shows no matter; its phase is expected to be negative"
            )
        profiles[index] = rows
        shifts[index, 0] = ny // 2 - rows @ np.arange(ny) / total
        shifts[index, 1] = nx // 2 - columns @ np.arange(nx) / total
    edge = max(2, ny // 32)
    at_border = profiles[:, :edge].mean() + profiles[:, -edge:].mean()
    if at_border > 0.1 * profiles.max(axis=1).mean():
        shifts[:, 0] = 0.0
    shifts[:, 0] += profile_shifts(profiles, shifts[:, 0])
    return shifts


def chained_shifts(
    matter: NDArray[np.float32],
    angles: NDArray[np.float64],
    leaves: NDArray[np.bool_],
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shifts along x where the sample leaves the field at one side: each frame onto the next.

    Frames that hold the whole sample stand where their centre of mass puts them; the others are
    chained to them by the registration of neighbours in angle, which sees what both show.

    Parameters
    ----------
    matter : (n, ny, nx) float32, matter positive.
    angles : (n,) rotation about y [rad].
    leaves : (n,) bool, whether the sample leaves the field at low or high x.
    start : (n, 2) `(dy, dx)` of the centre of mass [pixel].

    Returns
    -------
    (n,) float64 dx to add [pixel]. Without a frame that shows all, up to a constant.
    """
    n = len(matter)
    order = np.argsort(angles, kind="stable")
    rows, values = [], []
    for first, second in pairwise(order):
        step = register_frame(matter[first], matter[second])[1]
        row = np.zeros(n)
        row[second], row[first] = 1.0, -1.0
        rows.append(row)
        values.append(step)
    whole = np.flatnonzero(~leaves)
    for index in whole:
        row = np.zeros(n)
        row[index] = ANCHOR
        rows.append(row)
        values.append(ANCHOR * start[index, 1])
    if not whole.size:
        rows.append(np.full(n, 1.0 / n))
        values.append(0.0)
    return np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]


def profile_shifts(
    profiles: NDArray[np.float64], start: NDArray[np.float64], rounds: int = 4
) -> NDArray[np.float64]:
    """Correlate the slope of each mass profile with that of their mean.

    Parameters
    ----------
    profiles : (n, ny) mass in each row.
    start : (n,) shifts already known [pixel].
    rounds : times that the mean is made anew.

    Returns
    -------
    (n,) float64 shifts to add to `start` [pixel].
    """
    ny = profiles.shape[1]
    frequency = np.fft.rfftfreq(2 * ny)
    padded = np.pad(profiles, ((0, 0), (0, ny)), mode="edge")
    # The slope, tapered to the frequencies that every frame shares; blind to what is constant.
    spectrum = np.fft.rfft(np.gradient(padded, axis=1) * _between(ny))
    spectrum *= np.exp(-0.5 * (frequency / 0.1) ** 2)
    found = np.zeros(len(profiles))
    for _ in range(rounds):
        moved = spectrum * np.exp(-2j * np.pi * frequency * (start + found)[:, None])
        mean = moved.mean(axis=0)
        correlation = np.fft.irfft(np.conj(moved) * mean, n=2 * ny)
        found += [_peak(line, ny // 4) for line in correlation]
        found -= found.mean()
    return found


def _between(ny: int) -> NDArray[np.float64]:
    """One over the profile, without its end points, zero over the padding."""
    window = np.zeros(2 * ny)
    window[1 : ny - 1] = 1.0
    return window


def _peak(correlation: NDArray[np.float64], reach: int) -> float:
    """Lag of the highest value within `reach`, by a parabola through its neighbours."""
    size = correlation.size
    lags = np.arange(-reach, reach + 1)
    values = correlation[lags % size]
    best = int(np.argmax(values))
    if best in (0, 2 * reach):
        return float(lags[best])
    left, middle, right = values[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    return float(lags[best] + (0.5 * (left - right) / curvature if curvature < 0 else 0.0))
