"""A sum of Gaussians fitted to a histogram: expectation maximisation on the counts of its bins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

ROUNDS = 2000
"""Most rounds; overlapping components take some hundred."""

LEAST_GAIN = 1e-9
"""A round that raises the mean logarithm of the likelihood by less ends the fit."""


@dataclass(frozen=True)
class Mixture:
    """Gaussians, in rising order of their means.

    Attributes
    ----------
    mean, sigma : (k,) float64, in the unit of the histogram.
    weight : (k,) float64, shares of the counts; with `background` they add up to 1.
    log_likelihood : of the binned counts.
    counts : how many values the histogram holds.
    background : share of the counts that lie anywhere in the histogram.
    """

    mean: NDArray[np.float64]
    sigma: NDArray[np.float64]
    weight: NDArray[np.float64]
    log_likelihood: float
    counts: float
    background: float = 0.0

    @property
    def separation(self) -> float:
        """Least distance of neighbours, `√2 |μ₁ - μ₂| / √(σ₁² + σ₂²)`; infinite for one component.

        Above 2 they are clearly apart (Ashman et al. 1994, doi 10.1086/117248).
        """
        if len(self.mean) < 2:
            return math.inf
        gap = math.sqrt(2.0) * np.diff(self.mean)
        return float(np.min(gap / np.hypot(self.sigma[1:], self.sigma[:-1])))

    def counts_in(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        """(k, n) float64 expected counts of each component between `edges` (n + 1,)."""
        return self.counts * self.weight[:, None] * _masses(edges, self.mean, self.sigma)

    def thresholds(self) -> NDArray[np.float64]:
        """(k - 1,) where neighbours are equally probable; between the means."""
        found = []
        for k in range(len(self.mean) - 1):
            at = np.linspace(self.mean[k], self.mean[k + 1], 2001)
            first, second = (
                math.log(self.weight[i] / self.sigma[i])
                - 0.5 * ((at - self.mean[i]) / self.sigma[i]) ** 2
                for i in (k, k + 1)
            )
            found.append(float(at[int(np.argmax(second >= first))]))
        return np.asarray(found)


def fit_mixture(
    counts: NDArray[np.floating],
    edges: NDArray[np.float64],
    means: NDArray[np.float64],
    *,
    background: bool = False,
) -> Mixture | None:
    """Fit Gaussians to a histogram, from first guesses of their means.

    Parameters
    ----------
    counts : (n,) values in each bin.
    edges : (n + 1,) float64, of the bins.
    means : (k,) first guesses, one a component.
    background : allow for values spread evenly over the histogram, such as those of voxels that
        two materials share.

    Returns
    -------
    Mixture; None where fewer than ten counts or fewer filled bins than parameters leave nothing to
    fit.

    Notes
    -----
    Dempster, Laird, Rubin, J. R. Stat. Soc. B 39, 1 (1977), on binned data: bins narrower than the
    components count at their centres, and the width of a bin is taken off the variance (Sheppard).
    """
    counts = np.asarray(counts, np.float64)
    total, k = float(counts.sum()), len(means)
    if k == 0 or total < 10.0 or np.count_nonzero(counts) < 3 * k:
        return None
    centres, width = 0.5 * (edges[1:] + edges[:-1]), float(np.min(np.diff(edges)))
    mean = np.sort(np.asarray(means, np.float64))
    spread = math.sqrt(
        float(np.average((centres - np.average(centres, weights=counts)) ** 2, weights=counts))
    )
    # Narrow Gaussians to begin with, or they would take the background for their own.
    sigma = np.full(k, max(spread / ((8.0 if background else 2.0) * k), width))
    even = np.diff(edges) / (edges[-1] - edges[0])
    weight = np.full(k, (0.8 if background else 1.0) / k)
    rest = 0.2 if background else 0.0
    last = -math.inf
    for _ in range(ROUNDS):
        masses = weight[:, None] * _masses(edges, mean, sigma)
        whole = np.maximum(masses.sum(axis=0) + rest * even, 1e-300)
        likelihood = float(np.sum(counts * np.log(whole)) / total)
        if likelihood - last < LEAST_GAIN:
            break
        last = likelihood
        share = masses / whole * counts
        taken = np.maximum(share.sum(axis=1), 1e-12 * total)
        beside = float(np.sum(rest * even / whole * counts))
        weight = taken / (taken.sum() + beside)
        rest = beside / (float(taken.sum()) + beside)
        mean = (share @ centres) / taken
        second = np.sum(share * (centres - mean[:, None]) ** 2, axis=1) / taken
        sigma = np.sqrt(np.maximum(second - width**2 / 12.0, (0.2 * width) ** 2))
    order = np.argsort(mean, kind="stable")
    return Mixture(mean[order], sigma[order], weight[order], last * total, total, rest)


def _masses(
    edges: NDArray[np.float64], mean: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(k, n) probability of each bin under each Gaussian."""
    at = (edges[None, :] - mean[:, None]) / sigma[:, None]
    return np.asarray(np.diff(special.ndtr(at), axis=1))
