"""Small turns of single projections: what they do to rotations and weights, and which are one.

A turn is a rotation vector in the lab frame [rad], `R = exp(turn) R_given`: about lab x and z the
sample pitches and rolls before the detector, about lab y it is the tomographic angle.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.errors import GeometryError
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import TENSOR_COMPONENTS

Turns = NDArray[np.float64]
"""(n, 3) rotation vectors [rad]."""


def turned_rotations(rotations: NDArray[np.float64], turns: Turns) -> NDArray[np.float64]:
    """`exp(turn) R` of every projection, (n, 3, 3) float64."""
    return np.asarray(Rotation.from_rotvec(turns).as_matrix() @ rotations)


def turned_stack(stack: DifferencedStack, turns: Turns) -> DifferencedStack:
    """The same projections on turned rotations, with the weights that belong to those."""
    rotations = turned_rotations(stack.rotations, turns)
    weights = turned_weights(stack.weights, stack.rotations, rotations)
    return replace(stack, rotations=rotations, weights=weights)


def turned_weights(
    weights: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights of the components after the rotations have changed, whatever their contrast.

    Weights are a scalar, a vector or a symmetric tensor that is fixed to the lab, written in the
    sample's frame: they turn with it, and nothing of the beam needs to be known again.

    Parameters
    ----------
    weights : (n, c) float64, c = 1, 3, 6, or 7 for a tensor and a scalar beside it.
    before, after : (n, 3, 3) float64, sample to lab.

    Raises
    ------
    GeometryError
        If there are other than 1, 3, 6 or 7 components.
    """
    # From the sample's frame as it was, by way of the lab, to the frame as it is.
    turn = np.einsum("mji,mjk->mik", after, before)
    match weights.shape[1]:
        case 1:
            return weights.copy()
        case 3:
            return np.einsum("mij,mj->mi", turn, weights)
        case 6 | 7:
            made = weights.copy()
            made[:, :6] = _turned_tensors(weights[:, :6], turn)
            return made
    raise GeometryError(
        f"turned_weights: expected 1, 3, 6 or 7 components, found {weights.shape[1]}"
    )


def _turned_tensors(weights: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    share = np.array([1.0 if i == j else 0.5 for i, j in TENSOR_COMPONENTS])
    matrices = np.empty((len(weights), 3, 3))
    for component, (i, j) in enumerate(TENSOR_COMPONENTS):
        matrices[:, i, j] = matrices[:, j, i] = share[component] * weights[:, component]
    matrices = turn @ matrices @ turn.transpose(0, 2, 1)
    return np.stack([matrices[:, i, j] for i, j in TENSOR_COMPONENTS], axis=1) / share


def composed(later: Turns, earlier: Turns) -> Turns:
    """One turn instead of two, `exp(later) exp(earlier)`."""
    made = Rotation.from_rotvec(later) * Rotation.from_rotvec(earlier)
    return np.asarray(made.as_rotvec(), dtype=np.float64)


def without_common_turn(turns: Turns, rotations: NDArray[np.float64]) -> Turns:
    """Turns less the one that all have in common, a turn of the sample in its own frame.

    Parameters
    ----------
    turns : (n, 3) in the lab frame [rad].
    rotations : (n, 3, 3) float64 that were turned, sample to lab.
    """
    made = turns
    # The mean of rotation vectors is the mean rotation for small ones; thrice is more than enough.
    for _ in range(3):
        common = np.einsum("mji,mj->mi", rotations, made).mean(axis=0)
        made = composed(made, -np.einsum("mij,j->mi", rotations, common))
    return made


def misorientation_rms_deg(
    found: NDArray[np.float64], true: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Error of rotations apart from a turn of the sample, which no data can tell.

    Parameters
    ----------
    found, true : (n, 3, 3) float64, sample to lab.

    Returns
    -------
    rms : root mean square angle [degree].
    left : (n, 3) rotation vectors in the lab frame [degree].
    """
    apart = Rotation.from_matrix(found @ np.transpose(true, (0, 2, 1))).as_rotvec()
    left = np.rad2deg(without_common_turn(apart, np.asarray(true, np.float64)))
    return float(np.sqrt(np.mean(np.sum(left**2, axis=1)))), left
