"""Vertical polarisation alone, as a check of the axes that were found.

Turning the sample about the vertical turns it about the electric field of vertically polarised
light, whose contrast `(E · a)²` then is the same in every projection of a mounting: those
projections are the ones of a scalar field, `f0 + f_lin a_y²` with `a_y` along the rotation axis.
Its tomogram is made without any of the assumptions of the tensor, and is compared with what the
axes predict (Apseros et al., doi 10.1038/s41586-024-08233-y, who validate in this way).

Light of a degree of polarisation `p` sees `(1 + p)/2 a_y² + (1 - p)/2 (E⊥ · a)²`, of which the
second part turns with the sample; its mean over the turn, `(1 - p)/4 (1 - a_y²)`, is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.io.product import Curve, Map, Product, Table
from pipeline.io.products import Figure
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import group_by_axis
from schemas.recipe import ScalarSettings

MARGIN_VOXELS = 2
"""Voxels nearer to the border of the dichroic material are left out: there the tomogram shows the
edge of `f0`, ten times as strong as the dichroism and blurred over as many voxels."""

FEWEST_VOXELS = 100
"""A fit to fewer voxels says nothing; the margin is given up first."""

BINS = 20
"""Bins of equal population of the curve."""


@dataclass(frozen=True)
class Vertical:
    """Agreement in one mounting.

    Attributes
    ----------
    axis : (3,) rotation axis, which is the direction of the electric field, in the sample frame.
    degree : of polarisation.
    measured : (z, y, x) float32 tomogram of vertical polarisation [data per voxel].
    predicted : (z, y, x) float32 from the axes, with the fitted `f0`; zero outside `mask`.
    mask : (z, y, x) bool, voxels that were compared.
    correlation : Pearson's, of measured and predicted dichroic part.
    slope : of measured against predicted dichroic part; one where the axes and their contrast are
        right.
    slope_error : standard deviation of it.
    f0 : mean isotropic part [data per voxel].
    """

    axis: NDArray[np.float64]
    degree: float
    measured: NDArray[np.float32]
    predicted: NDArray[np.float32]
    mask: NDArray[np.bool_]
    correlation: float
    slope: float
    slope_error: float
    f0: float


def vertical_projections(difference: DifferencedStack, mean: DifferencedStack) -> DifferencedStack:
    """Projections in vertical polarisation alone: the partners' mean less half their difference.

    Parameters
    ----------
    difference : LH less LV, matter positive.
    mean : half of their sum, projection by projection as `difference`.

    Raises
    ------
    InputError : the stacks do not belong together.
    """
    if difference.data.shape != mean.data.shape or difference.contrast != "linear":
        raise InputError(
            f"expected a linear stack and its mean of one shape, found {difference.data.shape} "
            f"and {mean.data.shape}"
        )
    return replace(mean, data=mean.data - np.float32(0.5) * difference.data)


def degree_of(difference: DifferencedStack) -> float:
    """Degree of polarisation that the weights `p (r_x r_xᵀ - r_y r_yᵀ)` hold, of norm `p √2`."""
    diagonal, across = difference.weights[:, :3], 0.5 * difference.weights[:, 3:6]
    size = np.sqrt(np.sum(diagonal**2, axis=1) + 2.0 * np.sum(across**2, axis=1))
    return float(np.clip(np.median(size) / np.sqrt(2.0), 0.0, 1.0))


def compare_vertical(
    difference: DifferencedStack,
    mean: DifferencedStack,
    axis: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    sign: int,
    mask: NDArray[np.bool_],
    labels: NDArray[np.integer] | None = None,
    progress: ProgressCallback = silent,
) -> Vertical:
    """Compare the tomogram of vertical polarisation with what the axes predict.

    Parameters
    ----------
    difference, mean : partners of one mounting.
    axis, magnitude, sign : reconstructed axes (3, z, y, x), `|f|` (z, y, x), and sign of `f`.
    mask : (z, y, x) bool, voxels that carry an orientation.
    labels : (z, y, x) materials, each with an `f0` of its own; one material when absent.
    progress : told by the reconstruction.

    Raises
    ------
    InputError : no voxel carries an orientation.
    """
    if not mask.any():
        raise InputError("no voxel carries an orientation that could be compared")
    stack = vertical_projections(difference, mean)
    method = "fbp" if len(group_by_axis(stack.rotations)) == 1 else "resire"
    settings = ScalarSettings(method=method, positivity=False)
    measured = reconstruct_scalar(
        stack, None, settings, volume_shape=mask.shape, progress=progress
    ).volume
    along = stack.rotations[:, 1].mean(axis=0)
    along /= np.linalg.norm(along)
    degree = degree_of(difference)
    square = np.einsum("c,czyx->zyx", along, axis.astype(np.float64)) ** 2
    seen = 0.5 * (1.0 + degree) * square + 0.25 * (1.0 - degree) * (1.0 - square)
    dichroic = sign * magnitude * seen
    inside = _interior(mask)
    kinds = np.zeros(mask.shape, np.int64) if labels is None else labels.astype(np.int64)
    x, y, f0 = dichroic[inside], measured[inside].astype(np.float64), np.zeros(mask.shape)
    names, which = np.unique(kinds[inside], return_inverse=True)
    count = np.bincount(which)
    centre = [np.bincount(which, values) / count for values in (x, y)]
    dx, dy = x - centre[0][which], y - centre[1][which]
    slope = float(dx @ dy / max(float(dx @ dx), 1e-300))
    rest = dy - slope * dx
    error = float(np.sqrt(rest @ rest / max(len(x) - len(names) - 1, 1) / max(dx @ dx, 1e-300)))
    both = float(np.sqrt((dx @ dx) * (dy @ dy)))
    for index, name in enumerate(names):
        f0[inside & (kinds == name)] = centre[1][index] - centre[0][index]
    return Vertical(
        axis=along,
        degree=degree,
        measured=measured,
        predicted=np.where(inside, f0 + dichroic, 0.0).astype(np.float32),
        mask=inside,
        correlation=float(dx @ dy) / both if both > 0.0 else 0.0,
        slope=slope,
        slope_error=error,
        f0=float(f0[inside].mean()),
    )


def _interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = ndimage.binary_erosion(mask, iterations=MARGIN_VOXELS)
    return np.asarray(inner if inner.sum() >= FEWEST_VOXELS else mask)


def empty_vertical_product() -> Product:
    """The product where no voxel carries an orientation."""
    return Product(
        name="vertical_polarisation",
        title="Vertical polarisation alone",
        summary="The tomogram of vertical polarisation was to be compared with the axes.",
        notes=("No voxel carries an orientation, so that there is nothing to compare.",),
    )


def vertical_product(
    found: Sequence[Vertical], pixel_size_m: float, unit: str = "rad/voxel"
) -> Product:
    """The comparison for the report: maps and curve of the first mounting, a row for each.

    Parameters
    ----------
    found : of each mounting, the reference first.
    pixel_size_m : edge of a voxel [m].
    unit : of the tomogram.
    """
    first = found[0]
    measured = np.where(first.mask, first.measured, np.float32(0.0))
    rest = np.where(first.mask, first.measured - first.predicted, np.float32(0.0))
    slopes = np.array([item.slope for item in found])
    # The scatter of the mountings holds what the error of one fit does not: blur and artefacts.
    scatter = float(slopes.std(ddof=1)) if len(slopes) > 1 else 0.0
    error = max(scatter, *(item.slope_error for item in found))
    return Product(
        name="vertical_polarisation",
        title="Vertical polarisation alone",
        summary=(
            "Under vertical polarisation a mounting shows the scalar field f0 + f_lin a_y², with "
            "a_y the part of the crystal axis along the rotation axis. Its tomogram, made of those "
            "projections alone and without a tensor, is compared with what the axes predict."
        ),
        maps={
            "measured": Map(
                measured, unit, "scalar", pixel_size_m, "Tomogram of vertical polarisation"
            ),
            "predicted": Map(
                first.predicted, unit, "scalar", pixel_size_m, "Predicted by the axes"
            ),
            "difference": Map(rest, unit, "scalar", pixel_size_m, "Measured less predicted"),
        },
        tables={
            "mountings": Table(
                {
                    "axis": np.array([item.axis for item in found]),
                    "degree_of_polarisation": np.array([item.degree for item in found]),
                    "correlation": np.array([item.correlation for item in found]),
                    "slope": slopes,
                    "slope_error": np.array([item.slope_error for item in found]),
                    "f0": np.array([item.f0 for item in found]),
                    "voxels": np.array([int(item.mask.sum()) for item in found]),
                },
                {"f0": unit, "voxels": "voxel"},
                "Mountings, by their rotation axis in the sample frame",
            )
        },
        curves={"agreement": _curve(first, unit)},
        figures={
            "vertical_polarisation_correlation": Figure(
                float(np.mean([item.correlation for item in found])),
                "",
                description="tomogram of vertical polarisation with what the axes predict; mean "
                "of the mountings",
            ),
            "vertical_polarisation_slope": Figure(
                float(slopes.mean()),
                "",
                error,
                "measured over predicted dichroism in vertical polarisation, mean and scatter of "
                "the mountings; one is expected",
            ),
        },
    )


def _curve(item: Vertical, unit: str) -> Curve:
    """Mean of the tomogram in bins of what is predicted."""
    x, y = item.predicted[item.mask], item.measured[item.mask]
    parts = [part for part in np.array_split(np.argsort(x, kind="stable"), BINS) if len(part)]
    middle = np.array([x[part].mean(dtype=np.float64) for part in parts])
    mean = np.array([y[part].mean(dtype=np.float64) for part in parts])
    return Curve(
        middle,
        {"measured": mean, "if the axes are right": middle},
        f"predicted by the axes [{unit}]",
        f"tomogram [{unit}]",
        "Tomogram of vertical polarisation against what the axes predict, mean over voxels",
    )
