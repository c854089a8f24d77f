"""Error functions fitted to many profiles at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]

MISFIT = 0.25
"""Largest rms deviation from the fitted edge, over its height: more is not one edge."""

ROUNDS = 25
"""Damped Gauss-Newton steps; well-shaped edges need six."""


@dataclass(frozen=True)
class EdgeFit:
    """Error functions fitted to profiles.

    Attributes
    ----------
    shift : (k,) float64, of the edge from the middle of the profile, in the unit of distance.
    sigma : (k,) float64, standard deviation of the blur.
    low, height : (k,) float64, of the step.
    misfit : (k,) float64, rms deviation over the size of the step.
    """

    shift: Array
    sigma: Array
    low: Array
    height: Array
    misfit: Array

    def good(self, reach: float) -> NDArray[np.bool_]:
        """Fits that show one edge with both its plateaus."""
        inside = np.abs(self.shift) + 1.5 * self.sigma < reach
        return inside & (self.misfit < MISFIT) & (self.sigma > 0.05)


def fit_edges(profiles: Array, distance: Array) -> EdgeFit:
    """Fit `low + height (1 + erf((t - shift) / (√2 σ))) / 2` to every profile.

    Parameters
    ----------
    profiles : (k, m) float64.
    distance : (m,) float64.

    Notes
    -----
    Damped Gauss-Newton in shift and ln σ; low and height are solved for exactly at every step.
    """
    k = len(profiles)
    shift, spread = np.zeros(k), np.full(k, math.log(1.0))
    damping, best = np.full(k, 1e-2), np.full(k, np.inf)
    state = shift, spread
    for _ in range(ROUNDS):
        edge, low, height = _levels(profiles, distance, shift, spread)
        rest = profiles - low[:, None] - height[:, None] * edge
        cost = np.square(rest).sum(axis=1)
        better = cost < best
        best = np.where(better, cost, best)
        state = np.where(better, shift, state[0]), np.where(better, spread, state[1])
        damping = np.clip(np.where(better, damping * 0.3, damping * 10.0), 1e-9, 1e9)
        edge, low, height = _levels(profiles, distance, *state)
        rest = profiles - low[:, None] - height[:, None] * edge
        move = _step(rest, distance, *state, height, damping)
        shift = state[0] + np.clip(move[:, 0], -1.0, 1.0)
        spread = np.clip(state[1] + np.clip(move[:, 1], -0.7, 0.7), math.log(0.05), math.log(50.0))
    edge, low, height = _levels(profiles, distance, *state)
    size = np.maximum(np.abs(height), 1e-300)
    misfit = np.sqrt(best / max(len(distance), 1)) / size
    return EdgeFit(state[0], np.exp(state[1]), low, height, misfit)


def _levels(
    profiles: Array, distance: Array, shift: Array, spread: Array
) -> tuple[Array, Array, Array]:
    """Edge from 0 to 1, and the least-squares low and height."""
    scaled = (distance - shift[:, None]) * np.exp(-spread)[:, None] / math.sqrt(2.0)
    edge: Array = 0.5 * (1.0 + erf(scaled))
    middle, mean = edge.mean(axis=1), profiles.mean(axis=1)
    away = edge - middle[:, None]
    height = (away * profiles).sum(axis=1) / np.maximum((away**2).sum(axis=1), 1e-12)
    return edge, mean - height * middle, height


def _step(
    rest: Array, distance: Array, shift: Array, spread: Array, height: Array, damping: Array
) -> Array:
    """Damped Gauss-Newton step in shift and ln σ, with the levels free to follow: (k, 2)."""
    sigma = np.exp(spread)[:, None]
    t = (distance - shift[:, None]) / sigma
    bell = np.exp(-0.5 * t**2) / math.sqrt(2.0 * math.pi)
    slopes = np.stack([-height[:, None] * bell / sigma, -height[:, None] * bell * t], axis=2)
    edge = 0.5 * (1.0 + erf(t / math.sqrt(2.0)))
    basis = edge - edge.mean(axis=1, keepdims=True)
    basis /= np.maximum(np.linalg.norm(basis, axis=1, keepdims=True), 1e-12)
    slopes = slopes - slopes.mean(axis=1, keepdims=True)
    slopes = slopes - basis[:, :, None] * np.einsum("km,kmi->ki", basis, slopes)[:, None]
    normal = np.einsum("kmi,kmj->kij", slopes, slopes)
    trace = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal = normal + (damping[:, None, None] * trace + 1e-30) * np.eye(2)
    right = np.einsum("kmi,km->ki", slopes, rest)
    move: Array = np.linalg.solve(normal, right[..., None])[..., 0]
    return move


def first_crossing(x: Array, y: Array, level: float) -> float:
    """Where a curve first rises above a level, linear between samples; NaN if it does not."""
    above = np.flatnonzero((y[1:] >= level) & (y[:-1] < level))
    if len(above) == 0:
        return math.nan
    k = int(above[0])
    return float(x[k] + (level - y[k]) / (y[k + 1] - y[k]) * (x[k + 1] - x[k]))
