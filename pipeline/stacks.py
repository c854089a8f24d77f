"""Projection stacks, named by how far along the path they are.

Axes, frames and units: the table in `pipeline/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Contrast = Literal["scalar", "circular", "linear"]


@dataclass(frozen=True)
class PhaseStack:
    """Phase projections, air at zero, on the common pixel size, not aligned.

    Attributes
    ----------
    data : (n_proj, ny, nx) float32 [rad], matter negative.
    angles_deg : (n_proj,) float64 rotation about lab y [degree].
    pixel_size_m : float [m].
    energy_ev : float [eV].
    noise : float rms in air per pixel [rad].
    diagnostics : per-projection findings, each (n_proj,) (ramp, offset, air fraction, ...).
    """

    data: NDArray[np.float32]
    angles_deg: NDArray[np.float64]
    pixel_size_m: float
    energy_ev: float
    noise: float
    diagnostics: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class AlignedStack:
    """Phase projections with the shift removed and a rotation of its own for each.

    Attributes
    ----------
    data : (n_proj, ny, nx) float32 [rad].
    rotations : (n_proj, 3, 3) float64, sample to lab.
    pixel_size_m, energy_ev, noise : as in `PhaseStack`.
    valid : (n_proj, ny, nx) bool, pixels that were measured; None where all were. What `data` hold
        elsewhere means nothing.
    """

    data: NDArray[np.float32]
    rotations: NDArray[np.float64]
    pixel_size_m: float
    energy_ev: float
    noise: float
    valid: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class DifferencedStack:
    """What a reconstruction fits: projections, rotations and the weights of the components.

    Attributes
    ----------
    data : (n_proj, ny, nx) float32 [rad or optical density].
    rotations : (n_proj, 3, 3) float64, sample to lab.
    weights : (n_proj, n_components) float64; 1 scalar, 3 vector, 6 tensor (xx yy zz yz xz xy).
    contrast : which field the weights belong to.
    pixel_size_m : float [m].
    noise : float rms in air per pixel; 0 when unknown.
    valid : (n_proj, ny, nx) bool, as in `AlignedStack`: pixels that a reconstruction has to fit.
    point_spread_px : standard deviation of the projections' blur [pixel], which a reconstruction
        undoes.
    """

    data: NDArray[np.float32]
    rotations: NDArray[np.float64]
    weights: NDArray[np.float64]
    contrast: Contrast
    pixel_size_m: float
    noise: float
    valid: NDArray[np.bool_] | None = None
    point_spread_px: float = 0.0

    def subset(self, indices: NDArray[np.integer] | slice) -> DifferencedStack:
        """Stack of some of the projections.

        Parameters
        ----------
        indices : (k,) positions, or a slice.
        """
        return replace(
            self,
            data=self.data[indices],
            rotations=self.rotations[indices],
            weights=self.weights[indices],
            valid=None if self.valid is None else self.valid[indices],
        )
