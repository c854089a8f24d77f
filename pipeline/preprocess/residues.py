"""Residues of the phase: where they are, and unwrapping that they do not spoil.

About a residue (vortex) the phase winds by a turn, so that no unwrapped phase exists there, and an
unwrapping that runs between two of them leaves a step of a turn. Pixels around residues and on the
shortest cuts between those of opposite sign are masked, and filled from their neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.draw import line
from skimage.restoration import unwrap_phase

MOST_CUTS = 600
"""More residues than this are noise over an area; they are masked where they are, not paired."""

_SMOOTH = 1.5
"""Width [pixel] over which neighbours are averaged to fill a masked pixel."""


def unwrap(phase: NDArray[Any]) -> tuple[NDArray[np.float64], int, int]:
    """Unwrapped phase, right also where there are residues, but for the pixels around them.

    Parameters
    ----------
    phase : (ny, nx) [rad], wrapped.

    Returns
    -------
    phase : (ny, nx) float64 [rad], up to a multiple of a turn.
    residues : of either sign.
    filled : pixels around residues that were filled from their neighbours.

    Notes
    -----
    Residues and cuts: Goldstein, Zebker and Werner, Radio Science 23, 713 (1988),
    doi 10.1029/RS023i004p00713; the cuts are those of least total length. Unwrapping: Herraez et
    al., Appl. Opt. 41, 7437 (2002), doi 10.1364/AO.41.007437.
    """
    phase = np.asarray(phase, np.float64)
    count, charge = phase_residues(phase)
    if count == 0:
        return np.asarray(unwrap_phase(phase, rng=0), np.float64), 0, 0
    mask = _cuts(charge)
    # What the cuts close in would get turns of its own: only the largest area is trusted.
    labels, areas = ndimage.label(~mask)
    if areas == 0:
        return np.asarray(unwrap_phase(phase, rng=0), np.float64), count, 0
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    mask = labels != largest
    found = unwrap_phase(np.ma.masked_array(phase, mask), rng=0)
    return _fill(np.ma.getdata(found), mask), count, int(np.count_nonzero(mask))


def _cuts(charge: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Pixels around residues and along cuts between them, or to the nearest border."""
    shape = (charge.shape[0] + 1, charge.shape[1] + 1)
    mask = np.zeros(shape, bool)
    places = np.argwhere(charge != 0)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        mask[tuple((places + corner).T)] = True
    if len(places) <= MOST_CUTS:
        for start, stop in _pairs(charge):
            mask[line(*start, *stop)] = True
    # A cut one pixel wide leaks at its diagonal steps.
    grown: NDArray[np.bool_] = ndimage.binary_dilation(mask, np.ones((3, 3), bool))
    return grown


def _pairs(charge: NDArray[np.int8]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ends of the cuts: every residue with one of opposite sign or with the border."""
    plus, minus = np.argwhere(charge > 0), np.argwhere(charge < 0)
    p, m = len(plus), len(minus)
    cost = np.zeros((p + m, p + m))
    cost[:p, :m] = np.hypot(*(plus[:, None] - minus[None]).transpose(2, 0, 1))
    cost[:p, m:] = _to_border(plus, charge.shape)[0][:, None]
    cost[p:, :m] = _to_border(minus, charge.shape)[0][None]
    pairs = []
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if row < p:
            start = plus[row]
            stop = minus[column] if column < m else _to_border(start[None], charge.shape)[1][0]
        elif column < m:
            start, stop = minus[column], _to_border(minus[column][None], charge.shape)[1][0]
        else:
            continue
        pairs.append(((int(start[0]), int(start[1])), (int(stop[0]), int(stop[1]))))
    return pairs


def _to_border(
    places: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distance to the nearest border, and the place on it, for each place (n, 2)."""
    ny, nx = shape
    y, x = places.T
    apart = np.stack([y, ny - y, x, nx - x], axis=1)
    side = np.argmin(apart, axis=1)
    rows = np.choose(side, [0 * y, 0 * y + ny, y, y])
    columns = np.choose(side, [x, x, 0 * x, 0 * x + nx])
    return apart[np.arange(len(places)), side].astype(np.float64), np.stack([rows, columns], axis=1)


def _fill(phase: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Masked pixels as the smoothed value of their nearest good neighbours."""
    _, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    known = phase[tuple(nearest)]
    smooth = ndimage.gaussian_filter(known, _SMOOTH, mode="nearest")
    return np.where(mask, smooth, phase)


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
