"""What a projection measures: weights of the field's components for each contrast.

With `r_x, r_y, r_z` the rows of a rotation, `P_m(x, y) = ∫ Σ_c w_mc X_c dz`; frames and
contrasts: the tables in `pipeline/__init__.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import GeometryError
from pipeline.stacks import Contrast
from pipeline.tomography.geometry import check_rotations

TENSOR_COMPONENTS: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Index pairs of the six components xx, yy, zz, yz, xz, xy."""


def scalar_weights(n_projections: int) -> NDArray[np.float64]:
    """Weights of a scalar field: (n, 1) float64 ones."""
    return np.ones((n_projections, 1))


def circular_weights(
    rotations: ArrayLike, helicity: int = 1, degree: float = 1.0
) -> NDArray[np.float64]:
    """Weights of the magnetisation under circular polarisation, `helicity * degree * r_z`.

    Parameters
    ----------
    rotations : (n, 3, 3) sample to lab.
    helicity : +1 or -1; half the difference of both helicities has the weights of +1.
    degree : degree of circular polarisation, 0 to 1.

    Returns
    -------
    (n, 3) float64, components x, y, z of the sample frame.

    Raises
    ------
    GeometryError
        If the rotations, the helicity or the degree are none.

    Notes
    -----
    Pham et al., doi 10.1038/s41598-024-59140-1.
    """
    matrices = check_rotations(rotations, "circular_weights")
    if helicity not in {-1, 1}:
        raise GeometryError(f"circular_weights: expected helicity -1 or 1, found {helicity}")
    return helicity * _checked_degree(degree, "circular_weights") * matrices[:, 2, :]


def linear_weights(
    rotations: ArrayLike, angle_deg: float, degree: float = 1.0
) -> NDArray[np.float64]:
    """Weights of the dichroic tensor under linear polarisation, `E_i E_j`.

    Parameters
    ----------
    rotations : (n, 3, 3) sample to lab.
    angle_deg : direction of the polarisation from lab x towards lab y [degree].
    degree : degree of linear polarisation p, 0 to 1; the light is a mixture of `(1 + p) / 2`
        along the angle and `(1 - p) / 2` across it.

    Returns
    -------
    (n, 6) float64, components xx, yy, zz, yz, xz, xy; off-diagonal ones stand for both.

    Raises
    ------
    GeometryError
        If the rotations or the degree are none.

    Notes
    -----
    Apseros et al., doi 10.1038/s41586-024-08233-y, for the contrast `(E · a)^2`.
    """
    matrices = check_rotations(rotations, "linear_weights")
    p = _checked_degree(degree, "linear_weights")
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along = c * matrices[:, 0] + s * matrices[:, 1]
    across = -s * matrices[:, 0] + c * matrices[:, 1]
    return 0.5 * (1.0 + p) * _outer(along) + 0.5 * (1.0 - p) * _outer(across)


def polarised_weights(
    rotations: ArrayLike, angle_deg: float, degree: float = 1.0
) -> NDArray[np.float64]:
    """Weights of the dichroic tensor and of the isotropic part under one linear polarisation.

    Light of any linear polarisation sees `f0 + f_lin (E · a)²`: the trace of the tensor is not to
    be told from `f0`. So the tensor's weights are made traceless, `E_i E_j - δ_ij / 3`, and the
    seventh component is the mean over all directions, `f0 + tr T / 3`, with weight one.

    Parameters
    ----------
    rotations, angle_deg, degree : as in `linear_weights`.

    Returns
    -------
    (n, 7) float64, components xx, yy, zz, yz, xz, xy, isotropic.

    Raises
    ------
    GeometryError
        If the rotations or the degree are none.
    """
    weights = linear_weights(rotations, angle_deg, degree)
    weights[:, :3] -= 1.0 / 3.0
    return np.concatenate([weights, np.ones((len(weights), 1))], axis=1)


def linear_difference_weights(rotations: ArrayLike, degree: float = 1.0) -> NDArray[np.float64]:
    """Weights of horizontal minus vertical polarisation, `degree * (r_x r_x^T - r_y r_y^T)`.

    Traceless: the trace of the tensor is not seen.

    Parameters
    ----------
    rotations : (n, 3, 3) sample to lab.
    degree : degree of linear polarisation, 0 to 1.

    Returns
    -------
    (n, 6) float64, components xx, yy, zz, yz, xz, xy; off-diagonal ones stand for both.

    Raises
    ------
    GeometryError
        If the rotations or the degree are none.
    """
    matrices = check_rotations(rotations, "linear_difference_weights")
    p = _checked_degree(degree, "linear_difference_weights")
    return p * (_outer(matrices[:, 0]) - _outer(matrices[:, 1]))


def contrast_weights(
    contrast: Contrast, rotations: NDArray[np.float64], degree: float
) -> NDArray[np.float64]:
    """Weights (n, c) of the field's components in a differenced stack of this contrast.

    Parameters
    ----------
    contrast : of the stack.
    rotations : (n, 3, 3) sample to lab.
    degree : degree of polarisation, 0 to 1; not used by `scalar`.
    """
    if contrast == "scalar":
        return scalar_weights(len(rotations))
    if contrast == "circular":
        return circular_weights(rotations, 1, degree)
    return linear_difference_weights(rotations, degree)


def _outer(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = [
        (1.0 if i == j else 2.0) * vectors[:, i] * vectors[:, j] for i, j in TENSOR_COMPONENTS
    ]
    return np.stack(columns, axis=1)


def _checked_degree(degree: float, name: str) -> float:
    if not 0.0 <= degree <= 1.0:
        raise GeometryError(f"{name}: expected a degree of polarisation in 0..1, found {degree}")
    return degree
