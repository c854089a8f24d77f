"""The joint round: every projection registered to a model that contains the dichroism.

Within a series, grains that brighten and darken as they turn pull at the frames a little. Once the
directions are known, the model can brighten and darken with them, and the pull is gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.align.canvas import MARGIN, for_each
from pipeline.align.consistency import match_frame
from pipeline.errors import GeometryError
from pipeline.preprocess.resample import fourier_shift
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.tomography.contrast import linear_weights
from pipeline.tomography.projector import Projector

MOST_STEPS = 6
"""Gauss-Newton steps for a frame; three suffice from within a pixel."""

CLOSE_PX = 1e-3
"""A step below this ends the fit of a frame [pixel]."""


def dichroic_projections(
    volume: NDArray[np.float32],
    tensor: NDArray[np.float32],
    rotations: NDArray[np.float64],
    image_shape: tuple[int, int],
    angle_deg: float,
    degree: float = 1.0,
) -> NDArray[np.float32]:
    """What one linear polarisation sees of a scalar field and a dichroic tensor together.

    Parameters
    ----------
    volume : (z, y, x) float32 scalar field of the mean of the polarisations, matter positive
        [rad/voxel].
    tensor : (6, z, y, x) float32, xx yy zz yz xz xy [rad/voxel]; its trace is the volume's part.
    rotations : (n, 3, 3) float64, sample to lab.
    image_shape : (ny, nx) of a projection.
    angle_deg, degree : of the polarisation.

    Returns
    -------
    (n, ny, nx) float32 negative phase [rad], matter positive.

    Raises
    ------
    GeometryError
        If the shapes do not belong together.
    """
    if tensor.shape != (6, *volume.shape):
        raise GeometryError(
            f"dichroic_projections: expected a tensor {(6, *volume.shape)}, found {tensor.shape}"
        )
    weights = np.column_stack(
        [np.ones(len(rotations)), linear_weights(rotations, angle_deg, degree)]
    )
    projector = Projector(volume.shape, image_shape, rotations, weights)
    trace = tensor[:3].mean(axis=0)
    traceless = tensor.copy()
    traceless[:3] -= trace
    return projector.forward(np.concatenate([volume[None], traceless]))


def align_to_model(
    stack: NDArray[np.float32],
    model: NDArray[np.float32],
    progress: ProgressCallback = silent,
    *,
    stage: str = "joint alignment",
) -> NDArray[np.float64]:
    """Shifts that put every projection onto the reprojection of a model.

    Parameters
    ----------
    stack : (n, ny, nx) float32 projections, where earlier rounds put them; of the sign of `model`.
    model : (n, ny, nx) float32 reprojections, as of `dichroic_projections`.
    progress : told after every projection.
    stage : name under which progress is told.

    Returns
    -------
    (n, 2) float64 `(dy, dx)` [pixel] to add to the shifts so far.

    Raises
    ------
    GeometryError
        If the two are not of one shape.

    Notes
    -----
    Offset and slope of the phase are fitted along. A model made from the stack itself follows part
    of each frame's error, so that a second round, after a new reconstruction, gains a little more.
    """
    if stack.shape != model.shape or stack.ndim != 3:
        raise GeometryError(
            f"align_to_model: expected stacks (n, ny, nx) of one shape, found {stack.shape} and "
            f"{model.shape}"
        )
    shifts = np.zeros((len(stack), 2))

    def one(index: int) -> None:
        shifts[index] = _onto(stack[index], model[index])

    for_each(len(stack), one)
    progress(Progress(stage, len(stack), len(stack), float(np.abs(shifts).max(initial=0.0))))
    return shifts


def _onto(frame: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shift of one frame onto its image."""
    shift = np.zeros(2)
    for _ in range(MOST_STEPS):
        moved = fourier_shift(frame, float(shift[0]), float(shift[1]))
        part = tuple(
            slice(MARGIN + max(0, int(np.ceil(d))), n - MARGIN + min(0, int(np.floor(d))))
            for d, n in zip(shift, frame.shape, strict=True)
        )
        rest, lever = moved - image, 0.25 * sum(image.shape)
        step = match_frame(rest, image, (part[0], part[1]), lever)[:2]
        shift = shift + step
        if np.abs(step).max() < CLOSE_PX:
            break
    return shift
